"""Data sets: their sources, their stores, and the batches of a training step."""
