"""Programs over whole data sets: downsampling and cleaning."""
