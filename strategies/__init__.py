"""The method: merging, penalty, and the Flower strategy that runs them."""
