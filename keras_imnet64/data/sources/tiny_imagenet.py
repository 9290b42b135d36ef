"""Reads Tiny ImageNet from its zip or its unpacked folder; nothing is unpacked to disk.

Layout: `wnids.txt`, `words.txt`, `train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` and
`val/val_annotations.txt` (file, wnid and a box per line), usually below `tiny-imagenet-200/`.
Scripts of tutorials move the validation images to `val/<wnid>/images/` or `val/<wnid>/`, and may
remove `images/` below `train/<wnid>/` too. All of these give the same images in the same order.
"""

import os
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import decode_text, read_small
from keras_imnet64.core.paths import expand
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.core.zips import MAX_TEXT_BYTES, open_zip, read_member
from keras_imnet64.data.images.exact import decode_exactly
from keras_imnet64.data.images.reading import report_unreadable
from keras_imnet64.data.sources.finding import (
    Faulty,
    files_below,
    is_system_file,
    is_system_folder,
    is_text,
)

IMAGE_SIZE = 64
NUM_CLASSES = 200
NUM_TRAIN = 100_000
NUM_VALIDATION = 10_000
READ_BATCH = 512  # images
SKIP_REMEDY = "download it again, or pass --skip-corrupt to leave out damaged images"
ANNOTATIONS = "val/val_annotations.txt"
FOLDER, ZIP = "tiny-imagenet-200", "tiny-imagenet-200.zip"


class Damaged(UserError):
    """A file is damaged, or an image has the wrong size: `fault` says which."""

    def __init__(self, where: str, fault: str, remedy: str = "download it again") -> None:
        super().__init__(f"{where} {fault}: {remedy}")
        self.fault = fault


# ------------------------------------------------------------------------------- a zip or a folder


class _Zip:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = open_zip(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is not a whole zip archive ({reason(error)})") from None

    def names(self) -> list[str]:
        return [info.filename for info in self._archive.infolist() if not info.is_dir()]

    def read(self, name: str) -> bytes:
        return read_member(self._archive, name, MAX_TEXT_BYTES)

    def close(self) -> None:
        self._archive.close()


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        try:
            return [file.relative_to(self.path).as_posix() for file in files_below(self.path)]
        except OSError as error:
            raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from None

    def read(self, name: str) -> bytes:
        return read_small(self.path / name, MAX_TEXT_BYTES)

    def close(self) -> None:
        pass


class Tree:
    """The files of the layout, in a zip or a folder; a context manager.

    Attributes:
        path: the zip or folder.
        names: names of all files, below the folder that holds wnids.txt.
    """

    def __init__(self, container: _Zip | _Folder) -> None:
        self._container = container
        self.path = container.path
        names = container.names()
        roots = [n.removesuffix("wnids.txt") for n in names if PurePosixPath(n).name == "wnids.txt"]
        if not roots:
            container.close()
            raise UserError(f"{self.path} is not Tiny ImageNet: it has no wnids.txt")
        self._root = min(roots, key=len)
        self.names = {n.removeprefix(self._root) for n in names if n.startswith(self._root)}

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            Damaged: the file is damaged.
            UserError: the file is missing, or the system refuses to read it.
        """
        if name not in self.names:
            raise UserError(f"{self.path} is not complete: {self._root}{name} is missing")
        try:
            with report_unreadable(self.full_name(name)):
                return self._container.read(self._root + name)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Damaged(self.full_name(name), f"is damaged ({reason(error)})") from None

    def full_name(self, name: str) -> str:
        """Returns the path of a file for messages."""
        return f"{self.path}: {self._root}{name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()


def open_tree(source: StrPath) -> Tree:
    """Opens the zip, the unpacked folder, or a folder that holds one of them.

    Raises:
        UserError: `source` is none of these, or an unsafe zip.
    """
    path = expand(source)
    if os.path.isfile(path):
        return Tree(_Zip(path))
    for folder in (path, path / FOLDER):
        if os.path.isfile(folder / "wnids.txt"):
            return Tree(_Folder(folder))
    if os.path.isfile(path / ZIP):
        return Tree(_Zip(path / ZIP))
    raise UserError(
        f"--source must be {ZIP}, the folder {FOLDER} with its wnids.txt, or a folder that holds "
        f"one of them; received {path} (use image_folder/NAME for other class folders)"
    )


# --------------------------------------------------------------------------------------- contents


@dataclass(frozen=True)
class Listing:
    """The classes and images of a tree.

    Attributes:
        wnids: class ids, sorted; labels are positions in this list.
        class_names: a name for each class.
        files: {split: names of its images}.
        labels: {split: labels of its images, int64 [N]}.
        unused: (name, what is wrong with it) of images that belong to no class.
    """

    wnids: list[str]
    class_names: list[str]
    files: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    unused: list[Faulty]


def mismatch(
    wnids: Sequence[str], labels: Mapping[str, np.ndarray], imagenet_wnids: Collection[str]
) -> str:
    """Returns how images differ from Tiny ImageNet, as a clause; empty if they do not.

    There are several editions of the zip (one without test images), and not all have a published
    digest. Therefore "verified" means: 200 class ids, all of ImageNet-1K, with 500 training and 50
    validation images each.

    Args:
        wnids: class ids.
        labels: {split: positions in `wnids`, int [N]}.
    """
    unknown = [wnid for wnid in wnids if wnid not in set(imagenet_wnids)]
    if unknown:
        return f"its class {unknown[0]} is not one of ImageNet's"
    if len(wnids) != NUM_CLASSES:
        return f"it has {len(wnids)} classes where {NUM_CLASSES} are expected"
    for split, total in (("train", NUM_TRAIN), ("validation", NUM_VALIDATION)):
        counts = np.bincount(labels[split], minlength=NUM_CLASSES)
        for wnid, count in zip(wnids, counts, strict=True):
            if count != total // NUM_CLASSES:
                return f"{split} has {count} images of {wnid}, not {total // NUM_CLASSES}"
    return ""


def read_listing(tree: Tree) -> Listing:
    """Reads the class ids and annotations, and lists the images of both splits.

    Training images are sorted by path. Validation images have the order of `val_annotations.txt`,
    which is that of the numbers in their names.

    Raises:
        UserError: a file of the layout is missing.
    """
    wnids = sorted(_lines(tree, "wnids.txt"))
    if len(set(wnids)) < len(wnids) or not wnids:
        raise UserError(f"{tree.full_name('wnids.txt')} must list each class id once")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    images = sorted(filter(_may_be_an_image, tree.names))
    splits = {
        "train": _in_class_folders(tree, images, "train", label_of),
        "validation": _validation_files(tree, images, label_of),
    }
    used = {name for split in splits.values() for name, _ in split}
    words = dict(line.split("\t", 1) for line in _lines(tree, "words.txt") if "\t" in line)
    return Listing(
        wnids=wnids,
        class_names=[words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids],
        files={split: [name for name, _ in found] for split, found in splits.items()},
        labels={
            split: np.array([label for _, label in found], np.int64)
            for split, found in splits.items()
        },
        unused=[(name, "belongs to no class") for name in images if name not in used],
    )


def _lines(tree: Tree, name: str) -> list[str]:
    try:
        text = decode_text(tree.read(name), errors="replace")  # class names may have any encoding
    except ValueError as error:
        raise UserError(f"{tree.full_name(name)} cannot be read: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _may_be_an_image(name: str) -> bool:
    """Returns whether a file lies below train/ or val/ and is no text, hidden or system file."""
    *folders, file = PurePosixPath(name).parts
    if not folders or folders[0] not in ("train", "val") or is_text(file):
        return False
    hidden = any(part.startswith(".") for part in (*folders, file))
    return not hidden and not is_system_file(file) and not any(map(is_system_folder, folders))


def _in_class_folders(
    tree: Tree, images: Iterable[str], split: str, label_of: Mapping[str, int]
) -> list[tuple[str, int]]:
    """Returns (name, label) of the images below <split>/<wnid>/, in the given order.

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
    tree: Tree, images: Iterable[str], label_of: Mapping[str, int]
) -> list[tuple[str, int]]:
    """Returns (name, label) of the validation images, also where scripts have moved them."""
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
        candidates = [f"val/{folder}/{file}" for folder in ("images", f"{wnid}/images", wnid)]
        name = next((name for name in candidates if name in tree.names), None)
        if name is None:
            raise UserError(f"{tree.full_name(candidates[0])} is missing")
        found.append((name, label_of[wnid]))
    return found


