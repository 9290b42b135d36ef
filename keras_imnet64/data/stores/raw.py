"""Raw stores: images of one size as an array on disk, read in any order.

A raw store is a folder with `images.npy` (uint8 [N, H, W, 3]), `labels.npy` (int32 [N]),
`moments.npz` (see `moments`) and `meta.json`. `packing` writes it, `opening` opens it.
"""

from pathlib import Path

import numpy as np

from keras_imnet64.core.machine_limits import memory
from keras_imnet64.data.stores.base import StoreBase
from keras_imnet64.data.stores.files import map_array
from keras_imnet64.records import RawStoreMeta

ALIGNMENT = 64  # bytes; the header of images.npy has 128, so mapped images are aligned


class RawStore(StoreBase):
    """One split of a data set whose images have one size; see also `StoreBase`.

    Attributes:
        images: uint8 [N, H, W, 3], in memory or memory-mapped.
    """

    meta: RawStoreMeta

    def __init__(
        self, path: Path | None, meta: RawStoreMeta, images: np.ndarray, labels: np.ndarray
    ) -> None:
        super().__init__(path, meta, labels)
        self.images = images

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.meta.image_size

    def gather(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns copies of the images and labels at these positions, in their order.

        Args:
            positions: integers [B] in 0..N-1, in any order, repeated or not.

        Returns:
            (uint8 [B, H, W, 3], int32 [B])
        """
        return np.take(self.images, positions, axis=0), np.take(self.labels, positions)


def open_raw(path: Path, meta: RawStoreMeta, in_memory: str) -> RawStore:
    """Opens a raw store whose `meta.json` has been read; see `opening.open_store`."""
    shape = (meta.count, meta.image_size, meta.image_size, 3)
    images = map_array(path / "images.npy", np.uint8, shape)
    labels = np.array(map_array(path / "labels.npy", np.int32, (meta.count,)))
    if in_memory == "always" or (in_memory == "auto" and _fits_in_memory(images.nbytes)):
        images = aligned_copy(images)
    return RawStore(path, meta, np.asarray(images), labels)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """Copies an array to a multiple of ALIGNMENT, where TensorFlow can share its memory."""
    buffer = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    copy = buffer[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _fits_in_memory(num_bytes: int) -> bool:
    _, available = memory()
    return available is not None and num_bytes < available / 4
