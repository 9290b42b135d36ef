"""Compiles loops over pixels to machine code, where TensorFlow has no fast operation.

Numba compiles a function at its first call, which takes about a second. The function then runs
without Python's global lock, so that threads compute several batches at the same time.
"""

from numba import njit

compiled = njit(nogil=True)
