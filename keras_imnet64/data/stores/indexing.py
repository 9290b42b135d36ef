"""Writes encoded stores: decodes every listed image and records its place in its file.

An image is indexed only if it is undamaged (see `damage`). If training, which decodes with
TensorFlow, gets other pixels than Pillow, the store keeps a PNG of the image. `encoded` describes
the files of a store; the lists of images come from `sources`.
"""

import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from keras_imnet64.backend.loading import import_tensorflow
from keras_imnet64.core.errors import RunFailed, UserError, first_few, printable
from keras_imnet64.core.files import sync_file
from keras_imnet64.core.paths import portable
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.core.validation import read_record
from keras_imnet64.data.images.damage import JPEG_FORMATS, check_undamaged
from keras_imnet64.data.images.reading import (
    Unreadable,
    apply_orientation,
    exif_orientation,
    open_image,
    report_image_errors,
    report_unreadable,
    to_rgb,
)
from keras_imnet64.data.stores.base import class_counts
from keras_imnet64.data.stores.encoded import (
    CONVERTED,
    HASH_BYTES,
    IN_CONVERTED,
    RECORD,
    EncodedStore,
    digest_of,
)
from keras_imnet64.data.stores.files import save_array
from keras_imnet64.data.stores.opening import open_store
from keras_imnet64.data.stores.packing import (
    SLACK_BYTES,
    file_sizes,
    new_store,
    publish_store,
    require_space,
    write_meta,
)
from keras_imnet64.records import EncodedStoreMeta, SourceForm

CHUNK = 256  # images that are examined at the same time, which bounds memory
UNCONVERTED_KINDS = {(kind, mode) for kind in (*JPEG_FORMATS, "PNG") for mode in ("L", "RGB")}
BYTES_PER_IMAGE = 240  # of the index, with file names of usual length


@dataclass(frozen=True)
class ImageEntry:
    """An image that a source lists.

    Attributes:
        name: of its file below the root, with "/" between its parts.
        label: its class, from 0.
        offset, length: of its bytes in that file; length None means the whole file.
        member: its name within that file, such as a tar, for messages.
    """

    name: str
    label: int
    offset: int = 0
    length: int | None = None
    member: str = ""

    @property
    def in_words(self) -> str:
        return f"{self.name}: {self.member}" if self.member else self.name


ReadImages = Callable[[Sequence[ImageEntry]], Iterator[bytes]]  # their bytes, in order
Damaged = tuple[ImageEntry, str]  # a damaged image, and what is wrong with it, as a clause


def write_index(
    path: Path,
    entries: Sequence[ImageEntry],
    *,
    root: Path,
    dataset: str,
    split: str,
    wnids: Sequence[str],
    class_names: Sequence[str],
    source: str,
    verified: bool,
    form: SourceForm | None = None,
    contents: Iterable[bytes] | None = None,
    origin: str = "",
    given: StrPath | None = None,
    options: Sequence[str] = (),
    skipped: list[tuple[str, str]] | None = None,
    progress: PackProgress | None = None,
) -> EncodedStore:
    """Indexes a list of images into the folder `path`, replacing what was there.

    Args:
        path: the store's folder; its parents are made.
        entries: the images, in the order of the store.
        root: the folder below which their files lie.
        contents: the bytes of the images in the order of `entries`, which the store copies; None
            reads the images from their files, where they stay.
        origin: the address of a remote source, from which `root` is a copy.
        given, options: source and options of `data prepare`, see `EncodedStoreMeta`; None: `root`.
        skipped: receives (name, reason) of damaged images, which are left out; None refuses them.
        others: as for `packing.write_store`.

    Raises:
        UserError: an image is damaged, a class of `train` or the whole split has no undamaged
            images, or the disk is full.
        RunFailed: a write failed.
    """
    import_tensorflow()
    task = f"indexing {dataset} {split}"
    with new_store(path, task, len(entries) * BYTES_PER_IMAGE + SLACK_BYTES) as work:
        with open(work / CONVERTED, "wb") as converted:
            index = _Index(root, work, converted, len(entries), task)
            damaged = index.add_images(entries, contents, skipped is not None, progress)
            if split == "train":  # `prepare` only warns of a class without validation images
                index.refuse_lost_classes(damaged, wnids, split)
            if damaged and not index.count:
                raise UserError(
                    f"{root} has no undamaged images left in {split}: {_in_words(damaged)}; fix "
                    "the damaged images, or add others"
                )
            labels = index.write()
        if skipped is not None:
            skipped.extend((entry.in_words, fault) for entry, fault in damaged)
        meta = EncodedStoreMeta(
            dataset=dataset,
            source=source,
            form=form,
            verified=verified,
            split=split,
            count=len(labels),
            wnids=list(wnids),
            class_names=list(class_names),
            root=origin or portable(root),
            copied=contents is not None,
            given=origin or portable(Path(os.path.abspath(given or root))),
            options=list(options),
            digest=digest_of(index.hashes[: len(labels)], labels),
            class_counts=class_counts(labels, len(wnids)),
            file_sizes=file_sizes(work),
        )
        publish_store(work, path, meta)
    store = open_store(path)
    assert isinstance(store, EncodedStore)
    return store


