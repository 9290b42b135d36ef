"""Making small images of large ones, as ImageNet64 was made, so that its recipes can run on them.

Images of an encoded store become the official archives and a packed store that recipes can name.
The pixels are made chunk by chunk in a folder beside the archives, so that what was interrupted
goes on. What the archives look like is told in `sources.archives`.
"""

import contextlib
import fcntl
import io
import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import PIL

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import read_json, sync_file, write_atomic, write_json
from keras_imnet64.core.paths import check_writable, expand, os_error_text
from keras_imnet64.data import datasets
from keras_imnet64.data.images.views import View, as_sentences, check_filter, opened, rgb, turned
from keras_imnet64.data.order import generator
from keras_imnet64.data.sources import archives
from keras_imnet64.data.stores import packing

SIZES = range(8, 257)
CHUNK = 1024  # images between two notes of what is done
NUM_BATCHES = 10  # npz files of the training set, as published
WORK, STATE, PIXELS = ".downsampling-{}", "made.json", "images.uint8"
LOCK, CLASSES = ".downsampling.lock", "classes.txt"


def downsample(
    name,
    *,
    size,
    out_dir,
    resize_filter="box",
    data_dir=None,
    cache_dir=None,
    progress=None,
):
    """Resize every image of a data set to size x size, without keeping its shape.

    As published (arXiv:1707.08819), which took Pillow's box filter. What was interrupted goes on
    with the same arguments; it is begun anew for others, or if the images or Pillow have changed.

    Args:
        name: a prepared data set of images of any size.
        size: pixels per side, in SIZES.
        out_dir: receives archives in the official layout and `classes.txt`, a class id per line in
            label order; what has an archive's name there is never overwritten.
        resize_filter: a key of `views.FILTERS`.
        data_dir, cache_dir: as for `datasets.prepare`.
        progress: called as `progress(description, done, total)`.

    Returns:
        dict, fit for JSON: dataset (what recipes call the result: for `imagenet2012` that of
        ImageNet64 and its kin, as unverified, for pixels depend on the decoder), size, filter,
        images by split, archives, location of the store, bytes of archives and store together.

    Raises:
        UserError: an unknown name, size or filter, a set whose images have one size already, no
            room, an archive in the way, or another process is at work there.
        RunFailed: writing broke off, or an image is gone.
    """
    _check(name, size, resize_filter)
    stores = {
        split: datasets.open_dataset(name, split, data_dir=data_dir, cache_dir=cache_dir)
        for split in datasets.find_dataset(name).splits
    }
    target = _target(name, size, resize_filter, stores["train"], data_dir, cache_dir)
    target.place.refuse_if_being_packed()
    with _alone_in(expand(out_dir)) as folder, _as_run_failed(folder):
        works = [_Work(folder, store, View(size, resize_filter)) for store in stores.values()]
        _refuse_existing(folder, target, begun=works[0].is_begun())
        _require_room(folder, target, works)
        made = {work.store.split: (work.finish(progress), target.labels(work)) for work in works}
        paths = _write_archives(folder, target, made, progress)
        _write_store(target, made, f"downsampled from {name} with {resize_filter}", progress)
        for work in works:
            work.remove()
    return {
        "dataset": target.place.dataset.name,
        "size": size,
        "filter": resize_filter,
        "pictures": {split: len(labels) for split, (_, labels) in made.items()},
        "archives": [str(path) for path in paths],
        "location": str(target.place.packed_dir),
        "bytes": sum(path.stat().st_size for path in paths) + target.place.packed_bytes(),
    }


def _check(name, size, resize_filter):
    check_filter(resize_filter)
    if type(size) is not int or size not in SIZES:
        raise UserError(
            f"--size must be a whole number from {SIZES[0]} to {SIZES[-1]}; received {size}"
        )
    if image_size := datasets.find_dataset(name).image_size:
        able = [row.name for row in datasets.DATASETS.values() if row.image_size is None]
        raise UserError(
            f"{name} has images of {image_size} x {image_size} pixels already; those of "
            f"{', '.join(able)} can be downsampled"
        )


# ------------------------------------------------------------------------- what is made, and where


