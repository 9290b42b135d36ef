"""Chooses the backend and its devices, and checks settings that change numbers."""
