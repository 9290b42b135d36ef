"""Shrinks whole batches of square images by averaging areas, for epochs of a smaller size.

A pixel of the result is the mean of the area that it covers, in which a pixel that is covered in
part counts by its share: 64 to 32 pixels takes means of 2 x 2, 64 to 48 weighs the pixels of each
axis by 3/4 and 1/4, 1/2 and 1/2, 1/4 and 3/4. The mean is exact, in integers, and rounded once, to
the nearest grey level, halves upward.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from keras_imnet64.core.types import Tensor


def shrink(images: Tensor, size: int) -> Tensor:
    """Returns images uint8 [B, size, size, 3] of images uint8 [B, S, S, 3]; works in a graph.

    Args:
        size: pixels per side, from S / 1024 to S, which is at most 1024; S returns the images.
    """
    if images.shape[1] == size:
        return images
    import tensorflow as tf  # the rest of this file is needed where TensorFlow is not

    shrunk = tf.numpy_function(lambda pixels: shrink_arrays(pixels, size), [images], tf.uint8)
    return tf.ensure_shape(shrunk, (images.shape[0], size, size, 3))


def shrink_arrays(images: np.ndarray, size: int) -> np.ndarray:
    """Does the same with arrays; runs without Python's global lock."""
    shrunk: np.ndarray = _machine_code()(
        np.ascontiguousarray(images), *parts_of_axis(images.shape[1], size)
    )
    return shrunk


def shrink_mean(mean: np.ndarray, size: int) -> np.ndarray:
    """Returns the same means of an image of real numbers, without rounding.

    Args:
        mean: floats [S, S, 3].
    """
    first, weight = parts_of_axis(len(mean), size)
    matrix = np.zeros((size, len(mean)))
    for row, begin in enumerate(first):
        covered = weight[row][weight[row] > 0]
        matrix[row, begin : begin + len(covered)] = covered / weight[row].sum()
    shrunk: np.ndarray = np.einsum("yh,xw,hwc->yxc", matrix, matrix, mean)
    return shrunk


@lru_cache
def parts_of_axis(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pixels of an axis a new pixel covers, and how much of each.

    Returns:
        (first int64 [size_out], weight uint32 [size_out, K]): the new pixel covers `weight` of the
        pixels from `first` on, in units of which each row has the same whole number; those after
        the last covered one are 0.
    """
    divisor = math.gcd(size_in, size_out)
    width, step = size_in // divisor, size_out // divisor  # of a new and an old pixel, in units
    begin = np.arange(size_out) * width
    first = begin // step
    longest = int((-(-(begin + width) // step) - first).max())
    edges = (first[:, None] + np.arange(longest + 1)) * step
    inside = np.clip(edges, begin[:, None], begin[:, None] + width)
    return first, np.diff(inside, axis=1).astype(np.uint32)


@lru_cache
def _machine_code() -> Callable[..., np.ndarray]:
    """Returns `_shrink`, compiled; Numba is loaded only where images are shrunk."""
    from keras_imnet64.data.images.compiled import compiled

    return compiled(_shrink)


def _shrink(images: np.ndarray, first: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """uint8 [B, S, S, 3] -> uint8 [B, s, s, 3]."""
    num_images, size_in = images.shape[:2]
    size, num_parts = weight.shape
    total = np.uint32(weight[0].sum() ** 2)
    rows = images.reshape(num_images, size_in, 3 * size_in)
    shrunk = np.empty((num_images, size, size, 3), np.uint8)
    sums = np.empty(3 * size_in, np.uint32)
    for number in range(num_images):
        for y in range(size):
            sums[:] = 0
            for part in range(num_parts):
                factor = weight[y, part]
                if factor:
                    row = rows[number, first[y] + part]
                    for column in range(3 * size_in):
                        sums[column] += factor * np.uint32(row[column])
            for x in range(size):
                red, green, blue = np.uint32(total), np.uint32(total), np.uint32(total)
                for part in range(num_parts):
                    factor = np.uint32(2) * weight[x, part]
                    if factor:
                        column = 3 * (first[x] + part)
                        red += factor * sums[column]
                        green += factor * sums[column + 1]
                        blue += factor * sums[column + 2]
                shrunk[number, y, x, 0] = red // (np.uint32(2) * total)
                shrunk[number, y, x, 1] = green // (np.uint32(2) * total)
                shrunk[number, y, x, 2] = blue // (np.uint32(2) * total)
    return shrunk
