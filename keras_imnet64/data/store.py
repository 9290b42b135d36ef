"""The raw store: one split of a data set as arrays on disk, read at memory speed.

A store is a folder with `images.npy` (uint8 [N, H, W, 3]), `labels.npy` (int32 [N]), `moments.npz`
(exact integer sums over the images) and `meta.json`. It is written into a sibling folder and
renamed in one step, so that a store that exists is whole. Where the pictures come from is the
business of `sources`; which store belongs to which data set, that of `datasets`.
"""

import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RunFailed, UserError, reason
from ..files import (
    check_fields,
    check_writable,
    denied,
    is_count,
    is_texts,
    read_json,
    sync_folder,
)
from ..zips import read_npz

KIND = "raw"
FORMAT_VERSION = 1
IN_MEMORY = ("auto", "always", "never")
INT64 = np.dtype(np.int64)
CHUNK = 512  # images summed at once: 512 * 255**2 fits uint32
CLOCK_SECONDS = 5  # between the clocks of processes and of files
SLACK_BYTES = 16 * 2**20  # labels, sums, meta.json and file system blocks
ARRAYS = {"images.npy", "labels.npy", "moments.npz"}
META = {
    "dataset": str,
    "source": str,
    "verified": bool,
    "split": str,
    "count": lambda value: is_count(value) and value > 0,
    "image_size": lambda value: is_count(value) and value > 0,
    "class_counts": lambda value: isinstance(value, list) and all(map(is_count, value)),
    "wnids": is_texts,
    "class_names": is_texts,
    "digest": str,
    "bytes": lambda value: isinstance(value, dict) and value.keys() == ARRAYS,
}


class RawStore:
    """One split: pictures, labels, and what they mean.

    Attributes:
        path: the folder, or None for arrays that came from elsewhere.
        meta: the content of `meta.json`.
        images: uint8 [N, H, W, 3], in memory or memory-mapped.
        labels: int32 [N], 0-based positions in `wnids`.
        wnids: class ids, in label order.
        class_names: names for people, in label order.
        verified: whether the pictures are known to be those that the name promises.
        digest: SHA-256 (hex) of the bytes of images, then labels.
    """

    def __init__(self, path, meta, images, labels):
        self.path, self.meta = path, meta
        self.images, self.labels = images, labels

    dataset = property(lambda self: self.meta["dataset"])
    split = property(lambda self: self.meta["split"])
    source = property(lambda self: self.meta["source"])
    wnids = property(lambda self: self.meta["wnids"])
    class_names = property(lambda self: self.meta["class_names"])
    verified = property(lambda self: self.meta["verified"])
    digest = property(lambda self: self.meta["digest"])
    image_size = property(lambda self: self.meta["image_size"])

    def __len__(self):
        return len(self.labels)

    def gather(self, positions):
        """Pictures and labels at these positions, in the order asked for.

        Args:
            positions: integers [B] in 0..N-1, in any order, repeated or not.

        Returns:
            (uint8 [B, H, W, 3], int32 [B]), copies.
        """
        return np.take(self.images, positions, axis=0), np.take(self.labels, positions)


@dataclass(frozen=True)
class Moments:
    """Mean and spread of a set of pictures on the 0..255 scale, from exact integer sums.

    `mean_image` is float32 [H, W, 3]; `channel_mean` and `channel_std` are float64 [3], over all
    pixels of all images (not the mean of per-image figures).
    """

    count: int
    mean_image: np.ndarray
    channel_mean: np.ndarray
    channel_std: np.ndarray


# ---------------------------------------------------------------------------------------- writing


