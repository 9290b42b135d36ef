"""Weights of other libraries: recognized, read, matched by name and converted."""
