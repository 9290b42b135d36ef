"""Tiny ImageNet, read from its zip or its unpacked folder; nothing is unpacked to disk.

Layout: `wnids.txt`, `words.txt`, `train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` and
`val/val_annotations.txt` (file, wnid and a box per line), as a rule below `tiny-imagenet-200/`.
Scripts of tutorials sort the validation images into `val/<wnid>/images/` or `val/<wnid>/`, and
drop `images/` below `train/<wnid>/` too: the same images in the same order, whatever the layout.
"""

import io
import os
import re
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import decode_text, read_small
from keras_imnet64.core.paths import expand
from keras_imnet64.core.zips import MAX_TEXT_BYTES, open_zip, read_member
from keras_imnet64.data.images.contents import HEAD_BYTES, describe_content
from keras_imnet64.data.images.damage import check_undamaged
from keras_imnet64.data.images.reading import report_unreadable
from keras_imnet64.data.sources.finding import (
    files_below,
    is_companion,
    is_companion_folder,
    is_text,
)

IMAGE_SIZE = 64
NUM_CLASSES = 200
NUM_TRAIN = 100_000
NUM_VALIDATION = 10_000
READ_BATCH = 512  # images
LEAVE_OUT = "fetch it again, or leave out such images with --skip-corrupt"
FORMATS = ("JPEG", "PNG")  # others of Pillow's start programs, for PostScript say
ANNOTATIONS = "val/val_annotations.txt"
FOLDER, ZIP = "tiny-imagenet-200", "tiny-imagenet-200.zip"


class Damaged(UserError):
    """A file that is not whole, or an image of another size: `fault` says which."""

    def __init__(self, where, fault, remedy="fetch it again"):
        super().__init__(f"{where} {fault}: {remedy}")
        self.fault = fault


# ------------------------------------------------------------------------------- a zip or a folder


