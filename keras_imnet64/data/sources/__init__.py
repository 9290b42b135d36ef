"""Where images come from: one module per kind of source, each yielding batches for the store."""