@dataclass(frozen=True)
class _Target:
    """Where the result goes, under which names, and in which label order.

    Attributes:
        place: of the packed store.
        file_names: of the archives, validation last.
        wnids, class_names: in label order.
    """

    place: object
    file_names: list
    wnids: list
    class_names: list

    def labels(self, work):
        """int32 [N] of a work's images, in this label order."""
        label_of = {wnid: label for label, wnid in enumerate(self.wnids)}
        labels = np.array([label_of.get(wnid, -1) for wnid in work.store.wnids], np.int32)
        return labels[work.store.labels]

    def class_list(self):
        return "".join(f"{wnid}\n" for wnid in self.wnids)


def _target(name, size, resize_filter, store, data_dir, cache_dir):
    """ImageNet's own place and names where it is ImageNet, else some named after the set."""
    own_name, prefix = name.rpartition("/")[2], f"{name.rpartition('/')[2]}{size}"
    names = dict(zip(store.wnids, store.class_names, strict=True))
    wnids = sorted(names)
    class_names = [names[wnid] for wnid in wnids]
    published = []
    if name == "imagenet2012":
        _refuse_strangers(store)
        prefix, published = f"Imagenet{size}", archives.archives_of(size)
        wnids, class_names = archives.imagenet_wnids(), archives.imagenet_class_names()
    file_names = [archive.file_name for archive in published]
    file_names = file_names or [f"{prefix}_{split}_npz.zip" for split in ("train", "val")]
    if published and resize_filter == "box":
        dataset = datasets.find_dataset(f"imagenet_resized/{size}x{size}")
        _, place = datasets.locations_of(dataset, data_dir, cache_dir)
    else:
        suffix = "" if resize_filter == "box" else f"_{resize_filter}"
        dataset = datasets.find_dataset(f"{datasets.DOWNSAMPLED}/{own_name}_{size}x{size}{suffix}")
        verified, unverified = datasets.locations_of(dataset, data_dir, cache_dir)
        place = verified if store.verified else unverified
    return _Target(place, file_names, wnids, class_names)


def _refuse_strangers(store):
    strange = set(store.wnids) - set(archives.imagenet_wnids())
    if strange:
        raise UserError(
            f"{store.dataset} has the class {min(strange)}, which is none of ImageNet's 1,000: "
            "prepare it as image_folder/NAME and downsample that"
        )


def _refuse_existing(folder, target, begun):
    """What has an archive's name is another's, unless this very work was begun before it came."""
    for path in (folder / file_name for file_name in target.file_names):
        if os.path.lexists(path) and not begun:
            raise UserError(
                f"{path} exists and is never overwritten: remove it, or name another folder with "
                "--out"
            )
    classes = folder / "classes.txt"
    if (
        os.path.lexists(classes)
        and classes.read_text("utf-8", "replace").split("\n")[:-1] != target.wnids
    ):
        raise UserError(f"{classes} is of other classes: name another folder with --out")


@contextlib.contextmanager
def _alone_in(folder):
    """The folder, made if need be, with no other process downsampling into it."""
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} cannot be written ({os_error_text(error, folder)}); name another with --out"
        ) from None
    try:
        if not _is_locked(descriptor, folder / LOCK):
            raise UserError(
                f"another process is downsampling into {folder}: wait until it is done, or name "
                "another folder with --out"
            )
        try:
            yield folder
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds what is done, unless that was refused
                if is_new:
                    folder.rmdir()
    finally:
        os.close(descriptor)


