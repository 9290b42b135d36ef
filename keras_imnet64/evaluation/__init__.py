"""Scores and predictions of model files."""
