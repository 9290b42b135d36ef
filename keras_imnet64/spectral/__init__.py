"""Spectral ensembles: a sub-network for each band of the image, trained separately, then joined.

`training` trains the branches with the package `jobs`, each in its own process and run folder;
`ensemble` joins the trained networks into one model, and `report` shows how much each contributes.
`models.spectral` defines the bands and builds the network behind a band.
"""
