"""Spectral ensembles: a sub-network for each band of the image, trained apart, joined afterwards.

`training` trains the branches, each in a process and a run folder of its own that know nothing of
each other; `ensemble` joins the trained networks into one model, and `report` shows what each of
them is worth in it. `models.spectral` defines the bands and builds the network behind a band.
"""
