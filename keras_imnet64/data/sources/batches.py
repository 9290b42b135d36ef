"""Lists and reads downsampled ImageNet as unpacked batches: npz files, or the older pickles.

The published zips hold `train_data_batch_1.npz` ... `train_data_batch_10.npz` and `val_data.npz`;
the older edition has pickles of the same names without suffix. Both hold `data` uint8 [n, 3*s*s],
flat, all R, then G, then B, and `labels` in 1..1000, in the order of ILSVRC's map_clsloc.txt. Files
may lie in any sub-folders. Images keep their order: batch by batch.
"""

import contextlib
import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.types import PackProgress
from keras_imnet64.core.zips import read_npz
from keras_imnet64.data.sources import archives, imagenet2012
from keras_imnet64.data.sources.finding import files_below
from keras_imnet64.data.sources.layout import join_names
from keras_imnet64.data.sources.pickles import read_pickle

BATCH = re.compile(r"(?P<split>train_data_batch_(?P<number>\d{1,3})|val_data)(?P<suffix>\.npz)?")
READ_BATCH = 512  # images
IMAGES_OF_A_CLASS = (732, 1300)  # in training, of ImageNet's classes


@dataclass(frozen=True)
class Batches:
    """The files of both splits, in the order of their numbers.

    Attributes:
        files: {split: its files}.
        labels: {split: int64 labels from 0}.
    """

    files: dict[str, list[Path]]
    labels: dict[str, np.ndarray]

    def read(
        self, split: str, image_size: int, num_classes: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (uint8 [B, s, s, 3], int64 labels [B] from 0), B at most READ_BATCH.

        One file is in memory at a time.
        """
        for file in self.files[split]:
            data, labels = read_batch(file, image_size, num_classes)
            for start in range(0, len(labels), READ_BATCH):
                part = slice(start, start + READ_BATCH)
                yield _images(data[part], image_size), labels[part]


def holds_batches(names: Collection[str], is_npz: bool) -> bool:
    """Returns whether there are batches among the names of files."""
    matches = filter(None, map(BATCH.fullmatch, names))
    return any(bool(match["suffix"]) == is_npz for match in matches)


def list_batches(
    source: Path,
    *,
    is_npz: bool,
    image_size: int,
    num_classes: int,
    progress: PackProgress | None = None,
) -> Batches:
    """Finds the batches below a folder, and reads their labels; `read` checks their images.

    Raises:
        UserError: a batch is missing, twice there or damaged, or holds other labels.
    """
    files = _find(source, is_npz)
    total, done = sum(map(len, files.values())), 0
    labels: dict[str, np.ndarray] = {}
    for split, paths in files.items():
        parts = []
        for path in paths:
            parts.append(_read_labels(path, image_size, num_classes))
            done += 1
            if progress:
                progress("reading labels", done, total)
        labels[split] = np.concatenate(parts)
    refuse_sorted_order(source, labels["validation"])
    return Batches(files, labels)


def _find(source: Path, is_npz: bool) -> dict[str, list[Path]]:
    found: dict[int | None, Path] = {}  # by number, which validation images lack
    for file in sorted(files_below(source)):
        match = BATCH.fullmatch(file.name)
        if match is None or bool(match["suffix"]) != is_npz:
            continue
        number = int(match["number"]) if match["number"] else None
        if number in found:
            raise UserError(f"{found[number]} and {file} are the same batch: move one of them away")
        found[number] = file
    numbers = sorted(number for number in found if number is not None)
    suffix = ".npz" if is_npz else ""
    missing = [f"train_data_batch_{n}{suffix}" for n in _missing(numbers)]
    missing += [] if None in found else [f"val_data{suffix}"]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"{source} is not complete: {join_names(missing)} {verb} missing")
    return {"train": [found[number] for number in numbers], "validation": [found[None]]}


def _missing(numbers: list[int]) -> list[int]:
    """Returns the numbers that are missing; some programs number batches from 0."""
    first, last = min([1, *numbers]), max(numbers, default=1)
    return sorted(set(range(first, last + 1)) - set(numbers))


def _read_labels(path: Path, image_size: int, num_classes: int) -> np.ndarray:
    """Returns the labels of one file, int64 [n] from 0; of an npz file nothing else is read."""
    if path.suffix != ".npz":
        return read_batch(path, image_size, num_classes)[1]
    [labels] = _read_npz(path, ("labels",))
    archives.check_labels(str(path), labels, num_classes)
    return labels.astype(np.int64) - 1


def _read_npz(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    try:
        return list(read_npz(path, names).values())
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is damaged or no npz file ({reason(error)}); it must hold data and labels"
        ) from None


def read_batch(path: Path, image_size: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (data uint8 [n, 3*s*s], labels int64 [n] from 0) of one file.

    Raises:
        UserError: the file is damaged, or holds other arrays.
    """
    if path.suffix == ".npz":
        data, labels = _read_npz(path, ("data", "labels"))
    else:
        content = read_pickle(path)
        if missing := {"data", "labels"} - content.keys():
            raise UserError(f"{path} must hold data and labels; {min(missing)} is missing")
        data, labels = content["data"], _as_array(path, content["labels"])
    archives.check_arrays(str(path), data, labels, image_size, num_classes)
    return data, labels.astype(np.int64) - 1


def _as_array(path: Path, labels: object) -> np.ndarray:
    """Returns a list of whole numbers as int64; an array as it is."""
    if isinstance(labels, np.ndarray):
        return labels
    received = f"a {type(labels).__name__}"
    if isinstance(labels, list):
        others = sorted({type(label).__name__.strip("_") for label in labels} - {"int"})
        received = f"a list with elements of the type {join_names(others)}"
        if not others:
            with contextlib.suppress(OverflowError):
                return np.array(labels, np.int64)
            received = "numbers of more than 64 bits"
    raise UserError(f"{path} must hold whole-number labels; received {received}")


def _images(data: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, 3*s*s] -> uint8 [n, s, s, 3]"""
    return data.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)


# ---------------------------------------------------------------------------- order of the labels


def refuse_sorted_order(source: Path, labels: np.ndarray) -> None:
    """Refuses validation labels that number ILSVRC's validation images by sorted class ids.

    Such labels are what programs write that make ImageNet64 from torchvision's folders.
    """
    if len(labels) != imagenet2012.NUM_VALIDATION:
        return
    wnids = imagenet2012.validation_wnids()
    order = {wnid: label for label, wnid in enumerate(sorted(archives.imagenet_wnids()))}
    if np.array_equal(labels, [order[wnid] for wnid in wnids.values()]):
        raise UserError(
            f"{source} numbers the classes by their sorted ids, as torchvision does, where this "
            "layout has the order of map_clsloc.txt: its labels would name wrong classes"
        )


def counts_mismatch(labels: dict[str, np.ndarray]) -> str:
    """Returns how numbers of images differ from those of ImageNet-1K, as a clause, or empty.

    No digests are published of anything but the zips. Therefore "verified" means, for all other
    forms of downsampled ImageNet, its number of images in each split, 50 of each class in
    validation, and 732 to 1,300 in training.

    Args:
        labels: {split: integers in 0..999}.
    """
    expected = {"train": imagenet2012.NUM_TRAIN, "validation": imagenet2012.NUM_VALIDATION}
    for split, count in expected.items():
        if len(labels[split]) != count:
            return f"{split} has {len(labels[split]):,} images, not {count:,}"
    low, high = IMAGES_OF_A_CLASS
    train, validation = (np.bincount(labels[s], minlength=1000) for s in ("train", "validation"))
    if validation.min() != validation.max():
        return "validation does not have 50 images of each class"
    if train.min() != low or train.max() != high:
        return (
            f"classes of train have {train.min():,} to {train.max():,} images, not {low} to 1,300"
        )
    return ""
