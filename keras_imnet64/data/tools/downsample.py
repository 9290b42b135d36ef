"""Downsamples the images of a data set as ImageNet64 was made, for the recipes of ImageNet64.

The images of an encoded store become archives in the official layout (see `sources.archives`) and a
raw store that recipes can name. Images are resized chunk by chunk into a folder beside the
archives, so that an interrupted command can be resumed.
"""

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import PIL

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import is_at, sync_file, write_atomic, write_json
from keras_imnet64.core.paths import check_writable, expand, os_error_text, refuse_existing
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.core.validation import read_record, to_json
from keras_imnet64.data import datasets
from keras_imnet64.data.images.reading import (
    apply_orientation,
    open_image,
    to_rgb,
)
from keras_imnet64.data.images.views import View, check_filter
from keras_imnet64.data.locations import DatasetLocation
from keras_imnet64.data.order import generator
from keras_imnet64.data.sources import archives
from keras_imnet64.data.stores import packing
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.records import DownsamplingState

SIZES = range(8, 257)
CHUNK = 1024  # images between two records of progress
NUM_BATCHES = 10  # npz files of the training set, as published
# In the folder of the archives: a work folder for each split, with two files; a lock; class ids.
WORK_FOLDER, STATE, PIXELS = ".downsampling-{}", "made.json", "images.uint8"
LOCK, CLASSES = ".downsampling.lock", "classes.txt"


def downsample(
    name: str,
    *,
    size: int,
    out_dir: StrPath,
    resize_filter: str = "box",
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    progress: PackProgress | None = None,
    say: Callable[[str], None] | None = None,
) -> JsonObject:
    """Resizes every image of a data set to size x size, whatever its aspect ratio.

    The default is Pillow's box filter, as published (arXiv:1707.08819). A call with the same
    arguments resumes an interrupted call, unless the images or Pillow have changed.

    Args:
        name: a prepared data set of images of any size.
        size: pixels per side, in SIZES.
        out_dir: receives archives in the official layout and `classes.txt`, with a class id per
            line in label order; existing archives are never overwritten.
        resize_filter: a key of `views.FILTERS`.
        data_dir, cache_dir: as for `datasets.prepare`.
        progress: called as `progress(description, done, total)`.
        say: called with a sentence, before the work begins, if the result is not verified, but
            verified images of its name take precedence over it.

    Returns:
        dict, fit for JSON: dataset (what recipes call the result; for `imagenet2012` the name of
        ImageNet64 or its siblings, as unverified, since pixels depend on the decoder), size,
        filter, images by split, archives, location of the store, bytes of archives and store.

    Raises:
        UserError: unknown name, size or filter; a data set whose images have one size already; a
            full disk; an existing archive; or another process that downsamples there.
        RunFailed: writing failed, or an image is gone or has changed since it was indexed.
    """
    _check(name, size, resize_filter)
    view = View(size, resize_filter)
    stores = _open_stores(name, data_dir, cache_dir)
    output = _output(name, view, stores["train"], data_dir, cache_dir)
    output.location.refuse_if_being_packed()
    if not output.location.verified:
        verified, _ = datasets.locations_of(output.location.dataset, data_dir, cache_dir)
        datasets.warn_of_precedence(verified, "move it away", say)
    with _locked(expand(out_dir)) as folder, _report_os_errors(folder):
        works = {split: _ResizedSplit(folder, store, view) for split, store in stores.items()}
        if not works["train"].is_begun():
            for file_name in output.file_names:
                refuse_existing(folder / file_name)
        _refuse_other_class_list(folder, output.wnids)
        _require_space(folder, output.location.packed_dir, list(works.values()))
        splits = {
            split: (work.finish(progress), output.labels(work.store))
            for split, work in works.items()
        }
        paths = _write_archives(folder, output, splits, progress)
        _write_store(output, splits, f"downsampled from {name} with {resize_filter}", progress)
        for work in works.values():
            work.remove()
    return {
        "dataset": output.location.dataset.name,
        "size": size,
        "filter": resize_filter,
        "images": {split: len(labels) for split, (_, labels) in splits.items()},
        "archives": [str(path) for path in paths],
        "location": str(output.location.packed_dir),
        "bytes": sum(path.stat().st_size for path in paths) + output.location.packed_bytes(),
    }


def _check(name: str, size: int, resize_filter: str) -> None:
    check_filter(resize_filter)
    if type(size) is not int or size not in SIZES:
        raise UserError(
            f"--size must be a whole number from {SIZES[0]} to {SIZES[-1]}; received {size}"
        )
    if image_size := datasets.find_dataset(name).image_size:
        possible = [row.name for row in datasets.DATASETS.values() if row.image_size is None]
        raise UserError(
            f"{name} has images of {image_size} x {image_size} pixels already; those of "
            f"{', '.join(possible)} can be downsampled"
        )


