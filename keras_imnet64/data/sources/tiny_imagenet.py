"""Tiny ImageNet, read from its zip or its unpacked folder; nothing is unpacked to disk.

Layout: `wnids.txt`, `words.txt`, `train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` and
`val/val_annotations.txt` (file, wnid and a box per line), as a rule below `tiny-imagenet-200/`.
"""

import io
import os
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ...errors import UserError

IMAGE_SIZE = 64
NUM_CLASSES = 200
NUM_TRAIN = 100_000
NUM_VALIDATION = 10_000
READ_BATCH = 512  # pictures
FOLDER, ZIP = "tiny-imagenet-200", "tiny-imagenet-200.zip"


# ------------------------------------------------------------------------------- a zip or a folder


class _Zip:
    def __init__(self, path):
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not a whole zip archive ({error})") from None
        self._names = [i.filename for i in self._archive.infolist() if not i.is_dir()]
        for name in self._names:
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts:
                self._archive.close()
                raise UserError(f'{path} holds a member that points outside it: "{name}"')

    def names(self):
        return self._names

    def read(self, name):
        return self._archive.read(name)

    def close(self):
        self._archive.close()


class _Folder:
    def __init__(self, path):
        self.path = path

    def names(self):
        found = (file for file in self.path.rglob("*") if file.is_file())
        return [file.relative_to(self.path).as_posix() for file in found]

    def read(self, name):
        return (self.path / name).read_bytes()

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
        """The bytes of one file; UserError if it is missing or damaged."""
        if name not in self.names:
            raise UserError(f"{self.where} is not complete: {self._root}{name} is missing")
        try:
            return self._holder.read(self._root + name)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{self.where}: {self._root}{name} is damaged ({error})") from None

    def full_name(self, name):
        return f"{self.where}: {self._root}{name}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._holder.close()


def open_tree(source):
    """Open the zip, the folder, or a folder that holds either.

    Raises:
        UserError: there is no such thing, or a zip member has an absolute or climbing path.
    """
    source = Path(source).expanduser()
    if source.is_file():
        return Tree(_Zip(source))
    if (source / "wnids.txt").is_file():
        return Tree(_Folder(source))
    if (source / FOLDER / "wnids.txt").is_file():
        return Tree(_Folder(source / FOLDER))
    if (source / ZIP).is_file():
        return Tree(_Zip(source / ZIP))
    raise UserError(
        f"--source must be {ZIP}, the folder {FOLDER}, or a folder that holds one of them; "
        f"received {source}"
    )


# --------------------------------------------------------------------------------------- contents


@dataclass(frozen=True)
class Listing:
    """What a tree holds: class ids in sorted order (a label is a position there), files, labels."""

    wnids: list[str]
    class_names: list[str]
    files: dict[str, list[str]]
    labels: dict[str, np.ndarray]

    def unexpected(self, imagenet_wnids):
        """What differs from Tiny ImageNet, in words; empty where nothing does.

        There is no published digest for every edition of the zip (the one without test pictures has
        other bytes), so "verified" means: 200 class ids, all of ImageNet-1K, 500 training and 50
        validation pictures of each.
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
                    return f"{split} has {count} pictures of {wnid}, not {total // NUM_CLASSES}"
        return ""


def read_listing(tree):
    """Read the class ids and annotations and list the pictures of both splits.

    Training pictures are in sorted order of their paths, validation pictures in the order of
    `val_annotations.txt`.

    Raises:
        UserError: a part of the layout is missing or names something that is not there.
    """
    wnids = sorted(_lines(tree, "wnids.txt"))
    doubled = [wnid for wnid, times in Counter(wnids).items() if times > 1]
    if doubled or not wnids:
        raise UserError(f"{tree.full_name('wnids.txt')} must list each class id once")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    train = _train_files(tree, label_of)
    validation = _validation_files(tree, label_of)
    words = dict(line.split("\t", 1) for line in _lines(tree, "words.txt") if "\t" in line)
    return Listing(
        wnids,
        [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids],
        {"train": [file for file, _ in train], "validation": [file for file, _ in validation]},
        {
            "train": np.array([label for _, label in train], np.int64),
            "validation": np.array([label for _, label in validation], np.int64),
        },
    )


def _lines(tree, name):
    text = tree.read(name).decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _train_files(tree, label_of):
    found = []
    for name in sorted(tree.names):
        parts = PurePosixPath(name).parts
        if parts[0] == "train" and parts[-2] == "images" and name.lower().endswith(".jpeg"):
            if parts[1] not in label_of:
                raise UserError(
                    f"{tree.full_name(name)} is of a class that wnids.txt does not list"
                )
            found.append((name, label_of[parts[1]]))
    present = {label for _, label in found}
    missing = [wnid for wnid, label in label_of.items() if label not in present]
    if missing:
        raise UserError(f"{tree.full_name('train/' + missing[0])} has no pictures")
    return found


def _validation_files(tree, label_of):
    found = []
    for line in _lines(tree, "val/val_annotations.txt"):
        file, _, rest = line.partition("\t")
        wnid, name = rest.split("\t")[0], f"val/images/{file}"
        if wnid not in label_of:
            where = tree.full_name("val/val_annotations.txt")
            raise UserError(f'{where} gives {file} the class "{wnid}", which wnids.txt lacks')
        if name not in tree.names:
            raise UserError(f"{tree.full_name(name)} is missing")
        found.append((name, label_of[wnid]))
    return found


# --------------------------------------------------------------------------------------- pictures


def read(tree, files, labels):
    """Decode the listed pictures, a few at a time in threads.

    Yields:
        (uint8 [B, 64, 64, 3], int64 labels [B]), B at most 512.

    Raises:
        UserError: a picture is damaged or of another size.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), READ_BATCH):
            part = slice(start, start + READ_BATCH)
            pictures = list(pool.map(lambda name: _decode(tree, name), files[part]))
            yield np.stack(pictures), labels[part]


def _decode(tree, name):
    from PIL import Image

    content = tree.read(name)
    try:
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.asarray(picture.convert("RGB"))  # some are greyscale
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{tree.full_name(name)} is not a whole picture ({error})") from None
    if pixels.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        height, width, _ = pixels.shape
        raise UserError(
            f"{tree.full_name(name)} is {width} x {height} pixels, not {IMAGE_SIZE} x {IMAGE_SIZE}"
        )
    return pixels
