"""Lists images in WebDataset's tar shards, which stay packed.

The files of a sample follow each other and share a key, the part of their name before the first
dot: `n01440764_18.jpg` with `n01440764_18.cls` (a number or a text) or `n01440764_18.json` (an
object with the label). Samples keep the order of the shards.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import parse_json
from keras_imnet64.core.types import PackProgress
from keras_imnet64.data.sources.class_lists import UNLABELLED, WNID, Labels, read_class_list
from keras_imnet64.data.sources.layout import TEST, join_names
from keras_imnet64.data.sources.listing import Listed, choose_splits
from keras_imnet64.data.sources.shards import find_shards, shards_by_split
from keras_imnet64.data.sources.tars import members, open_tar
from keras_imnet64.data.stores.indexing import ImageEntry

SUFFIX = ".tar"
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
LABEL_SUFFIXES = ("cls", "json")
ID_KEYS, LABEL_KEYS = ("wnid", "class_id", "synset"), ("label", "cls", "class")  # of an object
NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)
MAX_LABEL_BYTES = 2**20


def is_webdataset(source: Path) -> bool:
    """Returns whether a source is a tar of samples, or a folder of such tars."""
    shards = find_shards(source, SUFFIX)
    try:
        return bool(shards) and _begins_with_sample(shards[0])
    except UserError:  # a damaged tar is named when it is listed
        return True


def list_webdataset(source: Path, progress: PackProgress | None = None) -> Listed:
    """Lists the images of all shards.

    Raises:
        UserError: a shard is missing or damaged, or a sample has no image or no label.
    """
    root = source if source.is_dir() else source.parent
    notes: list[str] = []
    found = shards_by_split(find_shards(source, SUFFIX), root)
    if len(found) > 1 and TEST in found and _is_unlabelled(found[TEST][0]):
        notes.append("test has no labels and is left out")
        del found[TEST]
    chosen = choose_splits(found, notes)
    labels = Labels(str(source), read_class_list(root))
    entries: dict[str, list[ImageEntry]] = {}
    total, done = sum(map(len, chosen.values())), 0
    for split, paths in chosen.items():
        entries[split] = []
        for path in paths:
            entries[split] += _list_shard(path, split, labels, root)
            done += 1
            if progress:
                progress("listing shards", done, total)
    labels.refuse_numbers_as_names()
    return Listed("WebDataset", root, labels, entries, notes=notes)


def _list_shard(path: Path, split: str, labels: Labels, root: Path) -> list[ImageEntry]:
    name = path.relative_to(root).as_posix()
    entries: list[ImageEntry] = []
    numbers = labels.numbers.setdefault(split, [])
    keys: set[str] = set()
    for sample in _samples(path):
        where = f"{path}: {sample.key}"
        if sample.key in keys:
            raise UserError(f"{where} comes twice")
        keys.add(sample.key)
        label = sample.best_label
        if sample.image is None or label is None:
            lacking = "image" if sample.image is None else "label"
            suffixes = IMAGE_SUFFIXES if sample.image is None else LABEL_SUFFIXES
            raise UserError(f"{where} has no {lacking}, a file .{' or .'.join(suffixes)}")
        sample.refuse_contradiction(where)
        labels.add(split, label, where, sample.file_name or sample.key)
        image = sample.image
        entries.append(
            ImageEntry(name, numbers[-1], image.offset_data, image.size, member=image.name)
        )
    if not entries:
        raise UserError(f"{path} holds no samples")
    return entries


@dataclass
class _Sample:
    """The files of one key.

    Attributes:
        wnid, label, cls: the class id and the label in its object, and the content of its .cls.
        said: all labels and class ids that its files state.
        file_name: the image's original name, as its object states it; else empty.
    """

    key: str
    image: tarfile.TarInfo | None = None
    wnid: str | None = None
    label: int | str | None = None
    cls: int | str | None = None
    said: list[int | str] = field(default_factory=list)
    file_name: str = ""
    suffixes: set[str] = field(default_factory=set)

    @property
    def best_label(self) -> int | str | None:
        """The class id, else .cls, else the label in the object."""
        return next((x for x in (self.wnid, self.cls, self.label) if x is not None), None)

    def refuse_contradiction(self, where: str) -> None:
        """Refuses two class ids, two numbers or two names; a name may stand beside a number."""
        numbers = {label for label in self.said if isinstance(label, int)}
        texts = {label for label in self.said if isinstance(label, str)}
        ids = set(filter(WNID.fullmatch, texts))
        for labels in (ids, numbers, texts - ids):
            if len(labels) > 1:
                raise UserError(
                    f"{where} has the labels {join_names(sorted(map(str, labels)))}, where one is "
                    "needed: correct its .cls or .json"
                )


def _samples(path: Path) -> Iterator[_Sample]:
    """Yields the samples of a shard.

    Raises:
        UserError: the tar is damaged, holds links or names that point outside, or a label is none.
    """
    sample: _Sample | None = None
    with open_tar(path) as archive:
        for member in members(archive, str(path)):
            key, suffix = _split_name(member.name)
            if sample is None or key != sample.key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            if suffix in sample.suffixes:
                raise UserError(f"{path} holds {member.name} twice")
            sample.suffixes.add(suffix)
            kind = suffix.rpartition(".")[2]
            if kind in IMAGE_SUFFIXES:
                if sample.image is not None:
                    raise UserError(f"{path}: {key} has two images; one is needed")
                sample.image = member
            elif kind == "cls":
                sample.cls = _read_cls(*_text_of(archive, member, path))
                sample.said.append(sample.cls)
            elif kind == "json":
                _read_json(sample, *_text_of(archive, member, path))
    if sample is not None:
        yield sample


def _split_name(name: str) -> tuple[str, str]:
    """Returns (key, suffix in lower case): the first dot in the file name parts them."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return (path.parent / stem).as_posix(), suffix.lower()


def _text_of(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> tuple[str, str]:
    """Returns (text of a member, its path for messages)."""
    where = f"{path}: {member.name}"
    if member.size > MAX_LABEL_BYTES:
        raise UserError(f"{where} has {member.size:,} bytes, too many for a label")
    file = archive.extractfile(member)
    assert file is not None  # `members` yields regular files only
    try:
        return file.read().decode().strip(), where
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not a text ({reason(error)})") from None


def _read_cls(text: str, where: str) -> int | str:
    if not text:
        raise UserError(f"{where} is empty, but must hold a label")
    return int(text) if NUMBER.fullmatch(text) else text


def _read_json(sample: _Sample, text: str, where: str) -> None:
    """Takes the class id, the label and the original name of an image from its object."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({reason(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} must hold an object with the key {LABEL_KEYS[0]}")
    for key in ID_KEYS:
        if WNID.fullmatch(str(content.get(key))):
            sample.wnid = str(content[key])
            sample.said.append(sample.wnid)
    for key in LABEL_KEYS:
        value = content.get(key)
        if isinstance(value, int | str) and not isinstance(value, bool):
            sample.label = value if sample.label is None else sample.label
            sample.said.append(value)
    sample.file_name = str(content.get("filename") or "")


def _is_unlabelled(path: Path) -> bool:
    return all(sample.best_label in (None, UNLABELLED) for sample in _samples(path))


def _begins_with_sample(path: Path) -> bool:
    """Returns whether the first files of a tar have names of a sample's files."""
    with open_tar(path) as archive:
        for number, member in enumerate(members(archive, str(path))):
            if _split_name(member.name)[1].rpartition(".")[2] in LABEL_SUFFIXES:
                return True
            if number > 3:
                break
    return False
