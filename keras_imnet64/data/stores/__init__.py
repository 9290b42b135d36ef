"""Stores: one split of a data set on disk, raw (arrays) or encoded (an index of files)."""
