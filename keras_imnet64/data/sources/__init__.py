"""Sources of data sets: one module reads each kind of source."""
