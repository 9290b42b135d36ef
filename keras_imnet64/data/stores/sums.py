"""Sums over the pixels of one image, exact and in one pass."""

import numpy as np
from numba import njit, types

PIXELS = types.Array(types.uint8, 3, "C", readonly=True)


@njit(types.int64[:, ::1](PIXELS), nogil=True)
def channel_sums(pixels: np.ndarray) -> np.ndarray:
    """Returns the sum of each channel, then of its squares: uint8 [h, w, 3] -> int64 [2, 3]."""
    sums = np.zeros((2, 3), np.int64)
    for row in pixels:
        for x in range(len(row)):
            for channel in range(3):
                value = np.int64(row[x, channel])
                sums[0, channel] += value
                sums[1, channel] += value * value
    return sums