def mark_unverified(path: Path) -> None:
    """Records in a store that its images are not what the data set's name promises."""
    meta = read_record(EncodedStoreMeta, path / "meta.json")
    try:
        write_meta(path, replace(meta, verified=False))
    except OSError as error:
        raise RunFailed(f"{path / 'meta.json'} could not be written ({error})") from error


class _Index:
    """The arrays of an encoded store while its images are examined.

    Args:
        root: the folder below which the image files lie.
        folder: receives the arrays.
        converted: the open file CONVERTED, which receives PNGs.
        max_images: number of images that may be added.
        task: for messages, such as "indexing pets train".
    """

    def __init__(
        self, root: Path, folder: Path, converted: BinaryIO, max_images: int, task: str
    ) -> None:
        self.root, self.folder, self.converted, self.count = root, folder, converted, 0
        self.task = task
        self.files: dict[str, int] = {}  # name -> number
        self.records, self.sums = np.zeros(max_images, RECORD), np.zeros((max_images, 6))
        self.hashes = np.zeros((max_images, HASH_BYTES), np.uint8)
        self.labels = np.zeros(max_images, np.int32)

    def add_images(
        self,
        entries: Sequence[ImageEntry],
        contents: Iterable[bytes] | None,
        skip_damaged: bool,
        progress: PackProgress | None,
    ) -> list[Damaged]:
        """Examines the images in threads, and adds them in the order of `entries`.

        Returns:
            The damaged images, which are left out.

        Raises:
            UserError: an image is damaged, and `skip_damaged` is False.
        """
        damaged: list[Damaged] = []
        done, total = 0, len(entries)
        given: Iterator[bytes | None]
        given = itertools.repeat(None) if contents is None else iter(contents)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            waiting = iter(entries)
            while chunk := list(itertools.islice(waiting, CHUNK)):
                copies = list(itertools.islice(given, len(chunk)))
                examined = pool.map(self._examine, chunk, copies)
                for entry, copy, found in zip(chunk, copies, examined, strict=True):
                    if not isinstance(found, UserError):
                        self._add(entry, found, copy)
                    elif not skip_damaged:
                        raise UserError(f"{found}; pass --skip-corrupt to leave out such images")
                    else:
                        fault = str(found).removeprefix(f"{printable(self._path_of(entry))} ")
                        damaged.append((entry, fault))
                done += len(chunk)
                if progress:
                    progress(self.task, done, total)
        return damaged

    def _examine(self, entry: ImageEntry, copy: bytes | None) -> "ExaminedImage | UserError":
        """Returns what the index records about an image, or the error if it is damaged.

        Args:
            copy: its bytes; None reads them from its file.

        Raises:
            Unreadable: the system refuses access to the file, which may be undamaged.
        """
        file, shown_path = self.root / entry.name, self._path_of(entry)
        try:
            with report_unreadable(file):
                if copy is None and not file.is_file():  # reading a pipe would never end
                    raise UserError(f"{shown_path} is not a file")
            with report_image_errors(shown_path):
                content = _read_entry(file, entry) if copy is None else copy
                if not content:
                    raise UserError(f"{shown_path} is empty")
                return examine_image(content, shown_path)
        except Unreadable:
            raise
        except UserError as error:
            return error

    def _path_of(self, entry: ImageEntry) -> str:
        """Returns the path of an image for messages."""
        return str(self.root / entry.in_words)

    def _add(self, entry: ImageEntry, image: "ExaminedImage", copy: bytes | None) -> None:
        if kept := image.converted or copy:
            number = IN_CONVERTED - 1 - self._number_of(entry.in_words)
            offset, length = self.converted.tell(), len(kept)
            self._require_space(length)
            self.converted.write(kept)
        else:
            number = self._number_of(entry.name)
            offset, length = entry.offset, image.length
        self.records[self.count] = (
            *(number, offset, length),
            *(image.height, image.width, image.orientation),
        )
        self.sums[self.count] = image.sums
        self.labels[self.count] = entry.label
        self.hashes[self.count] = np.frombuffer(image.sha256, np.uint8)
        self.count += 1

    def _number_of(self, name: str) -> int:
        """Returns the position of a name in files.npy."""
        return self.files.setdefault(name, len(self.files))

    def _require_space(self, length: int) -> None:
        """Refuses a PNG that does not fit on the disk; the size of all is known only at the end."""
        purpose = f"{self.task}, with {self.count:,} images done and more to keep in the store,"
        require_space(self.folder, length + SLACK_BYTES, purpose)

    def refuse_lost_classes(
        self, damaged: Sequence[Damaged], wnids: Sequence[str], split: str
    ) -> None:
        """Refuses a split in which all images of a class were left out."""
        lost = {entry.label for entry, _ in damaged} - set(self.labels[: self.count].tolist())
        if lost:
            of_class = [each for each in damaged if each[0].label == min(lost)]
            raise UserError(
                f"{self.root} has no whole image of {wnids[min(lost)]} in {split}, even with "
                f"--skip-corrupt ({_in_words(of_class)}): fix the damaged images, add others, or "
                "move the class away"
            )

    def write(self) -> np.ndarray:
        """Writes the arrays, and returns the labels, int32 [N]."""
        sync_file(self.converted)
        labels = self.labels[: self.count]
        arrays = {
            "files": np.array([os.fsencode(name) for name in self.files], np.bytes_),
            "pictures": self.records[: self.count],
            "hashes": self.hashes[: self.count],
            "moments": self.sums[: self.count],
            "labels": labels,
        }
        for name, array in arrays.items():
            save_array(self.folder / f"{name}.npy", array)
        return labels


