"""One run: rounds, scores, checkpoints, its record."""