def write_store(
    path,
    batches,
    *,
    dataset,
    split,
    count,
    image_size,
    wnids,
    class_names,
    source,
    verified,
    progress=None,
):
    """Pack a stream of pictures into the folder `path`, replacing what was there.

    Args:
        path: the store's folder; its parents are made.
        batches: iterable of (uint8 [B, H, W, 3], integer labels [B], 0-based).
        dataset, split: names for `meta.json`.
        count: how many pictures the batches hold together.
        image_size: H and W.
        wnids, class_names: class ids and names in label order.
        source: where the pictures came from, in words.
        verified: whether they are known to be what the dataset's name promises.
        progress: called as `progress(description, done, total)`.

    Returns:
        RawStore: the new store, memory-mapped.

    Raises:
        UserError: the disk has no room, the folder cannot be written, or the stream does not hold
            what was announced.
        RunFailed: writing broke off.
    """
    path = Path(path)
    needed = count * image_size * image_size * 3 + SLACK_BYTES
    require_space(path.parent, needed, f"packing {dataset} {split}")
    temporary = temporary_sibling(path)
    try:
        packer = _Packer(temporary, f"{dataset} {split}", count, image_size, len(wnids))
        digest = packer.write(batches, progress)
        meta = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "dataset": dataset,
            "source": source,
            "verified": verified,
            "split": split,
            "count": count,
            "image_size": image_size,
            "class_counts": packer.class_counts(),
            "wnids": list(wnids),
            "class_names": list(class_names),
            "digest": digest,
            "bytes": {file.name: file.stat().st_size for file in sorted(temporary.iterdir())},
        }
        _write_json(temporary / "meta.json", meta)
        temporary.chmod(0o755)
        _publish(temporary, path, meta)
    except OSError as error:
        raise RunFailed(
            f"packing {dataset} {split} into {path} failed and left nothing behind ({error}); "
            "mend that and run the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_store(path, in_memory="never")


def temporary_sibling(path):
    """A new folder beside `path` whose name tells who writes it."""
    prefix = f".{path.name}.writing-{socket.gethostname()}-{os.getpid()}-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    except (OSError, ValueError) as error:
        raise _not_writable(path.parent, error) from None


def _not_writable(folder, error):
    return UserError(
        f"cannot write below {folder} ({denied(error, folder)}); "
        "choose another folder with --cache-dir or --data-dir"
    )


class _Packer:
    """Writes the arrays of one store sequentially, summing and hashing as they pass."""

    def __init__(self, folder, what, count, image_size, num_classes):
        self.folder, self.what, self.count, self.num_classes = folder, what, count, num_classes
        self.shape = (image_size, image_size, 3)
        self.labels = np.zeros(count, np.int32)
        self.sums = np.zeros(self.shape, np.int64)
        self.squares = np.zeros(self.shape, np.int64)

    def write(self, batches, progress):
        """Consume the batches, write the three arrays, return the digest."""
        sha, done = hashlib.sha256(), 0
        with open(self.folder / "images.npy", "wb") as file:
            _write_header(file, (self.count, *self.shape))
            for images, labels in batches:
                images = self._check(images, labels, done)
                file.write(images.data)
                sha.update(images.data)
                self.labels[done : done + len(images)] = labels
                _add_sums(self.sums, self.squares, images)
                done += len(images)
                if progress:
                    progress(f"packing {self.what}", done, self.count)
            _sync(file)
        if done != self.count:
            raise UserError(
                f"{self.what} should hold {self.count:,} pictures; its source gave {done:,}, "
                "prepare the data set again"
            )
        sha.update(self.labels.data)
        with open(self.folder / "labels.npy", "wb") as file:
            np.save(file, self.labels, allow_pickle=False)
            _sync(file)
        with open(self.folder / "moments.npz", "wb") as file:
            np.savez(file, count=np.int64(done), sums=self.sums, squares=self.squares)
            _sync(file)
        return sha.hexdigest()

    def _check(self, images, labels, done):
        images = np.ascontiguousarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise UserError(
                f"pictures of {self.what} must be uint8 {list(self.shape)}; received "
                f"{images.dtype} {list(images.shape[1:])}"
            )
        if done + len(images) > self.count:
            raise UserError(f"{self.what} holds more than the {self.count:,} pictures announced")
        low, high = np.min(labels), np.max(labels)
        if low < 0 or high >= self.num_classes:
            raise UserError(
                f"labels of {self.what} must lie in 0..{self.num_classes - 1}; received "
                f"{low}..{high}"
            )
        return images

    def class_counts(self):
        return np.bincount(self.labels, minlength=self.num_classes).tolist()


def require_space(folder, needed, purpose):
    """Refuse work that will not fit on the disk of `folder` (which need not exist yet).

    Raises:
        UserError: states the bytes needed and free, or why the folder cannot be written.
    """
    try:
        free = shutil.disk_usage(check_writable(folder)).free
    except (OSError, ValueError) as error:
        raise _not_writable(folder, error) from None
    if free < needed:
        raise UserError(
            f"{purpose} needs {needed:,} bytes in {folder}, where {free:,} are free; "
            "free some or choose another folder with --cache-dir or --data-dir"
        )


def remove_store(path):
    """Delete a store, its meta.json first, so that a part of it is never taken for a store."""
    path = Path(path)
    (path / "meta.json").unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(path):
    """Delete half-written copies of the store `path` whose writers no longer live here."""
    for folder, pid in _half_written(path):
        if not _is_writing(folder, pid):
            shutil.rmtree(folder, ignore_errors=True)


def other_writer(path):
    """The id of another living process of this machine that writes `path`; None if there is none.

    Of several processes that ask after they have made their `temporary_sibling`, at most one is
    told that it is alone.
    """
    pids = [pid for folder, pid in _half_written(path) if _is_writing(folder, pid)]
    return next((pid for pid in pids if pid != os.getpid()), None)


def _half_written(path):
    """(folder, process id) of each copy of `path` that was begun on this machine."""
    prefix = f".{path.name}.writing-{socket.gethostname()}-"
    for folder in path.parent.glob(f"{glob.escape(prefix)}*"):
        pid = folder.name.removeprefix(prefix).split("-")[0]
        if pid.isdecimal():
            yield folder, int(pid)


def _is_writing(folder, pid):
    """Whether the process lives, and is not a later one that got the number of a dead writer."""
    import psutil

    try:
        return psutil.Process(pid).create_time() <= folder.stat().st_mtime + CLOCK_SECONDS
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OSError, OverflowError):
        return False


