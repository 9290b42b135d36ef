"""Proves which classes the labels of a source mean; a label order is never guessed.

A source names its classes by class ids (wnids), by a whole ordered list of names that equals a
known list, or, for the user's own images, by any names. Two of ImageNet's classes are called crane
and two maillot, and its 1,000 classes have different numbers in ImageNet64 and in torchvision. So
single names are never looked up.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from keras_imnet64.core.errors import UserError, first_few
from keras_imnet64.core.files import decode_text, read_small
from keras_imnet64.data.sources import archives, imagenet2012

CLASS_LISTS = ("classes.txt", "class_names.txt", "classnames.txt")  # one class per line
MAX_LIST_BYTES = 2**22
WNID = re.compile(r"n\d{8}", re.ASCII)
WNID_IN_NAME = re.compile(r"(n\d{8})_|.*_(n\d{8})\.", re.ASCII)  # of an image of ImageNet
UNLABELLED = -1  # what hubs write in splits whose labels are secret
MAX_CLASSES = 100_000  # a larger number is no label
MAX_NAMED = 3  # classes in a message


@dataclass
class Labels:
    """The labels of a source, in its order, and what tells which classes they mean.

    Attributes:
        where: names the source in messages.
        names: names of the classes in label order, as the source lists them; None if it does not.
        numbers: labels of each split, as the source has them: whole numbers, or positions in
            `texts` if the source labels with texts.
        texts: {text: its number, which is its place in `names`, or else the order of coming}.
        ids_of_numbers: {number: (class id, the image whose name contains it)}.
        contradiction: how labels and the names of images contradict each other first, or empty.
    """

    where: str
    names: list[str] | None = None
    numbers: dict[str, list[int]] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    ids_of_numbers: dict[int, tuple[str, str]] = field(default_factory=dict)
    contradiction: str = ""

    def add(self, split: str, label: int | str, image: str, name: str = "") -> None:
        """Adds the label of an image.

        Args:
            image: names the image in messages.
            name: the original name of its file, which may contain a class id; or empty.

        Raises:
            UserError: the list of classes lacks the label, or it is of another kind than before.
        """
        numbers = self.numbers.setdefault(split, [])
        text = label if isinstance(label, str) else None
        if (text is not None) != bool(self.texts) and any(self.numbers.values()):
            raise UserError(
                f"{self.where} mixes two kinds of labels: {image} is labelled {label!r}, and "
                f"images before it with {'texts' if self.texts else 'numbers'}"
            )
        if isinstance(label, str):
            label = self._number_of(label, image)
        elif label != UNLABELLED:
            self._check_number(label, image)
        numbers.append(label)
        if label != UNLABELLED and (wnid := wnid_in(name)):
            self._check_id(label, text, wnid, image)

    def _number_of(self, text: str, image: str) -> int:
        """Returns the number of a text: its place in the list of classes, or the next one."""
        if text not in self.texts:
            if self.names is not None and text not in self.names:
                raise UserError(f'{image} is labelled "{text}", which the list of classes lacks')
            number = len(self.texts) if self.names is None else self.names.index(text)
            self.texts[text] = number
        return self.texts[text]

    def _check_number(self, label: int, image: str) -> None:
        count = len(self.names) if self.names is not None else MAX_CLASSES
        if not 0 <= label < count:
            raise UserError(f"{image} has the label {label}, where 0..{count - 1} are possible")

    def _check_id(self, label: int, text: str | None, wnid: str, image: str) -> None:
        """Notes one label for two class ids, as two label orders give where they are mixed."""
        found = ""
        if text is not None and WNID.fullmatch(text) and text != wnid:
            found = f"{image} is labelled {text}, but is of {wnid} by its name"
        known, first = self.ids_of_numbers.setdefault(label, (wnid, image))
        if known != wnid and not found:
            shown = label if text is None else f'"{text}"'
            found = (
                f"{self.where} mixes two label orders: by the names of its images, the label "
                f"{shown} is {known} for {first} and {wnid} for {image}"
            )
        self.contradiction = self.contradiction or found

    def is_unlabelled(self, split: str) -> bool:
        """Returns whether no image of a split has a label."""
        numbers = self.numbers.get(split, [])
        return not self.texts and all(number == UNLABELLED for number in numbers)

    def refuse_numbers_as_names(self) -> None:
        """Refuses numbers as labels where a class beside others is called by another's number.

        For lists that a user writes; those in a hub's metadata are in label order by definition.
        """
        if self.names is None or self.texts:
            return
        for place, name in enumerate(self.names):
            if name.isdecimal() and int(name) != place and int(name) < len(self.names):
                raise UserError(
                    f'{self.where} has the label {name}, where the list of classes has "{name}" in '
                    f"line {place + 1}, which stands for the label {place}: sort its lines, or "
                    "give its classes other names"
                )

    def class_ids(self) -> list[str]:
        """Returns the id of each class in the order of the numbers: wnids if they are proved.

        Raises:
            UserError: labels or their list contradict the names of images.
        """
        if self.contradiction:
            raise UserError(self.contradiction)
        ids = self.own_ids()
        for number, (wnid, image) in self.ids_of_numbers.items():
            if WNID.fullmatch(ids[number]) and ids[number] != wnid:
                raise UserError(
                    f"{self.where} mixes two label orders: its list of classes has {ids[number]} "
                    f"at {number}, but {image} with that label is of {wnid} by its name"
                )
        return ids

    def own_ids(self) -> list[str]:
        """Returns the id of each class in the order of the numbers, for the user's own labels.

        These may have classes of their own for ImageNet's images, so the names of images tell the
        ids only where none contradicts another.
        """
        if self.names is not None:
            return proved_ids(self.names) or list(self.names)
        if self.texts:
            return list(self.texts)
        count = 1 + max((max(numbers, default=-1) for numbers in self.numbers.values()), default=-1)
        by_images = [self.ids_of_numbers.get(number, ("", ""))[0] for number in range(count)]
        if all(by_images) and len(set(by_images)) == count and not self.contradiction:
            return by_images
        return [str(number) for number in range(count)]


@dataclass(frozen=True)
class Classes:
    """Classes in the label order of a data set.

    Attributes:
        ids, names: in label order.
        positions: int64, the label of each class of the source.
    """

    ids: list[str]
    names: list[str]
    positions: np.ndarray


def arrange(source_ids: Sequence[str], where: str, dataset: str, fixed: Sequence[str]) -> Classes:
    """Returns the classes of a source in the label order of a published data set.

    Args:
        source_ids: from `Labels.class_ids`.
        where: names the source in messages.
        dataset: names the data set in messages.
        fixed: its class ids in label order; empty for the sorted ids of the source.

    Raises:
        UserError: a class is not known by its id.
    """
    known = set(archives.imagenet_wnids())
    unknown = [wnid for wnid in source_ids if not WNID.fullmatch(wnid)]
    if unknown:
        received = first_few([f'"{name}"' for name in unknown], MAX_NAMED)
        raise UserError(
            f"{where} does not say which classes of ImageNet its labels are: {dataset} needs class "
            f"ids such as n02119789, or ImageNet's 1,000 names in a known order; received "
            f"{received}; add {CLASS_LISTS[0]}, with the class id of label 0 in its first line"
        )
    distinct(source_ids, where)
    foreign = [wnid for wnid in source_ids if wnid not in known]
    if foreign and fixed:
        raise UserError(f"{where} has the class {foreign[0]}, which is not one of {dataset}")
    ids = list(fixed) if fixed else sorted(source_ids)
    position = {wnid: number for number, wnid in enumerate(ids)}
    return Classes(ids, names_of(ids), np.array([position[w] for w in source_ids], np.int64))


def own_classes(source_ids: Sequence[str], where: str, names: Sequence[str] | None) -> Classes:
    """Returns the classes of the user's own images.

    Classes that are listed keep the order of their list; others are sorted, as class folders are.

    Args:
        source_ids: from `Labels.own_ids`.
        where: names the source in messages.
        names: the list of classes in the source, or None.
    """
    distinct(source_ids, where)
    if names is not None:
        ids = list(source_ids)
    elif all(wnid.isdecimal() for wnid in source_ids):
        ids = sorted(source_ids, key=int)
    else:
        ids = sorted(source_ids)
    position = {wnid: number for number, wnid in enumerate(ids)}
    return Classes(ids, names_of(ids), np.array([position[w] for w in source_ids], np.int64))


def names_of(wnids: Sequence[str]) -> list[str]:
    """Returns ImageNet's name for each class id, or the id itself if it is not ImageNet's."""
    names = _imagenet_names()
    return [names.get(wnid, wnid) for wnid in wnids]


def proved_ids(names: Sequence[str]) -> list[str] | None:
    """Returns the class id of each name if the whole list is one of ids, or a known one.

    Case, underscores, all synonyms but the first, and what tells the two cranes apart ("crane2",
    "crane (machine)") make no difference.
    """
    if all(WNID.fullmatch(name) for name in names):
        return list(names)
    plain = [_plain(name) for name in names]
    for wnids in (sorted(archives.imagenet_wnids()), archives.imagenet_wnids()):
        if plain == [_plain(name) for name in names_of(wnids)]:
            return list(wnids)
    return None


def distinct(names: Sequence[str], where: str) -> list[str]:
    """Returns a list of class names or ids; refuses one that names a class twice or is empty."""
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            fault = f'names the class "{name}" twice' if name else "has a class without a name"
            raise UserError(f"{where} {fault}: each class needs a name of its own")
        seen.add(name)
    return list(names)


def wnid_in(name: str) -> str | None:
    """Returns the class id that the name of one of ImageNet's images tells, or None.

    Names of training images begin with it, as n01440764_18.JPEG; the hub's copies end with it.
    Names of validation images are looked up.
    """
    base = PurePosixPath(name).name
    found = WNID_IN_NAME.match(base)
    if found:
        return found[1] or found[2]
    return _validation_wnids().get(base)


def read_class_list(folder: Path) -> list[str] | None:
    """Returns the classes in `classes.txt` of a folder, one per line in label order, or None."""
    for name in CLASS_LISTS:
        file = folder / name
        if not file.is_file():
            continue
        try:
            lines = decode_text(read_small(file, MAX_LIST_BYTES)).splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        return [line.strip() for line in lines if line.strip()]
    return None


@cache
def _validation_wnids() -> Mapping[str, str]:
    return imagenet2012.validation_wnids()


@cache
def _imagenet_names() -> Mapping[str, str]:
    wnids, names = archives.imagenet_wnids(), archives.imagenet_class_names()
    return dict(zip(wnids, names, strict=True))


def _plain(name: str) -> str:
    first = name.split(",")[0].replace("_", " ").strip().casefold()
    return re.sub(r"\s*\([^)]*\)$|\d+$", "", first)