def _open_stores(
    name: str, data_dir: StrPath | None, cache_dir: StrPath | None
) -> dict[str, EncodedStore]:
    stores = {}
    for split in datasets.find_dataset(name).splits:
        store = datasets.open_dataset(name, split, data_dir=data_dir, cache_dir=cache_dir)
        assert isinstance(store, EncodedStore)  # raw stores have one image size: see `_check`
        stores[split] = store
    return stores


# -------------------------------------------------------------------------------------- the output


@dataclass(frozen=True)
class _Output:
    """The location of the result, its names and its label order.

    Attributes:
        location: where the raw store is packed.
        file_names: names of the archives, validation last.
        wnids, class_names: in label order.
    """

    location: DatasetLocation
    file_names: list[str]
    wnids: list[str]
    class_names: list[str]

    def labels(self, store: EncodedStore) -> np.ndarray:
        """Returns the labels of a store's images in the order of `wnids`, int32 [N]."""
        label_of = {wnid: label for label, wnid in enumerate(self.wnids)}
        labels = np.array([label_of.get(wnid, -1) for wnid in store.wnids], np.int32)
        return labels[store.labels]


def _output(
    name: str,
    view: View,
    store: EncodedStore,
    data_dir: StrPath | None,
    cache_dir: StrPath | None,
) -> _Output:
    """Returns the official location and names for ImageNet, else some made from `name`."""
    own_name, size = name.rpartition("/")[2], view.image_size
    if name == "imagenet2012":
        _refuse_other_classes(store)
        prefix, published = "Imagenet", [a.file_name for a in archives.archives_of(size)]
        wnids, class_names = archives.imagenet_wnids(), archives.imagenet_class_names()
    else:
        prefix, published = own_name, []
        names = dict(zip(store.wnids, store.class_names, strict=True))
        wnids = sorted(names)
        class_names = [names[wnid] for wnid in wnids]
    file_names = published or [f"{prefix}{size}_{split}_npz.zip" for split in ("train", "val")]
    if published and view.resize_filter == "box":
        dataset = datasets.find_dataset(f"imagenet_resized/{size}x{size}")
        _, location = datasets.locations_of(dataset, data_dir, cache_dir)
    else:
        suffix = "" if view.resize_filter == "box" else f"_{view.resize_filter}"
        dataset = datasets.find_dataset(f"{datasets.DOWNSAMPLED}/{own_name}_{size}x{size}{suffix}")
        verified, unverified = datasets.locations_of(dataset, data_dir, cache_dir)
        location = verified if store.verified else unverified
    return _Output(location, file_names, wnids, class_names)


def _refuse_other_classes(store: EncodedStore) -> None:
    """Refuses a store of `imagenet2012` with classes that are not ImageNet's."""
    others = set(store.wnids) - set(archives.imagenet_wnids())
    if others:
        raise UserError(
            f"{store.dataset} has the class {min(others)}, which is not one of ImageNet's 1,000: "
            "prepare it as image_folder/NAME and downsample that"
        )


def _refuse_other_class_list(folder: Path, wnids: Sequence[str]) -> None:
    path = folder / CLASSES
    if os.path.lexists(path) and path.read_text("utf-8", "replace") != _class_list(wnids):
        raise UserError(f"{path} lists other classes: choose another folder with --out")


def _class_list(wnids: Sequence[str]) -> str:
    return "".join(f"{wnid}\n" for wnid in wnids)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Makes the folder if needed, and locks it against other processes that downsample into it."""
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        file = os.fdopen(descriptor, "r+b")
        is_mine = _acquire_lock(file, folder / LOCK)
    except (OSError, ValueError) as error:  # of the lock where the file system has none
        raise UserError(
            f"{folder} cannot be written ({os_error_text(error, folder)}); "
            "choose another folder with --out"
        ) from None
    with file:
        if not is_mine:
            raise UserError(
                f"another process is downsampling into {folder}: wait until it is done, or "
                "choose another folder with --out"
            )
        try:
            yield folder
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the folder is empty only if the call was refused
                if is_new:
                    folder.rmdir()


def _acquire_lock(file: IO[bytes], path: Path) -> bool:
    """Returns whether this process now holds the lock, and the locked file still has its name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return is_at(path, file)


@contextlib.contextmanager
def _report_os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"downsampling into {folder} failed ({os_error_text(error, folder)}); fix that and run "
            "the same command again, which resumes the work"
        ) from error


# -------------------------------------------------------------------------------------- the pixels