def _write_header(file, shape):
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_json(path, content):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        _sync(file)


def _sync(file):
    file.flush()
    os.fsync(file.fileno())


def _publish(temporary, path, meta):
    """Give the finished folder its name.

    Of two processes that pack the same pictures, the first wins and the second keeps its result;
    an older store of other pictures steps aside and is deleted.
    """
    sync_folder(temporary)
    if is_store(path) and _holds(path, meta):
        return
    old = temporary.with_name(temporary.name + "-old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _holds(path, meta):
    try:
        return open_store(path, in_memory="never").meta == meta
    except UserError:
        return False


# ---------------------------------------------------------------------------------------- reading


def open_store(path, in_memory="auto"):
    """Open a packed split after checking that its files are what its `meta.json` says.

    Args:
        path: the store's folder.
        in_memory: "always" loads the pictures, "never" maps the file, "auto" loads them when they
            take less than a quarter of the memory available now.

    Returns:
        RawStore

    Raises:
        UserError: there is no store, or a file is missing, cut short or of another format.
    """
    if in_memory not in IN_MEMORY:
        raise UserError(f'in_memory must be one of {", ".join(IN_MEMORY)}; received "{in_memory}"')
    path = Path(path)
    meta = _read_meta(path)
    for name, size in meta["bytes"].items():
        _check_size(path / name, size)
    images = _map_array(path / "images.npy", np.uint8, _images_shape(meta))
    labels = np.array(_map_array(path / "labels.npy", np.int32, (meta["count"],)))
    if _class_counts(labels, len(meta["wnids"])) != meta["class_counts"]:
        raise _damaged(path / "labels.npy", "holds other labels than meta.json counts")
    if in_memory == "always" or (in_memory == "auto" and _fits_in_memory(images.nbytes)):
        images = np.array(images)
    return RawStore(path, meta, np.asarray(images), labels)


def is_store(path):
    """Whether a whole store lies at `path` (its files are checked only by `open_store`)."""
    return os.path.isfile(Path(path) / "meta.json")


def _read_meta(path):
    try:
        meta = read_json(path / "meta.json")
    except FileNotFoundError:
        raise UserError(f"{path} is not a packed data set: it has no meta.json") from None
    except (OSError, ValueError) as error:
        raise _damaged(path / "meta.json", f"cannot be read ({error})") from None
    found = (meta.get("kind"), meta.get("format_version")) if isinstance(meta, dict) else None
    if found != (KIND, FORMAT_VERSION):
        raise _damaged(
            path / "meta.json",
            f"has kind and format version {found} where ({KIND!r}, {FORMAT_VERSION}) is readable",
        )
    try:
        check_fields(meta, META)
    except ValueError as error:
        raise _damaged(path / "meta.json", f"cannot be used: {error}") from None
    wnids = meta["wnids"]
    if not len(wnids) == len(set(wnids)) == len(meta["class_names"]) == len(meta["class_counts"]):
        raise _damaged(path / "meta.json", "does not have one id, name and count for each class")
    return meta


def _images_shape(meta):
    return (meta["count"], meta["image_size"], meta["image_size"], 3)


def _check_size(file, size):
    actual = file.stat().st_size if file.is_file() else None
    if actual is None:
        raise _damaged(file, "is missing")
    if actual != size:
        raise _damaged(file, f"has {actual:,} bytes where meta.json says {size}")


def _map_array(file, dtype, shape):
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # NumPy reads the header as Python: any error of a tokenizer
        raise _damaged(file, f"cannot be read ({reason(error)})") from None
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise _damaged(
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


def _damaged(file, what):
    return UserError(f"{file} {what}: delete the folder {file.parent} and prepare the data again")


def _fits_in_memory(size):
    import psutil

    return size < psutil.virtual_memory().available / 4


# ---------------------------------------------------------------------------------------- moments


def moments(store, positions=None):
    """Mean image and per-channel mean and standard deviation of a store, or of a part of it.

    For the whole store the sums made at packing time are read. For a part, the part or what it
    leaves out is summed, whichever is smaller: the sums are integers, so both ways agree exactly.

    Args:
        store: a RawStore.
        positions: integers in 0..N-1, or None for all images.

    Returns:
        Moments

    Raises:
        UserError: `positions` is empty.
    """
    if positions is None:
        return _moments(*_stored_sums(store))
    positions = np.asarray(positions)
    if not positions.size:
        raise UserError("the mean of no images was asked for: the selection is empty")
    outside = np.ones(len(store), bool)
    outside[positions] = False
    outside = np.flatnonzero(outside)
    distinct = len(positions) + len(outside) == len(store)
    if not distinct or len(positions) <= len(outside):
        return _moments(*_sums(store, np.sort(positions)))
    whole, rest = _stored_sums(store), _sums(store, outside)
    return _moments(*(a - b for a, b in zip(whole, rest, strict=True)))


def _stored_sums(store):
    if store.path is None:
        return _sums(store, np.arange(len(store)))
    file = store.path / "moments.npz"
    try:
        saved = read_npz(file, ("count", "sums", "squares"))
    except zipfile.BadZipFile as error:
        raise _damaged(file, f"cannot be read ({reason(error)})") from None
    count, sums, squares = saved.values()
    shape = store.images.shape[1:]
    shapes = [array.shape for array in saved.values()]
    if shapes != [(), shape, shape] or {array.dtype for array in saved.values()} != {INT64}:
        raise _damaged(file, f"does not hold a count and int64 sums of {list(shape)}")
    if count != len(store) or not _are_moments(count, sums, squares):
        raise _damaged(file, f"does not hold the sums of {len(store):,} pictures")
    return len(store), sums, squares


def _are_moments(count, sums, squares):
    """Whether pixels 0..255 can have these sums: 0 <= x <= x * x <= 255 * x for each of them."""
    in_range = (sums >= 0) & (squares >= sums) & (sums <= 255 * count) & (squares <= 255 * sums)
    return in_range.all()


def _sums(store, positions):
    sums = np.zeros(store.images.shape[1:], np.int64)
    squares = np.zeros_like(sums)
    for start in range(0, len(positions), CHUNK):
        _add_sums(sums, squares, np.take(store.images, positions[start : start + CHUNK], axis=0))
    return len(positions), sums, squares


def _add_sums(sums, squares, images):
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
