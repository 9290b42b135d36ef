"""Spectral ensembles: a sub-network for each band of the image, trained apart, joined afterwards.

`branches` trains them, each in a process and a run folder of its own, with no word between them;
`ensemble` joins what they became into one model, `report` says what each is worth in it. What a
band is, and a network behind one, is the business of `models.spectral`.
"""
