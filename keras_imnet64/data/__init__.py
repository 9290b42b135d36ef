"""Data sets, from their sources to the batches of a step."""
