"""What a packed store is, and reading it: one split of a data set as arrays on disk.

A raw store is a folder with `images.npy` (uint8 [N, H, W, 3]), `labels.npy` (int32 [N]),
`moments.npz` and `meta.json`. `packing` writes it, `moments` owns its sums, and `datasets` knows
which store belongs to which data set. Stores of images of any size are told in `encoded`; opening
either kind is told here.
"""

import os
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import check_fields, is_count, is_texts, read_json
from keras_imnet64.core.paths import is_portable
from keras_imnet64.data.stores import encoded
from keras_imnet64.data.stores.base import StoreBase

KIND = "raw"
FORMAT_VERSION = 1
ALIGNED = 64  # bytes; the header of images.npy has twice as many
IN_MEMORY = ("auto", "always", "never")
ARRAYS = {"images.npy", "labels.npy", "moments.npz"}
META = {  # of either kind
    "dataset": str,
    "source": str,
    "verified": bool,
    "split": str,
    "count": lambda value: is_count(value) and value > 0,
    "class_counts": lambda value: isinstance(value, list) and all(map(is_count, value)),
    "wnids": is_texts,
    "class_names": is_texts,
    "digest": str,
}
KINDS = {  # what each has besides
    (KIND, FORMAT_VERSION): {
        "image_size": lambda value: is_count(value) and value > 0,
        "bytes": lambda value: isinstance(value, dict) and value.keys() == ARRAYS,
    },
    **{
        (encoded.KIND, version): {
            "root": is_portable,
            "bytes": lambda value, names=names: isinstance(value, dict) and value.keys() == names,
        }
        for version, names in encoded.ARRAYS.items()
    },
}


class RawStore(StoreBase):
    """One split: images, labels, and what they mean; see also `StoreBase`.

    Attributes:
        images: uint8 [N, H, W, 3], in memory or memory-mapped.
    """

    image_size = property(lambda self: self.meta["image_size"])

    def __init__(self, path, meta, images, labels):
        super().__init__(path, meta, labels)
        self.images = images

    def gather(self, positions):
        """Images and labels at these positions, in the order asked for.

        Args:
            positions: integers [B] in 0..N-1, in any order, repeated or not.

        Returns:
            (uint8 [B, H, W, 3], int32 [B]), copies.
        """
        return np.take(self.images, positions, axis=0), np.take(self.labels, positions)


def open_store(path, in_memory="auto"):
    """Open a packed split after checking that its files are what its `meta.json` says.

    Args:
        path: the store's folder.
        in_memory: "always" loads the images, "never" maps the file, "auto" loads them when they
            take less than a quarter of the memory available now.

    Returns:
        RawStore or EncodedStore

    Raises:
        UserError: there is no store, or a file is missing, cut short or of another format.
    """
    if in_memory not in IN_MEMORY:
        raise UserError(f'in_memory must be one of {", ".join(IN_MEMORY)}; received "{in_memory}"')
    path = Path(path)
    meta = _read_meta(path)
    for name, size in meta["bytes"].items():
        _check_size(path / name, size)
    is_raw = meta["kind"] == KIND
    opened = _open_raw(path, meta, in_memory) if is_raw else _open_encoded(path, meta)
    if _class_counts(opened.labels, len(meta["wnids"])) != meta["class_counts"]:
        raise damaged(path / "labels.npy", "holds other labels than meta.json counts")
    return opened


def _open_raw(path, meta, in_memory):
    images = _map_array(path / "images.npy", np.uint8, _images_shape(meta))
    labels = np.array(_map_array(path / "labels.npy", np.int32, (meta["count"],)))
    if in_memory == "always" or (in_memory == "auto" and _fits_in_memory(images.nbytes)):
        images = aligned_copy(images)
    return RawStore(path, meta, np.asarray(images), labels)


def _open_encoded(path, meta):
    return encoded.open_encoded(path, meta, _map_array, damaged)


def aligned_copy(array):
    """A copy that begins where TensorFlow shares memory, at a multiple of ALIGNED bytes."""
    room = np.empty(array.nbytes + ALIGNED, np.uint8)
    begin = -room.ctypes.data % ALIGNED
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def is_store(path):
    """Whether a whole store lies at `path` (its files are checked only by `open_store`)."""
    return os.path.isfile(Path(path) / "meta.json")


def _read_meta(path):
    try:
        meta = read_json(path / "meta.json")
    except FileNotFoundError:
        raise UserError(f"{path} is not a packed data set: it has no meta.json") from None
    except (OSError, ValueError) as error:
        raise damaged(path / "meta.json", f"cannot be read ({error})") from None
    found = (meta.get("kind"), meta.get("format_version")) if isinstance(meta, dict) else None
    if found not in list(KINDS):  # which a list in the file does not break, as a hash would
        readable = " or ".join(map(str, KINDS))
        raise damaged(
            path / "meta.json",
            f"has kind and format version {found} where {readable} is readable",
        )
    try:
        check_fields(meta, META | KINDS[found])
    except ValueError as error:
        raise damaged(path / "meta.json", f"cannot be used: {error}") from None
    wnids = meta["wnids"]
    if not len(wnids) == len(set(wnids)) == len(meta["class_names"]) == len(meta["class_counts"]):
        raise damaged(path / "meta.json", "does not have one id, name and count for each class")
    return meta


def _images_shape(meta):
    return (meta["count"], meta["image_size"], meta["image_size"], 3)


def _check_size(file, size):
    actual = file.stat().st_size if file.is_file() else None
    if actual is None:
        raise damaged(file, "is missing")
    if actual != size:
        raise damaged(file, f"has {actual:,} bytes where meta.json says {size}")


def _map_array(file, dtype, shape):
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # NumPy reads the header as Python: any error of a tokenizer
        raise damaged(file, f"cannot be read ({reason(error)})") from None
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise damaged(
            file,
            f"holds {array.dtype} {list(array.shape)} where meta.json says "
            f"{np.dtype(dtype)} {list(shape)}",
        )
    return array


def _class_counts(labels, num_classes):
    """Labels in each class; None where one is of no class."""
    if labels.min() < 0 or labels.max() >= num_classes:
        return None
    return np.bincount(labels, minlength=num_classes).tolist()


def damaged(file, what):
    """The error for a file of a store that cannot be used."""
    return UserError(f"{file} {what}: delete the folder {file.parent} and prepare the data again")


def _fits_in_memory(size):
    import psutil

    return size < psutil.virtual_memory().available / 4