class _ResizedSplit:
    """Resizes the images of one split into a file of pixels, chunk by chunk.

    The number of finished chunks is recorded only when their pixels are on the disk, so that every
    recorded chunk is complete. The file is not memory-mapped for writing, since a full disk
    would then end the process.

    Args:
        out_dir: the folder of the archives.
        store: holds the large images.
        view: resizes them.
    """

    def __init__(self, out_dir: Path, store: EncodedStore, view: View) -> None:
        self.store = store
        self._view = view
        self._folder = out_dir / WORK_FOLDER.format(store.split)
        self._file = self._folder / PIXELS
        self._shape = (len(store), view.image_size, view.image_size, 3)
        self.bytes = int(np.prod(self._shape, dtype=np.int64))
        self._begin_state = DownsamplingState(
            dataset=store.dataset,
            digest=store.digest,
            size=view.image_size,
            resize_filter=view.resize_filter,
            pillow_version=PIL.__version__,
            images_per_chunk=CHUNK,
            num_chunks=0,
        )

    def is_begun(self) -> bool:
        return self._num_chunks() is not None

    def allocated_bytes(self) -> int:
        """Returns the bytes that the file of pixels takes on the disk already."""
        return self._file.stat().st_blocks * 512 if self.is_begun() else 0

    def _num_chunks(self) -> int | None:
        """Returns the number of finished chunks; None if no call with these arguments was begun."""
        try:
            state = read_record(DownsamplingState, self._folder / STATE)
            is_same = replace(state, num_chunks=0) == self._begin_state
            is_whole = self._file.stat().st_size == self.bytes
        except (OSError, ValueError):
            return None
        return state.num_chunks if is_same and is_whole and state.num_chunks >= 0 else None

    def finish(self, progress: PackProgress | None) -> np.ndarray:
        """Resizes the remaining images. Returns all, uint8 [N, S, S, 3], memory-mapped."""
        num_chunks = self._num_chunks()
        if num_chunks is None:
            self._begin()
        total, image_bytes = len(self.store), int(np.prod(self._shape[1:]))
        description = f"downsampling {self.store.dataset} {self.store.split}"
        with open(self._file, "r+b") as file, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range((num_chunks or 0) * CHUNK, total, CHUNK):
                positions = range(start, min(start + CHUNK, total))
                file.seek(start * image_bytes)
                for pixels in pool.map(self._resized, positions):
                    file.write(pixels)
                sync_file(file)
                self._record(start // CHUNK + 1)
                if progress:
                    progress(description, positions.stop, total)
        return np.memmap(self._file, np.uint8, "r", shape=self._shape)

    def _begin(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        with open(self._file, "xb") as file:
            file.truncate(self.bytes)
        self._record(0)

    def _record(self, num_chunks: int) -> None:
        state = replace(self._begin_state, num_chunks=num_chunks)
        write_json(self._folder / STATE, to_json(state))

    def _resized(self, position: int) -> bytes:
        """Returns the bytes of one resized image, uint8 [S, S, 3].

        Raises:
            ImageFailed: the image is gone, or has changed since it was indexed.
        """
        (content,) = self.store.read(np.array([position]))
        file = self.store.file_of(position)
        orientation = int(self.store.records["orientation"][position])
        with (
            self.store.image_as_indexed(position, content),
            open_image(io.BytesIO(content), file) as image,
        ):
            image.load()
            return self._view.show(apply_orientation(to_rgb(image, file), orientation)).tobytes()

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _require_space(folder: Path, store_folder: Path, works: Sequence[_ResizedSplit]) -> None:
    """Refuses disks without space for three copies: resized images, archives and store."""
    pixels = sum(work.bytes for work in works)
    allocated = sum(work.allocated_bytes() for work in works)
    needed = max(0, 2 * pixels - allocated) + packing.SLACK_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"downsampling needs {needed:,} bytes in {folder}, where {free:,} are free; free some "
            "or choose another folder with --out"
        )
    same_disk = os.stat(check_writable(store_folder)).st_dev == os.stat(folder).st_dev
    packing.require_space(store_folder, pixels + (needed if same_disk else 0), "packing the result")


# ------------------------------------------------------------------------------ writing the results


def _write_archives(
    folder: Path,
    output: _Output,
    splits: Mapping[str, archives.Images],
    progress: PackProgress | None,
) -> list[Path]:
    """Writes the archives and `classes.txt`. Returns the paths of the archives."""
    paths = [folder / file_name for file_name in output.file_names]
    count = len(splits["train"][0])
    archives.write_archives(
        paths[:-1],
        paths[-1],
        splits["train"],
        splits["validation"],
        num_batches=max(len(paths) - 1, min(NUM_BATCHES, count)),
        order=generator(0, 0, "downsample").permutation(count),
        progress=progress,
    )
    write_atomic(folder / CLASSES, _class_list(output.wnids))
    return paths


def _write_store(
    output: _Output,
    splits: Mapping[str, archives.Images],
    source: str,
    progress: PackProgress | None,
) -> None:
    location = output.location
    with location.replaced() as incoming:
        for split, (images, labels) in splits.items():
            packing.write_store(
                incoming / split,
                _batches(images, labels),
                dataset=location.dataset.name,
                split=split,
                count=len(labels),
                image_size=images.shape[1],
                wnids=output.wnids,
                class_names=output.class_names,
                source=source,
                form="downsampled",
                verified=location.verified,
                progress=progress,
            )


def _batches(images: np.ndarray, labels: np.ndarray) -> Iterator[archives.Images]:
    for start in range(0, len(labels), CHUNK):
        yield images[start : start + CHUNK], labels[start : start + CHUNK]
