"""Means and standard deviations of stored images, from the exact integer sums in `moments.npz`.

`packing` calls `add_sums` and `save_sums` while it writes a store. `selection` decides which images
a run uses.
"""

import zipfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.zips import read_npz
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.data.stores.files import damaged
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.data.stores.raw import RawStore

CHUNK = 512  # images summed together: 512 * 255**2 fits uint32


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of a set of images on the 0..255 scale.

    Attributes:
        mean_image: float32 [H, W, 3]; None if images have any size.
        channel_mean, channel_std: float64 [3], over all pixels; images of any size have equal
            weights.
    """

    count: int
    mean_image: np.ndarray | None
    channel_mean: np.ndarray
    channel_std: np.ndarray


@dataclass(frozen=True)
class _Sums:
    """Sums over images of their pixels, and of the squares of their pixels: int64 [H, W, 3]."""

    count: int  # images
    pixels: np.ndarray
    squares: np.ndarray

    def __sub__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.count - other.count, self.pixels - other.pixels, self.squares - other.squares
        )


def moments(store: Store, positions: np.ndarray | None = None) -> Moments:
    """Returns mean image, channel means and standard deviations of a store, or of a part of it.

    The sums of a whole raw store were stored when it was packed. For a part of it, either its
    images or all others are summed, whichever are fewer: integer sums make both agree exactly.

    Args:
        positions: integers in 0..N-1, or None for all images.

    Raises:
        UserError: `positions` is empty.
    """
    if positions is not None:
        positions = np.asarray(positions)
        if not positions.size:
            raise UserError("the selection is empty; a mean needs at least one image")
    if isinstance(store, EncodedStore):
        return _moments_by_image(store.sums, positions)
    if positions is None:
        return _moments(_stored_sums(store))
    is_outside = np.ones(len(store), bool)
    is_outside[positions] = False
    outside = np.flatnonzero(is_outside)
    is_distinct = len(positions) + len(outside) == len(store)
    if not is_distinct or len(positions) <= len(outside):
        return _moments(_sums(store, np.sort(positions)))
    return _moments(_stored_sums(store) - _sums(store, outside))


def _moments_by_image(sums: np.ndarray, positions: np.ndarray | None) -> Moments:
    """Returns the moments of an encoded store, from the means of each image, float64 [N, 6]."""
    chosen = sums if positions is None else sums[np.sort(positions)]
    mean, square = np.split(chosen.mean(axis=0), 2)
    return Moments(len(chosen), None, mean, np.sqrt(square - mean**2))


def save_sums(file: BinaryIO, count: int, sums: np.ndarray, squares: np.ndarray) -> None:
    """Writes `moments.npz` into an open file, as `_stored_sums` reads it."""
    np.savez(file, count=np.int64(count), sums=sums, squares=squares)


def _stored_sums(store: RawStore) -> _Sums:
    if store.path is None:
        return _sums(store, np.arange(len(store)))
    file = store.path / "moments.npz"
    try:
        arrays = read_npz(file, ("count", "sums", "squares"))
    except zipfile.BadZipFile as error:
        raise damaged(file, f"cannot be read ({reason(error)})") from None
    count, pixels, squares = arrays.values()
    shape = store.images.shape[1:]
    is_int64 = all(array.dtype == np.int64 for array in arrays.values())
    if not is_int64 or (count.shape, pixels.shape, squares.shape) != ((), shape, shape):
        raise damaged(file, f"does not hold a count and int64 sums of {list(shape)}")
    sums = _Sums(len(store), pixels, squares)
    if count != len(store) or not _are_possible(sums):
        raise damaged(file, f"does not hold the sums of {len(store):,} images")
    return sums


def _are_possible(sums: _Sums) -> bool:
    """Returns whether pixels 0..255 can have these sums: 0 <= x <= x * x <= 255 * x for each."""
    pixels, squares = sums.pixels, sums.squares
    is_possible = (pixels >= 0) & (pixels <= 255 * sums.count)
    is_possible &= (squares >= pixels) & (squares <= 255 * pixels)
    return bool(is_possible.all())


def _sums(store: RawStore, positions: np.ndarray) -> _Sums:
    pixels = np.zeros(store.images.shape[1:], np.int64)
    squares = np.zeros_like(pixels)
    for start in range(0, len(positions), CHUNK):
        add_sums(pixels, squares, np.take(store.images, positions[start : start + CHUNK], axis=0))
    return _Sums(len(positions), pixels, squares)


def add_sums(sums: np.ndarray, squares: np.ndarray, images: np.ndarray) -> None:
    """Adds uint8 images [N, H, W, 3] to int64 sums of pixels and of squared pixels, [H, W, 3]."""
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.uint16)
        sums += chunk.sum(axis=0, dtype=np.uint32)
        squares += (chunk * chunk).sum(axis=0, dtype=np.uint32)  # 255**2 fits uint16


def _moments(sums: _Sums) -> Moments:
    height, width, _ = sums.pixels.shape
    num_pixels = sums.count * height * width
    totals, squares = (array.sum(axis=(0, 1)) for array in (sums.pixels, sums.squares))
    # Python's integers, since num_pixels * square reaches 2**34 * 2**50; floats would cancel.
    variance = [
        (num_pixels * int(square) - int(total) ** 2) / num_pixels**2
        for square, total in zip(squares, totals, strict=True)
    ]
    mean_image = (sums.pixels / sums.count).astype(np.float32)
    return Moments(sums.count, mean_image, totals / num_pixels, np.sqrt(variance))
