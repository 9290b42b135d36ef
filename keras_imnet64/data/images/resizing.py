"""Resizes uint8 images one by one, bit for bit as Pillow 13 does, in less than half the time.

As in Pillow, the width is resized and then the height, in integers that are rounded and clipped to
0..255 after each step; if the height shrinks by far more than the width, it comes first. The order
changes pixels by tens of grey levels beside edges, where bicubic and lanczos filters leave 0..255.
Pillow before 13 always begins with the width. torchvision gives these pixels for Pillow's images;
for tensors its own arithmetic differs by up to 2 grey levels (bilinear) or 24 (bicubic) in tests.

The loops add whole rows of memory, so that the compiler (Numba) can use vector instructions: to
resize the width, the image is transposed, and transposed back. Importing this module takes a second
or two, since it compiles.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numba import njit, types

from keras_imnet64.data.images.compiled import compiled
from keras_imnet64.data.images.filters import FILTERS

ROWS = types.Array(types.uint8, 2, "C", readonly=True)
INTEGERS = types.int64[::1]
TABLES = types.Tuple((INTEGERS, INTEGERS, types.int32[:, ::1]))  # type: ignore[no-untyped-call]  # numba
Tables: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # see `weights`
FRACTION_BITS = 22  # of a weight, as in Pillow
HALF = 1 << (FRACTION_BITS - 1)
BLOCK = 16  # rows that are transposed together: the pixels of a cache line
CACHED_TABLES = 1024  # 5 kB each for ImageNet, up to 100 kB for large photographs


def resize(
    pixels: np.ndarray, size: tuple[int, int], interpolation: str, mirrored: bool = False
) -> np.ndarray:
    """Returns a resized image; runs without Python's global lock.

    Args:
        pixels: uint8 [h, w, 3], of any strides.
        size: (height, width) of the result.
        interpolation: a key of `filters.FILTERS`; a smaller result is antialiased.
        mirrored: whether to exchange left and right.

    Returns:
        uint8 [height, width, 3].
    """
    height, width, _ = pixels.shape
    vertical = weights(height, size[0], interpolation)
    first, count, weight = weights(width, size[1], interpolation)
    if mirrored:
        first, count, weight = (np.ascontiguousarray(x[::-1]) for x in (first, count, weight))
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    is_vertical_first = height_comes_first((height, width), size)
    return _resize(rows, vertical, (first, count, weight), is_vertical_first)


def height_comes_first(size_in: tuple[int, int], size_out: tuple[int, int]) -> bool:
    """Returns whether Pillow 13 resizes the height first; sizes are (height, width)."""
    removed_rows, removed_columns = (size_in[axis] - size_out[axis] for axis in range(2))
    return removed_rows > max(0, 2 * removed_columns)


@lru_cache(CACHED_TABLES)
def weights(size_in: int, size_out: int, interpolation: str) -> Tables:
    """Returns the pixels of one axis that make up each pixel of the result, and their weights.

    Returns:
        (first int64 [size_out], count int64 [size_out], weight int32 [size_out, K]): a new pixel
        is the weighted sum of `count` old ones from `first` on; weights are in units of
        1 / 2^FRACTION_BITS.
    """
    support, weight = FILTERS[interpolation]
    factor = size_in / size_out
    scale = max(factor, 1.0)
    centres = (np.arange(size_out) + 0.5) * factor
    first = np.maximum((centres - support * scale + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + support * scale + 0.5).astype(np.int64), size_in)
    positions = first[:, None] + np.arange((end - first).max())
    values = weight((positions - centres[:, None] + 0.5) * (1.0 / scale), np)
    values = np.where(positions < end[:, None], values, 0.0)
    values /= np.cumsum(values, axis=1)[:, -1:]  # sums in Pillow's order
    fixed = np.trunc(values * (1 << FRACTION_BITS) + np.copysign(0.5, values)).astype(np.int32)
    return first, end - first, fixed


@compiled
def _resize_height(rows: np.ndarray, tables: Tables) -> np.ndarray:
    """uint8 [N, L] -> uint8 [M, L]: each row is a weighted sum of rows."""
    firsts, counts, weights = tables
    length = rows.shape[1]
    total = np.empty(length, np.int32)
    resized = np.empty((len(firsts), length), np.uint8)
    for number in range(len(firsts)):
        total[:] = HALF
        for step in range(counts[number]):
            row, weight = rows[firsts[number] + step], weights[number, step]
            for column in range(length):
                total[column] += weight * np.int32(row[column])
        for column in range(length):
            resized[number, column] = min(max(total[column] >> FRACTION_BITS, 0), 255)
    return resized


@compiled
def _transpose(rows: np.ndarray) -> np.ndarray:
    """uint8 [h, 3 w], rows of pixels -> uint8 [w, 4 h], columns of pixels of four bytes."""
    height, width = len(rows), rows.shape[1] // 3
    columns = np.empty((width, height), np.uint32)
    for begin in range(0, height, BLOCK):
        for x in range(width):
            for y in range(begin, min(begin + BLOCK, height)):
                red, green, blue = rows[y, 3 * x], rows[y, 3 * x + 1], rows[y, 3 * x + 2]
                columns[x, y] = np.uint32(red) | np.uint32(green) << 8 | np.uint32(blue) << 16
    return columns.view(np.uint8)


@compiled
def _transpose_back(columns: np.ndarray) -> np.ndarray:
    """uint8 [w, 4 h], columns of pixels of four bytes -> uint8 [h, w, 3]."""
    width, height = len(columns), columns.shape[1] // 4
    pixels = np.empty((height, width, 3), np.uint8)
    for begin in range(0, width, BLOCK):
        for y in range(height):
            for x in range(begin, min(begin + BLOCK, width)):
                for channel in range(3):
                    pixels[y, x, channel] = columns[x, 4 * y + channel]
    return pixels


@njit(types.uint8[:, :, ::1](ROWS, TABLES, TABLES, types.boolean), nogil=True)
def _resize(
    rows: np.ndarray, vertical: Tables, horizontal: Tables, is_vertical_first: bool
) -> np.ndarray:
    """uint8 [h, 3 w] -> uint8 [H, W, 3]."""
    if is_vertical_first:
        rows = _resize_height(rows, vertical)
        return _transpose_back(_resize_height(_transpose(rows), horizontal))
    narrowed = _transpose_back(_resize_height(_transpose(rows), horizontal))
    height, width, channels = narrowed.shape
    resized = _resize_height(narrowed.reshape(height, width * channels), vertical)
    return resized.reshape(len(resized), width, channels)