class _Zip:
    def __init__(self, path):
        self.path = path
        try:
            self._archive = open_zip(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is not a whole zip archive ({reason(error)})") from None
        self._names = [i.filename for i in self._archive.infolist() if not i.is_dir()]

    def names(self):
        return self._names

    def read(self, name):
        return read_member(self._archive, name, MAX_TEXT_BYTES)

    def close(self):
        self._archive.close()


class _Folder:
    def __init__(self, path):
        self.path = path

    def names(self):
        try:
            return [file.relative_to(self.path).as_posix() for file in files_below(self.path)]
        except OSError as error:
            raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from None

    def read(self, name):
        return read_small(self.path / name, MAX_TEXT_BYTES)

    def close(self):
        pass


class Tree:
    """Files of the layout by their names below its root; a context manager."""

    def __init__(self, holder):
        self._holder = holder
        self.where = holder.path
        names = holder.names()
        roots = [n.removesuffix("wnids.txt") for n in names if PurePosixPath(n).name == "wnids.txt"]
        if not roots:
            holder.close()
            raise UserError(f"{self.where} is not Tiny ImageNet: it has no wnids.txt")
        self._root = min(roots, key=len)
        self.names = {n.removeprefix(self._root) for n in names if n.startswith(self._root)}

    def read(self, name):
        """The bytes of one file; UserError if it is missing, damaged or may not be read."""
        if name not in self.names:
            raise UserError(f"{self.where} is not complete: {self._root}{name} is missing")
        try:
            with report_unreadable(self.full_name(name)):
                return self._holder.read(self._root + name)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Damaged(self.full_name(name), f"is damaged ({reason(error)})") from None

    def full_name(self, name):
        return f"{self.where}: {self._root}{name}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._holder.close()


def open_tree(source):
    """Open the zip, the folder, or a folder that holds either.

    Raises:
        UserError: there is no such thing, or it is a zip that is not safe to read.
    """
    source = expand(source)
    if os.path.isfile(source):
        return Tree(_Zip(source))
    for folder in (source, source / FOLDER):
        if os.path.isfile(folder / "wnids.txt"):
            return Tree(_Folder(folder))
    if os.path.isfile(source / ZIP):
        return Tree(_Zip(source / ZIP))
    raise UserError(
        f"--source must be {ZIP}, the folder {FOLDER} with its wnids.txt, or a folder that holds "
        f"one of them; received {source} (image_folder/NAME takes class folders alone)"
    )


# --------------------------------------------------------------------------------------- contents


@dataclass(frozen=True)
class Listing:
    """What a tree holds: class ids in sorted order (a label is a position there), files, labels.

    Attributes:
        unused: (file, what is wrong with it) of files among the images that are of no class.
    """

    wnids: list[str]
    class_names: list[str]
    files: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    unused: list[tuple[str, str]]

    def unexpected(self, imagenet_wnids):
        """What differs from Tiny ImageNet, in words; empty where nothing does.

        There is no published digest for every edition of the zip (the one without test images has
        other bytes), so "verified" means: 200 class ids, all of ImageNet-1K, 500 training and 50
        validation images of each.
        """
        unknown = [wnid for wnid in self.wnids if wnid not in set(imagenet_wnids)]
        if unknown:
            return f"its class {unknown[0]} is not one of ImageNet's"
        if len(self.wnids) != NUM_CLASSES:
            return f"it has {len(self.wnids)} classes where {NUM_CLASSES} are expected"
        for split, total in (("train", NUM_TRAIN), ("validation", NUM_VALIDATION)):
            counts = np.bincount(self.labels[split], minlength=NUM_CLASSES)
            for wnid, count in zip(self.wnids, counts, strict=True):
                if count != total // NUM_CLASSES:
                    return f"{split} has {count} images of {wnid}, not {total // NUM_CLASSES}"
        return ""


def read_listing(tree):
    """Read the class ids and annotations and list the images of both splits.

    Training images are in sorted order of their paths, validation images in the order of
    `val_annotations.txt`, which is that of the numbers in their names.

    Raises:
        UserError: a part of the layout is missing or names something that is not there.
    """
    wnids = sorted(_lines(tree, "wnids.txt"))
    doubled = [wnid for wnid, times in Counter(wnids).items() if times > 1]
    if doubled or not wnids:
        raise UserError(f"{tree.full_name('wnids.txt')} must list each class id once")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    images = _images(tree)
    train = _in_class_folders(tree, images, "train", label_of)
    validation = _validation_files(tree, images, label_of)
    used = {name for name, _ in train + validation}
    words = dict(line.split("\t", 1) for line in _lines(tree, "words.txt") if "\t" in line)
    return Listing(
        wnids,
        [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids],
        {"train": [file for file, _ in train], "validation": [file for file, _ in validation]},
        {
            "train": np.array([label for _, label in train], np.int64),
            "validation": np.array([label for _, label in validation], np.int64),
        },
        [(name, "is of no class") for name in images if name not in used],
    )


def _lines(tree, name):
    try:
        text = decode_text(tree.read(name), errors="replace")  # of names
    except ValueError as error:
        raise UserError(f"{tree.full_name(name)} cannot be read: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _images(tree: Tree) -> list[str]:
    """Names of all files below train/ and val/, sorted, but for texts and what systems leave."""
    return sorted(name for name in tree.names if _may_be_a_image(name))


def _may_be_a_image(name: str) -> bool:
    *folders, file = PurePosixPath(name).parts
    if not folders or folders[0] not in ("train", "val") or is_text(file):
        return False
    hidden = any(part.startswith(".") for part in (*folders, file))
    return not hidden and not is_companion(file) and not any(map(is_companion_folder, folders))


def _in_class_folders(
    tree: Tree, images: list[str], split: str, label_of: dict[str, int]
) -> list[tuple[str, int]]:
    """[(file, label)] of the images that lie below <split>/<wnid>/, in their order.

    Raises:
        UserError: a class is not listed, or has no images.
    """
    found = []
    for name in images:
        parts = PurePosixPath(name).parts
        if parts[0] == split and len(parts) > 2:
            if parts[1] not in label_of:
                raise UserError(
                    f"{tree.full_name(name)} is of a class that wnids.txt does not list"
                )
            found.append((name, label_of[parts[1]]))
    present = {label for _, label in found}
    missing = [wnid for wnid, label in label_of.items() if label not in present]
    if missing:
        raise UserError(f"{tree.full_name(f'{split}/{missing[0]}')} has no images")
    return found


def _validation_files(
    tree: Tree, images: list[str], label_of: dict[str, int]
) -> list[tuple[str, int]]:
    if ANNOTATIONS not in tree.names and _is_sorted_into_classes(tree, label_of):
        found = _in_class_folders(tree, images, "val", label_of)
        return sorted(found, key=lambda image: _number(image[0]))
    found = []
    for line in _lines(tree, ANNOTATIONS):
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in label_of:
            where = tree.full_name(ANNOTATIONS)
            raise UserError(f'{where} gives {file} the class "{wnid}", which wnids.txt lacks')
        places = [f"val/{folder}{file}" for folder in ("images/", f"{wnid}/images/", f"{wnid}/")]
        name = next((place for place in places if place in tree.names), None)
        if name is None:
            raise UserError(f"{tree.full_name(places[0])} is missing")
        found.append((name, label_of[wnid]))
    return found


def _is_sorted_into_classes(tree: Tree, label_of: dict[str, int]) -> bool:
    folders = {name.split("/")[1] for name in tree.names if name.startswith("val/")}
    return not folders.isdisjoint(label_of)


def _number(name: str) -> list[str | tuple[int, str]]:
    """What sorts val_2.JPEG before val_10.JPEG: the name of a file, its numbers by length first."""
    parts = re.split(r"([0-9]+)", PurePosixPath(name).name)
    return [(len(part), part) if i % 2 else part for i, part in enumerate(parts)]


# --------------------------------------------------------------------------------------- images


def read(tree, files, labels):
    """Decode the listed images, a few at a time in threads.

    Yields:
        (uint8 [B, 64, 64, 3], int64 labels [B]), B at most 512.

    Raises:
        UserError: an image is damaged or of another size.
    """
    with _threads() as pool:
        for start in range(0, len(files), READ_BATCH):
            part = slice(start, start + READ_BATCH)
            images = list(pool.map(lambda name: _decode(tree, name), files[part]))
            yield np.stack(images), labels[part]


def without_damaged(tree, listing, progress=None):
    """The listing without the images that cannot be read; every one is decoded to know.

    Returns:
        (Listing, [(name, what is wrong with it), ...]).

    Raises:
        UserError: a class loses all its images of a split.
    """
    files, labels, damaged = {}, {}, []
    for split, names in listing.files.items():
        whole = np.ones(len(names), bool)
        with _threads() as pool:
            for i, fault in enumerate(pool.map(lambda name: _fault(tree, name), names)):
                if fault:
                    whole[i] = False
                    damaged.append((names[i], fault))
                if progress and ((i + 1) % READ_BATCH == 0 or i + 1 == len(names)):
                    progress(f"checking {split}", i + 1, len(names))
        labels[split] = listing.labels[split][whole]
        files[split] = [name for name, is_whole in zip(names, whole, strict=True) if is_whole]
        lost = set(listing.labels[split]) - set(labels[split])
        if lost:
            raise UserError(
                f"{tree.where} has no whole image of {listing.wnids[min(lost)]} in {split}, even "
                "with --skip-corrupt: fetch it again"
            )
    return replace(listing, files=files, labels=labels), damaged


def _threads():
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _fault(tree, name):
    """What is wrong with an image, in words; None where nothing is."""
    try:
        _decode(tree, name)
    except Damaged as error:
        return error.fault
    return None


def _decode(tree, name):
    try:
        return _pixels(tree.read(name))
    except Damaged as error:
        raise Damaged(tree.full_name(name), error.fault, LEAVE_OUT) from None
    except ValueError as error:
        raise Damaged(tree.full_name(name), str(error), LEAVE_OUT) from None


def _pixels(content):
    """uint8 [64, 64, 3]; ValueError with what is wrong."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            size = image.size
            if size == (IMAGE_SIZE, IMAGE_SIZE):  # judged before anything is decoded
                check_undamaged(content, image.format)  # of which Pillow is silent
                return np.asarray(image.convert("RGB"))  # some are greyscale
    except UnidentifiedImageError:
        raise ValueError(f"is {describe_content(content[:HEAD_BYTES]) or 'not an image'}") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError(f"is not a whole image ({reason(error)})") from None
    raise ValueError(f"is {size[0]} x {size[1]} pixels, not {IMAGE_SIZE} x {IMAGE_SIZE}")
