"""Loops over pixels as machine code: what TensorFlow has no fast operation for.

Numba compiles a function at its first call, which takes about a second; it then runs without
Python's lock, so that several batches are made at a time.
"""

from numba import njit

compiled = njit(nogil=True)
