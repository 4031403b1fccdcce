"""Training: configuration, the loop, checkpoints, runs, tracking."""