def _is_locked(descriptor, path):
    """Whether we hold the lock, and on the file that still has its name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _require_room(folder, target, works):
    """Pixels lie thrice on the disk before the end: as made, in the archives and in the store."""
    pixels = sum(work.bytes for work in works)
    there = sum(work.allocated() for work in works)
    needed = max(0, 2 * pixels - there) + packing.SLACK_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"downsampling needs {needed:,} bytes in {folder}, where {free:,} are free; free some "
            "or name another folder with --out"
        )
    store = target.place.packed_dir
    same_disk = os.stat(check_writable(store)).st_dev == os.stat(folder).st_dev
    packing.require_space(store, pixels + (needed if same_disk else 0), "packing the result")


@contextlib.contextmanager
def _as_run_failed(folder):
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"downsampling into {folder} broke off ({os_error_text(error, folder)}); mend that and "
            "run the same command again, which goes on from there"
        ) from error


# -------------------------------------------------------------------------------- making the pixels


class _Work:
    """The pixels of one split in the making: a file of them all, and a note of what is done.

    The note is written after the chunk has reached the disk, so what it says is there. Pixels are
    written as a file and not through memory, where a full disk would end the process.
    """

    def __init__(self, out_dir, store, view):
        self.folder, self.store, self.view = out_dir / WORK.format(store.split), store, view
        self.shape = (len(store), view.image_size, view.image_size, 3)
        self.bytes = int(np.prod(self.shape, dtype=np.int64))
        self.file = self.folder / PIXELS
        self.what = {
            "dataset": store.dataset,
            "digest": store.digest,
            "size": view.image_size,
            "filter": view.resize_filter,
            "pillow": PIL.__version__,
            "chunk": CHUNK,
        }

    def is_begun(self):
        return self._num_done() is not None

    def allocated(self):
        """Bytes of the disk that this work has taken already, and will use."""
        return self.file.stat().st_blocks * 512 if self.is_begun() else 0

    def _num_done(self):
        """How many chunks of this very work are there; None where it has not been begun."""
        try:
            note = read_json(self.folder / STATE)
            done = note.pop("chunks")
            fits = note == self.what and self.file.stat().st_size == self.bytes
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return None
        return done if fits and type(done) is int and done >= 0 else None

    def finish(self, progress):
        """Make what is missing. Returns uint8 [N, S, S, 3], memory-mapped."""
        if not self.is_begun():
            self._begin()
        count, step = len(self.store), int(np.prod(self.shape[1:]))
        what = f"downsampling {self.store.dataset} {self.store.split}"
        with open(self.file, "r+b") as file, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for chunk in itertools.count(self._num_done()):
                positions = range(count)[chunk * CHUNK : (chunk + 1) * CHUNK]
                if not positions:
                    break
                file.seek(positions[0] * step)
                for pixels in pool.map(self._shown, positions):
                    file.write(pixels)
                sync_file(file)
                self._note(chunk + 1)
                if progress:
                    progress(what, positions[-1] + 1, count)
        return np.memmap(self.file, np.uint8, "r", shape=self.shape)

    def _begin(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        with open(self.file, "xb") as file:
            file.truncate(self.bytes)
        self._note(0)

    def _note(self, num_done):
        write_json(self.folder / STATE, self.what | {"chunks": num_done})

    def _shown(self, position):
        """The bytes of one small image."""
        (content,) = self.store.read([position])
        where = f"{self.store.file_of(position)} (image {position})"
        orientation = int(self.store.records["orientation"][position])
        with as_sentences(where), opened(io.BytesIO(content), where) as image:
            image.load()
            return self.view.show(turned(rgb(image, where), orientation)).tobytes()

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


# ------------------------------------------------------------------------------ writing the results


def _write_archives(folder, target, made, progress):
    """The archives and `classes.txt`. Returns the archives' paths."""
    paths = [folder / file_name for file_name in target.file_names]
    count = len(made["train"][0])
    archives.write_archives(
        paths[:-1],
        paths[-1],
        made["train"],
        made["validation"],
        num_batches=max(len(paths) - 1, min(NUM_BATCHES, count)),
        order=generator(0, 0, "downsample").permutation(count),
        progress=progress,
    )
    write_atomic(folder / CLASSES, target.class_list())
    return paths


def _write_store(target, made, source, progress):
    place = target.place
    with place.replaced() as incoming:
        for split, (images, labels) in made.items():
            packing.write_store(
                incoming / split,
                _in_batches(images, labels),
                dataset=place.dataset.name,
                split=split,
                count=len(labels),
                image_size=place.dataset.image_size,
                wnids=target.wnids,
                class_names=target.class_names,
                source=source,
                verified=place.verified,
                progress=progress,
            )


def _in_batches(images, labels):
    for start in range(0, len(labels), CHUNK):
        yield images[start : start + CHUNK], labels[start : start + CHUNK]
