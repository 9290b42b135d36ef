"""Means and spreads of stored images, from the exact integer sums that lie in `moments.npz`.

`packing` calls `add_sums` and `save_sums` while it writes a store. Which images a run uses, and
so which it sums, is the business of `selection`.
"""

import zipfile
from dataclasses import dataclass

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.zips import read_npz
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.data.stores.store import damaged

INT64 = np.dtype(np.int64)
CHUNK = 512  # images summed at once: 512 * 255**2 fits uint32


@dataclass(frozen=True)
class Moments:
    """Mean and spread of a set of images on the 0..255 scale, from exact integer sums.

    `mean_image` is float32 [H, W, 3], or None where images have no common size. `channel_mean`
    and `channel_std` are float64 [3], over all pixels of all images (not the mean of per-image
    figures).
    """

    count: int
    mean_image: np.ndarray
    channel_mean: np.ndarray
    channel_std: np.ndarray


def moments(store, positions=None):
    """Mean image and per-channel mean and standard deviation of a store, or of a part of it.

    For the whole store the sums made at packing time are read. For a part, the part or what it
    leaves out is summed, whichever is smaller: the sums are integers, so both ways agree exactly.

    Of an encoded store each image counts alike, whatever its size.

    Args:
        store: a RawStore or EncodedStore.
        positions: integers in 0..N-1, or None for all images.

    Returns:
        Moments

    Raises:
        UserError: `positions` is empty.
    """
    if positions is not None:
        positions = np.asarray(positions)
        if not positions.size:
            raise UserError("the mean of no images was asked for: the selection is empty")
    if isinstance(store, EncodedStore):
        return _moments_by_image(store.sums, positions)
    if positions is None:
        return _moments(*_stored_sums(store))
    outside = np.ones(len(store), bool)
    outside[positions] = False
    outside = np.flatnonzero(outside)
    distinct = len(positions) + len(outside) == len(store)
    if not distinct or len(positions) <= len(outside):
        return _moments(*_sums(store, np.sort(positions)))
    whole, rest = _stored_sums(store), _sums(store, outside)
    return _moments(*(a - b for a, b in zip(whole, rest, strict=True)))


def _moments_by_image(sums, positions):
    chosen = sums if positions is None else sums[np.sort(positions)]
    mean, square = np.split(chosen.mean(axis=0), 2)
    return Moments(len(chosen), None, mean, np.sqrt(square - mean**2))


def save_sums(file, count, sums, squares):
    """Write `moments.npz` into an open file, as `_stored_sums` reads it."""
    np.savez(file, count=np.int64(count), sums=sums, squares=squares)


def _stored_sums(store):
    if store.path is None:
        return _sums(store, np.arange(len(store)))
    file = store.path / "moments.npz"
    try:
        saved = read_npz(file, ("count", "sums", "squares"))
    except zipfile.BadZipFile as error:
        raise damaged(file, f"cannot be read ({reason(error)})") from None
    count, sums, squares = saved.values()
    shape = store.images.shape[1:]
    shapes = [array.shape for array in saved.values()]
    if shapes != [(), shape, shape] or {array.dtype for array in saved.values()} != {INT64}:
        raise damaged(file, f"does not hold a count and int64 sums of {list(shape)}")
    if count != len(store) or not _are_moments(count, sums, squares):
        raise damaged(file, f"does not hold the sums of {len(store):,} images")
    return len(store), sums, squares


def _are_moments(count, sums, squares):
    """Whether pixels 0..255 can have these sums: 0 <= x <= x * x <= 255 * x for each of them."""
    in_range = (sums >= 0) & (squares >= sums) & (sums <= 255 * count) & (squares <= 255 * sums)
    return in_range.all()


def _sums(store, positions):
    sums = np.zeros(store.images.shape[1:], np.int64)
    squares = np.zeros_like(sums)
    for start in range(0, len(positions), CHUNK):
        add_sums(sums, squares, np.take(store.images, positions[start : start + CHUNK], axis=0))
    return len(positions), sums, squares


def add_sums(sums, squares, images):
    """Add uint8 images [N, H, W, 3] to int64 sums of pixels and of squared pixels, [H, W, 3]."""
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.uint16)
        sums += chunk.sum(axis=0, dtype=np.uint32)
        squares += (chunk * chunk).sum(axis=0, dtype=np.uint32)  # 255**2 fits uint16


def _moments(count, sums, squares):
    height, width, _ = sums.shape
    pixels = count * height * width
    mean = sums.sum(axis=(0, 1)) / pixels
    # Integer numerator: no cancellation. pixels * squares < 2**34 * 2**50 needs Python's integers.
    variance = [
        (pixels * int(square) - int(total) ** 2) / pixels**2
        for square, total in zip(squares.sum(axis=(0, 1)), sums.sum(axis=(0, 1)), strict=True)
    ]
    return Moments(count, (sums / count).astype(np.float32), mean, np.sqrt(variance))
