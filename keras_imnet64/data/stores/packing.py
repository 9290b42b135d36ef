"""Writing a packed store: a stream of images becomes a folder that is whole or not there.

It is written into a working folder, which takes the store's name in one step. What lies in a store
is told in `store`, and how its images are summed in `moments`; the images come from `sources`.
"""

import contextlib
import hashlib
import shutil
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import sync_file, sync_folder, write_json
from keras_imnet64.core.paths import check_writable, os_error_text
from keras_imnet64.core.work_folders import living_writer, new_work_folder
from keras_imnet64.data.stores.moments import add_sums, save_sums
from keras_imnet64.data.stores.store import FORMAT_VERSION, KIND, is_store, open_store

SLACK_BYTES = 16 * 2**20  # labels, sums, meta.json and file system blocks
WORD = "writing"  # in the names of working folders


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
    """Pack a stream of images into the folder `path`, replacing what was there.

    Args:
        path: the store's folder; its parents are made.
        batches: iterable of (uint8 [B, H, W, 3], integer labels [B], 0-based).
        dataset, split: names for `meta.json`.
        count: how many images the batches hold together.
        image_size: H and W.
        wnids, class_names: class ids and names in label order.
        source: where the images came from, in words.
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
    what = f"{dataset} {split}"
    meta = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "dataset": dataset,
        "source": source,
        "verified": verified,
        "split": split,
        "count": count,
        "image_size": image_size,
        "wnids": list(wnids),
        "class_names": list(class_names),
    }
    needed = count * image_size * image_size * 3 + SLACK_BYTES
    with new_store(path, f"packing {what}", needed, meta) as work:
        packer = _Packer(work, what, count, image_size, len(wnids))
        meta["digest"] = packer.write(batches, progress)
        meta["class_counts"] = packer.class_counts()
    return open_store(path, in_memory="never")


@contextlib.contextmanager
def new_store(path, doing, needed, meta):
    """A working folder to fill, which then becomes the store `path`, in place of what was there.

    Args:
        doing: in words, for messages.
        needed: bytes that the disk must have room for.
        meta: what `meta.json` is to say at the end; "bytes" is added to it.

    Raises:
        UserError: the disk has no room, or the folder cannot be written.
        RunFailed: writing broke off.
    """
    require_space(path.parent, needed, doing)
    with working_folder(path) as work:
        try:
            yield work
            meta["bytes"] = {file.name: file.stat().st_size for file in sorted(work.iterdir())}
            write_json(work / "meta.json", meta)
            work.chmod(0o755)
            publish(work, path, meta)
        except OSError as error:
            raise RunFailed(
                f"{doing} into {path} failed and left nothing behind ({error}); mend that and run "
                "the same command again"
            ) from error


@contextlib.contextmanager
def working_folder(path):
    """A folder beside `path` to fill and rename, deleted at the end if it is still there.

    Raises:
        UserError: the parents of `path` cannot be made or written into.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = new_work_folder(path, WORD)
    except (OSError, ValueError) as error:
        raise _not_writable(path.parent, error) from None
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def other_writer(path):
    """The id of another process that packs into `path`, see `work_folders.living_writer`."""
    return living_writer(path, WORD)


def _not_writable(folder, error):
    return UserError(
        f"cannot write below {folder} ({os_error_text(error, folder)}); "
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
                add_sums(self.sums, self.squares, images)
                done += len(images)
                if progress:
                    progress(f"packing {self.what}", done, self.count)
            sync_file(file)
        if done != self.count:
            raise UserError(
                f"{self.what} should hold {self.count:,} images; its source gave {done:,}, "
                "prepare the data set again"
            )
        sha.update(self.labels.data)
        with open(self.folder / "labels.npy", "wb") as file:
            np.save(file, self.labels, allow_pickle=False)
            sync_file(file)
        with open(self.folder / "moments.npz", "wb") as file:
            save_sums(file, done, self.sums, self.squares)
            sync_file(file)
        return sha.hexdigest()

    def _check(self, images, labels, done):
        images = np.ascontiguousarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise UserError(
                f"images of {self.what} must be uint8 {list(self.shape)}; received "
                f"{images.dtype} {list(images.shape[1:])}"
            )
        if done + len(images) > self.count:
            raise UserError(f"{self.what} holds more than the {self.count:,} images announced")
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


def _write_header(file, shape):
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def publish(work, path, meta):
    """Give the finished folder its name.

    Of two processes that pack the same images, the first wins and the second keeps its result;
    an older store of other images steps aside and is deleted.
    """
    sync_folder(work)
    if is_store(path) and _holds(path, meta):
        return
    old = work.with_name(work.name + "-old")
    if path.exists():
        path.rename(old)
    work.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _holds(path, meta):
    try:
        return open_store(path, in_memory="never").meta == meta
    except UserError:
        return False
