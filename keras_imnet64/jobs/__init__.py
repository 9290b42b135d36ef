"""Trains several runs, each in a child process with its share of the machine.

`preflight` checks before training that the runs can be trained, `shares` splits the GPUs or the
cores, and `running` starts the processes, follows them, and reports which have failed. With
`claims` and `sharing`, processes on several machines share out the runs of a folder. The branches
of a spectral ensemble and the cells of a sweep are such runs.
"""
