"""What the readers of shards and lists return: images in the source's order, and their labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from keras_imnet64.data.sources.class_lists import Labels
from keras_imnet64.data.sources.layout import TEST, TRAIN, VALIDATION
from keras_imnet64.data.stores.indexing import ImageEntry, ReadImages
from keras_imnet64.records import SourceForm

Part = TypeVar("Part")  # what a split consists of: shards, or rows


@dataclass
class Listed:
    """The images of a source whose class order is still to be proved.

    Attributes:
        root: the folder below which its files lie.
        labels: see `Labels`.
        entries: {"train" or "validation": its images}; the label of each is the source's number.
            "validation" is missing if the source has no such images.
        read: yields the bytes of images, for forms whose images are no pieces of files; None if
            they can be read, and later trained on, where they lie.
        notes: sentences for the user.
    """

    form: SourceForm
    root: Path
    labels: Labels
    entries: dict[str, list[ImageEntry]]
    read: ReadImages | None = None
    notes: list[str] = field(default_factory=list)


def choose_splits(found: Mapping[str, list[Part]], notes: list[str]) -> dict[str, list[Part]]:
    """Returns the parts of "train" and of "validation", unless there are none.

    Without validation images, labelled test images are used, as for class folders.

    Args:
        found: {train, validation, test, or "" for parts of no split: its parts}.
        notes: receives what the user should know.
    """
    train = found.get(TRAIN) or found.get("")
    chosen = {TRAIN: train} if train else {}
    if VALIDATION in found:
        chosen[VALIDATION] = found[VALIDATION]
        if TEST in found:
            notes.append("test is ignored, neither trained on nor scored")
    elif TEST in found:
        chosen[VALIDATION] = found[TEST]
        notes.append("test is used for validation, since there are no validation images")
    return chosen
