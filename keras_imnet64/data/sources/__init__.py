"""Reads data sets from where they come: one module for each kind of source."""
