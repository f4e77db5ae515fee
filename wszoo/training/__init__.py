"""One training loop, its checkpoints, and randomness that can be resumed."""