def _in_words(damaged: Sequence[Damaged]) -> str:
    """Returns the first few damaged images, and what is wrong with each."""
    return printable(first_few([f"{entry.in_words} {fault}" for entry, fault in damaged]))


def read_in_place(root: Path, entries: Iterable[ImageEntry]) -> Iterator[bytes]:
    """Yields the bytes of images that are files or pieces of files.

    Raises:
        OSError: a file cannot be read.
    """
    return (_read_entry(root / entry.name, entry) for entry in entries)


def _read_entry(file: Path, entry: ImageEntry) -> bytes:
    """Returns the bytes of an image."""
    with open(file, "rb") as opened_file:
        opened_file.seek(entry.offset)
        return opened_file.read(-1 if entry.length is None else entry.length)


# ----------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class ExaminedImage:
    """What an index records about an undamaged image; see `encoded.RECORD`.

    Attributes:
        length: of its bytes, as they were read.
        sums: float64 [6], the mean of each channel, then of its square.
        converted: its PNG if training would decode its bytes otherwise, else empty.
    """

    length: int
    height: int
    width: int
    orientation: int
    sums: np.ndarray
    sha256: bytes
    converted: bytes


def examine_image(content: bytes, path: str) -> ExaminedImage:
    """Decodes an image, and returns what an index records about it.

    Raises:
        UserError: the image is of a kind that is not read.
        Exception: the image is damaged: a DamagedImage, or any error of Pillow.
    """
    with open_image(io.BytesIO(content), path) as image:
        is_clean = check_undamaged(content, image.format)
        image.load()
        orientation = exif_orientation(image)
        is_plain = (image.format, image.mode) in UNCONVERTED_KINDS and not _needs_pillow(image)
        colours = to_rgb(image, path)
        is_progressive = "progressive" in image.info
        is_kept = (
            is_clean
            and is_plain
            and _is_decoded_alike(np.asarray(colours), content, is_progressive=is_progressive)
        )
        if not is_kept:
            colours, orientation = apply_orientation(colours, orientation), 1
    pixels = np.asarray(colours)
    return ExaminedImage(
        length=len(content),
        height=pixels.shape[0],
        width=pixels.shape[1],
        orientation=orientation,
        sums=_channel_means(pixels),
        sha256=hashlib.sha256(content).digest(),
        converted=b"" if is_kept else _png(colours),
    )


def _needs_pillow(image: Image.Image) -> bool:
    """Returns whether an image is partly transparent, or an animated PNG."""
    is_animated = image.format == "PNG" and getattr(image, "n_frames", 1) > 1
    return image.has_transparency_data or is_animated


def _is_decoded_alike(pixels: np.ndarray, content: bytes, *, is_progressive: bool) -> bool:
    """Returns whether training decodes a file to exactly these pixels, uint8 [h, w, 3].

    The quarters of a progressive JPEG are compared too: if scans are missing, decoders smooth block
    borders, with other neighbours in a window than in the whole image.
    """
    from keras_imnet64.data.stores.decoding import decode_eagerly

    height, width = pixels.shape[:2]
    boxes = [(0, 0, height, width)]
    if is_progressive:
        boxes += _quarters(height, width)
    for top, left, rows, columns in boxes:
        decoded = decode_eagerly(content, (height, width), (top, left, rows, columns))
        expected = pixels[top : top + rows, left : left + columns]
        if decoded is None or not np.array_equal(decoded, expected):
            return False
    return True


def _quarters(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Returns (top, left, height, width) of each quarter of an image."""
    down, right = height // 2, width // 2
    return [
        (top, left, rows, columns)
        for top, rows in ((0, down), (down, height - down))
        for left, columns in ((0, right), (right, width - right))
        if rows and columns
    ]


def _channel_means(pixels: np.ndarray) -> np.ndarray:
    """Returns the mean of each channel, then of its square, float64 [6], from exact integers."""
    from keras_imnet64.data.stores.sums import channel_sums

    return channel_sums(pixels).ravel() / (pixels.shape[0] * pixels.shape[1])


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()
