"""Stores: a store is one split of a data set on disk, raw (arrays) or encoded (indexed files)."""