def _is_sorted_into_classes(tree: Tree, label_of: Mapping[str, int]) -> bool:
    folders = {name.split("/")[1] for name in tree.names if name.startswith("val/")}
    return not folders.isdisjoint(label_of)


def _number(name: str) -> list[str | tuple[int, str]]:
    """Returns a sort key of a file's name, with val_2.JPEG before val_10.JPEG.

    Numbers are compared by their number of digits first.
    """
    parts = re.split(r"([0-9]+)", PurePosixPath(name).name)
    return [(len(part), part) if i % 2 else part for i, part in enumerate(parts)]


# --------------------------------------------------------------------------------------- images


def read(
    tree: Tree, files: Sequence[str], labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decodes images in threads, batch by batch.

    Yields:
        (uint8 [B, 64, 64, 3], int64 labels [B]), B at most READ_BATCH.

    Raises:
        UserError: an image is damaged or has the wrong size.
    """
    with _threads() as pool:
        for start in range(0, len(files), READ_BATCH):
            part = slice(start, start + READ_BATCH)
            images = list(pool.map(lambda name: _decode(tree, name), files[part]))
            yield np.stack(images), labels[part]


def without_damaged(
    tree: Tree, listing: Listing, progress: PackProgress | None = None
) -> tuple[Listing, list[Faulty]]:
    """Decodes every image, and leaves out damaged images.

    Returns:
        (the listing without damaged images, (name, what is wrong with it) of each damaged image).

    Raises:
        UserError: a class loses all its images of a split.
    """
    files: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    damaged: list[Faulty] = []
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
                f"{tree.path} has no whole image of {listing.wnids[min(lost)]} in {split}, even "
                "with --skip-corrupt: download it again"
            )
    return replace(listing, files=files, labels=labels), damaged


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _fault(tree: Tree, name: str) -> str | None:
    """Returns what is wrong with an image, as a clause, or None."""
    try:
        _decode(tree, name)
    except Damaged as error:
        return error.fault
    return None


def _decode(tree: Tree, name: str) -> np.ndarray:
    """Returns an image as uint8 [64, 64, 3].

    Raises:
        Damaged: names the image.
    """
    try:
        return decode_exactly(tree.read(name), IMAGE_SIZE)
    except Damaged as error:
        raise Damaged(tree.full_name(name), error.fault, SKIP_REMEDY) from None
    except ValueError as error:
        raise Damaged(tree.full_name(name), str(error), SKIP_REMEDY) from None
