"""Writes raw stores: a stream of images becomes a folder that appears only when it is complete.

`indexing` writes encoded stores, with the functions of this module for both kinds. `raw` describes
the files of a store; the images come from `sources`.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import sync_file, write_json
from keras_imnet64.core.paths import check_writable, os_error_text
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.core.validation import to_json
from keras_imnet64.core.work_folders import (
    living_writer,
    publish,
    report_failed_write,
    work_folder,
)
from keras_imnet64.data.stores.base import class_counts
from keras_imnet64.data.stores.files import save_array, write_pixels_header
from keras_imnet64.data.stores.moments import add_sums, save_sums
from keras_imnet64.data.stores.opening import is_store, open_store
from keras_imnet64.data.stores.raw import RawStore
from keras_imnet64.records import RawStoreMeta, SourceForm, StoreMeta

SLACK_BYTES = 16 * 2**20  # labels, sums, meta.json and file system blocks
WORD = "writing"  # in the names of work folders, see `work_folders`


def write_store(
    path: StrPath,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    dataset: str,
    split: str,
    count: int,
    image_size: int,
    wnids: Sequence[str],
    class_names: Sequence[str],
    source: str,
    verified: bool,
    form: SourceForm | None = None,
    progress: PackProgress | None = None,
) -> RawStore:
    """Packs a stream of images into the folder `path`, replacing what was there.

    Args:
        path: the store's folder; its parents are made.
        batches: (uint8 [B, H, W, 3], integer labels [B], 0-based).
        dataset, split: names for `meta.json`.
        count: number of images in all batches together.
        image_size: H and W.
        wnids, class_names: class ids and names in label order.
        source: where the images came from, for messages.
        verified: whether they are known to be the images that the data set's name promises.
        form: see `records.StoreMeta`.

    Returns:
        The new store, memory-mapped.

    Raises:
        UserError: the disk is full, the folder cannot be written, or the stream holds other
            images than announced.
        RunFailed: a write failed.
    """
    path = Path(path)
    name = f"{dataset} {split}"
    needed = count * image_size * image_size * 3 + SLACK_BYTES
    with new_store(path, f"packing {name}", needed) as work:
        packer = _Packer(work, name, count, image_size, len(wnids))
        digest = packer.write(batches, progress)
        meta = RawStoreMeta(
            dataset=dataset,
            source=source,
            form=form,
            verified=verified,
            split=split,
            count=count,
            image_size=image_size,
            wnids=list(wnids),
            class_names=list(class_names),
            digest=digest,
            class_counts=class_counts(packer.labels, len(wnids)),
            file_sizes=file_sizes(work),
        )
        publish_store(work, path, meta)
    store = open_store(path, in_memory="never")
    assert isinstance(store, RawStore)
    return store


# ------------------------------------------------------------------------ stores of either kind


@contextlib.contextmanager
def new_store(path: Path, task: str, needed: int) -> Iterator[Path]:
    """Makes a work folder for the files of the store `path`, which `publish_store` moves there.

    Args:
        task: for messages, such as "packing shapes train".
        needed: bytes that must be free on the disk.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
        RunFailed: a write failed.
    """
    require_space(path.parent, needed, task)
    with store_work_folder(path) as work, report_failed_write(f"{task} into {path}", path):
        yield work


@contextlib.contextmanager
def store_work_folder(path: Path) -> Iterator[Path]:
    """Makes a work folder beside `path`, see `work_folders.work_folder`, and its parents.

    Raises:
        UserError: the parents of `path` cannot be made or written into.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(work_folder(path, WORD))
        except (OSError, ValueError) as error:
            raise _not_writable(path.parent, error) from None
        yield work


def publish_store(work: Path, path: Path, meta: StoreMeta) -> None:
    """Writes `meta.json` beside the other files of a work folder, and moves the folder to `path`.

    A store of the same images at `path` stays, one of other images is replaced.
    """
    write_meta(work, meta)
    work.chmod(0o755)
    if not _holds(path, meta):
        publish(work, path, replace=True)


def write_meta(folder: Path, meta: StoreMeta) -> None:
    """Writes the `meta.json` of a store."""
    write_json(folder / "meta.json", to_json(meta))


def file_sizes(folder: Path) -> dict[str, int]:
    """Returns {name: bytes} of the files in a folder."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def other_writer(path: Path) -> int | None:
    """Returns the id of another process that packs into `path`, or None."""
    return living_writer(path, WORD)


def require_space(folder: StrPath, needed: int, purpose: str) -> None:
    """Refuses a task for which the disk of `folder` is too full; `folder` need not exist yet.

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


def _not_writable(folder: StrPath, error: Exception) -> UserError:
    return UserError(
        f"cannot write below {folder} ({os_error_text(error, folder)}); "
        "choose another folder with --cache-dir or --data-dir"
    )


def _holds(path: Path, meta: StoreMeta) -> bool:
    """Returns whether `path` is an undamaged store with this `meta.json`."""
    try:
        return is_store(path) and open_store(path, in_memory="never").meta == meta
    except UserError:
        return False


# ---------------------------------------------------------------------------- arrays of a raw store


class _Packer:
    """Writes the arrays of a raw store while it sums and hashes the images.

    Args:
        name: names the split in messages.
    """

    def __init__(
        self, folder: Path, name: str, count: int, image_size: int, num_classes: int
    ) -> None:
        self.folder, self.name, self.count, self.num_classes = folder, name, count, num_classes
        self.shape = (image_size, image_size, 3)
        self.labels = np.zeros(count, np.int32)
        self.sums = np.zeros(self.shape, np.int64)
        self.squares = np.zeros(self.shape, np.int64)

    def write(
        self,
        batches: Iterable[tuple[np.ndarray, np.ndarray]],
        progress: PackProgress | None,
    ) -> str:
        """Consumes the batches, writes the three arrays, and returns the digest."""
        sha, done = hashlib.sha256(), 0
        with open(self.folder / "images.npy", "wb") as file:
            write_pixels_header(file, (self.count, *self.shape))
            for images, labels in batches:
                images = self._check(images, labels, done)
                file.write(images.data)
                sha.update(images.data)
                self.labels[done : done + len(images)] = labels
                add_sums(self.sums, self.squares, images)
                done += len(images)
                if progress:
                    progress(f"packing {self.name}", done, self.count)
            sync_file(file)
        if done != self.count:
            raise UserError(
                f"{self.name} should hold {self.count:,} images; its source gave {done:,}, "
                "prepare the data set again"
            )
        sha.update(self.labels.data)
        save_array(self.folder / "labels.npy", self.labels)
        with open(self.folder / "moments.npz", "wb") as file:
            save_sums(file, done, self.sums, self.squares)
            sync_file(file)
        return sha.hexdigest()

    def _check(self, images: np.ndarray, labels: np.ndarray, done: int) -> np.ndarray:
        """Returns a batch as a contiguous array, or raises a UserError if it is not as announced.

        Args:
            done: how many images came before the batch.
        """
        images = np.ascontiguousarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise UserError(
                f"images of {self.name} must be uint8 {list(self.shape)}; received "
                f"{images.dtype} {list(images.shape[1:])}"
            )
        if done + len(images) > self.count:
            raise UserError(f"{self.name} holds more than the {self.count:,} images announced")
        low, high = np.min(labels), np.max(labels)
        if low < 0 or high >= self.num_classes:
            raise UserError(
                f"labels of {self.name} must lie in 0..{self.num_classes - 1}; received "
                f"{low}..{high}"
            )
        return images
