"""Resizes uint8 images one by one, bit for bit as Pillow 13 does, in less than half of its time.

As in Pillow, columns are weighed and then rows, in integers that are rounded and clipped to 0..255
after each; where the height shrinks by far more than the width, rows come first. The order shows:
beside edges, where bicubic and lanczos weights leave 0..255, by tens of grey levels. Pillow before
13 always begins with columns. torchvision gives these pixels of Pillow's images; of tensors its own
arithmetic gives others, by up to 2 grey levels (bilinear) or 24 (bicubic) in tests.

Whole lines are weighed at a time, so that the compiler (Numba) can use the processor's vectors: for
the columns the image is turned on its side, and back. Whoever imports this module waits a second
or two for the compiler.
"""

from functools import lru_cache

import numpy as np
from numba import njit, types

from keras_imnet64.data.images.compiled import compiled
from keras_imnet64.data.images.filters import FILTERS

LINES = types.Array(types.uint8, 2, "C", readonly=True)
AXIS = types.Tuple((types.int64[::1], types.int64[::1], types.int32[:, ::1]))
BITS = 22  # of a weight's fraction, as in Pillow
HALF = 1 << (BITS - 1)
BLOCK = 16  # rows that are turned at a time: as many pixels as a cache line holds
KEPT = 1024  # tables of weights, 5 kB each for ImageNet, up to 100 kB for large photographs


def resize(pixels, size, interpolation, mirrored=False):
    """One image at another size; runs without Python's lock.

    Args:
        pixels: uint8 [h, w, 3], of any strides.
        size: (height, width) of the result.
        interpolation: a key of `filters.FILTERS`; smaller images are antialiased.
        mirrored: whether the left of the result is to be its right.

    Returns:
        uint8 [height, width, 3].
    """
    rows, columns = (
        weights(*sides, interpolation) for sides in zip(pixels.shape[:2], size, strict=True)
    )
    if mirrored:
        columns = tuple(np.ascontiguousarray(table[::-1]) for table in columns)
    lines = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    return _resized(lines, rows, columns, rows_come_first(pixels.shape, size))


def rows_come_first(size_in, size_out):
    """Whether Pillow 13 weighs rows before columns, between sizes of (height, width)."""
    removed_rows, removed_columns = (size_in[axis] - size_out[axis] for axis in range(2))
    return removed_rows > max(0, 2 * removed_columns)


@lru_cache(KEPT)
def weights(size_in, size_out, interpolation):
    """What the pixels of one axis are made of.

    Returns:
        (first int64 [size_out], count int64 [size_out], weight int32 [size_out, K]): a pixel is
        made of `count` old ones from `first` on; weights are in units of 1 / 2^BITS.
    """
    reach, weight = FILTERS[interpolation]
    factor = size_in / size_out
    wide = max(factor, 1.0)
    centres = (np.arange(size_out) + 0.5) * factor
    first = np.maximum((centres - reach * wide + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach * wide + 0.5).astype(np.int64), size_in)
    places = first[:, None] + np.arange((end - first).max())
    values = weight((places - centres[:, None] + 0.5) * (1.0 / wide), np)
    values = np.where(places < end[:, None], values, 0.0)
    values /= np.cumsum(values, axis=1)[:, -1:]  # one after the other, as Pillow adds them
    fixed = np.trunc(values * (1 << BITS) + np.copysign(0.5, values)).astype(np.int32)
    return first, end - first, fixed


@compiled
def _weighed(lines, axis):
    """uint8 [N, L] -> uint8 [M, L]: each line the weighed sum of some."""
    firsts, counts, weights = axis
    length = lines.shape[1]
    total = np.empty(length, np.int32)
    weighed = np.empty((len(firsts), length), np.uint8)
    for number in range(len(firsts)):
        total[:] = HALF
        for step in range(counts[number]):
            line, weight = lines[firsts[number] + step], weights[number, step]
            for place in range(length):
                total[place] += weight * np.int32(line[place])
        for place in range(length):
            weighed[number, place] = min(max(total[place] >> BITS, 0), 255)
    return weighed


@compiled
def _on_its_side(lines):
    """uint8 [h, 3 w], rows of pixels -> uint8 [w, 4 h], columns of pixels of four bytes."""
    height, width = len(lines), lines.shape[1] // 3
    turned = np.empty((width, height), np.uint32)
    for begin in range(0, height, BLOCK):
        for x in range(width):
            for y in range(begin, min(begin + BLOCK, height)):
                red, green, blue = lines[y, 3 * x], lines[y, 3 * x + 1], lines[y, 3 * x + 2]
                turned[x, y] = np.uint32(red) | np.uint32(green) << 8 | np.uint32(blue) << 16
    return turned.view(np.uint8)


@compiled
def _turned_back(lines):
    """uint8 [w, 4 h], columns of pixels of four bytes -> uint8 [h, w, 3]."""
    width, height = len(lines), lines.shape[1] // 4
    turned = np.empty((height, width, 3), np.uint8)
    for begin in range(0, width, BLOCK):
        for y in range(height):
            for x in range(begin, min(begin + BLOCK, width)):
                for channel in range(3):
                    turned[y, x, channel] = lines[x, 4 * y + channel]
    return turned


@njit(types.uint8[:, :, ::1](LINES, AXIS, AXIS, types.boolean), nogil=True)
def _resized(lines, rows, columns, rows_first):
    if rows_first:
        return _turned_back(_weighed(_on_its_side(_weighed(lines, rows)), columns))
    narrowed = _turned_back(_weighed(_on_its_side(lines), columns))
    height, width, channels = narrowed.shape
    weighed = _weighed(narrowed.reshape(height, width * channels), rows)
    return weighed.reshape(len(weighed), width, channels)
