"""One run: its configuration, strategy, checkpoints and summary."""
