"""The run: configuration, strategy, checkpoints and report."""
