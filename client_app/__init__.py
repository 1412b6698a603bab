"""One site: its data, local training and evaluation."""
