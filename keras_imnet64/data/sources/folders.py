"""Class folders of pictures: anyone's own, ImageNet-1K's and ImageNet-21K's, listed for an index.

Nothing is decoded here. A class is a folder, its id the folder's name; pictures of a class are in
sorted order of their names (by bytes, as `LC_ALL=C ls` has them).
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...files import decode_text, expand, read_small
from ..indexing import Listed
from ..pictures import find_pictures, suffixes

VALIDATION_NAMES = ("val", "validation", "valid")
LIST_BYTES = 2**22
IMAGENET_21K_MORE_THAN = 500  # pictures of a class that is kept (Alibaba-MIIL/ImageNet21K)
IMAGENET_21K_VALIDATION = 50  # the first of each class
IMAGENET_21K_COUNTS = {  # whether by a list -> classes, training and validation pictures
    False: (11_221, 11_797_632, 561_052),
    True: (10_450, 11_060_223, 522_500),
}


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        root: the folder below which the files lie.
        wnids: class ids, in label order.
        splits: {split: list of `Listed`}.
    """

    root: Path
    wnids: list
    splits: dict

    def counts(self):
        return {split: len(pictures) for split, pictures in self.splits.items()}


# ------------------------------------------------------------------------------- anyone's pictures


def list_image_folder(source, validation_share):
    """train/ and val/ of class folders, or one folder of them that is split.

    Args:
        source: the folder.
        validation_share: the chance of each picture to be kept aside, where there is no val/. Its
            name alone draws, so that a picture stays on its side when others come; but of each
            class at least one is on either side.

    Raises:
        UserError: there are no classes, a class without pictures, or one that only val/ has.
    """
    root = source_folder(source)
    if not (root / "train").is_dir():
        return _split(root, validation_share)
    validation = next((n for n in VALIDATION_NAMES if (root / n).is_dir()), None)
    if validation is None:
        raise UserError(
            f"{root} has a folder train but none of {', '.join(VALIDATION_NAMES)}: add one, or "
            f"pass {root / 'train'} to have it split"
        )
    return list_train_and_validation(root, "train", validation)


def list_train_and_validation(root, train, validation):
    """The Listing of two folders of class folders; classes are those of the first."""
    wnids = class_ids(root / train)
    others = set(class_ids(root / validation)) - set(wnids)
    if others:
        raise UserError(
            f"{root / validation} has the class {min(others)}, which {root / train} lacks: "
            "a model cannot learn it"
        )
    of_validation = [wnid for wnid in wnids if (root / validation / wnid).is_dir()]
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    return Listing(
        root,
        wnids,
        {
            "train": [p for w in wnids for p in pictures_of(root, root / train / w, labels[w])],
            "validation": [
                p
                for wnid in of_validation
                for p in pictures_of(root, root / validation / wnid, labels[wnid])
            ],
        },
    )


def _split(root, share):
    wnids, splits = class_ids(root), {"train": [], "validation": []}
    for label, wnid in enumerate(wnids):
        pictures = pictures_of(root, root / wnid, label)
        if len(pictures) < 2:
            raise UserError(
                f"{root / wnid} holds one picture: to be split, a class needs at least two"
            )
        by_name = sorted(pictures, key=lambda picture: _rank(picture.name))
        low = sum(_rank(picture.name) < share for picture in by_name)
        kept_aside = min(max(1, low), len(pictures) - 1)
        aside = {picture.name for picture in by_name[:kept_aside]}
        for picture in pictures:
            splits["validation" if picture.name in aside else "train"].append(picture)
    return Listing(root, wnids, splits)


def _rank(name):
    """A number in 0..1 that is drawn by the name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64


# ----------------------------------------------------------------------------------- ImageNet-21K


def list_imagenet_21k(source, class_list=None):
    """The published selections of ImageNet-21K (Alibaba-MIIL/ImageNet21K, arXiv:2104.10972).

    Args:
        source: a folder of class folders.
        class_list: a file with one class id per line, whose classes are taken as they are; None
            takes those with more than 500 pictures.

    Returns:
        Listing: the first 50 pictures of each class are its validation.

    Raises:
        UserError: a listed class is missing, listed twice or too small, or none is large enough.
    """
    root = source_folder(source)
    there = class_ids(root)
    wnids = there if class_list is None else sorted(read_class_list(class_list))
    missing = sorted(set(wnids) - set(there))
    if missing:
        raise UserError(f"{class_list} names the class {missing[0]}, which is no folder in {root}")
    kept, splits = [], {"train": [], "validation": []}
    for wnid in wnids:
        pictures = pictures_of(root, root / wnid, len(kept)) if _has_files(root / wnid) else []
        least = IMAGENET_21K_VALIDATION if class_list else IMAGENET_21K_MORE_THAN
        if len(pictures) > least:
            kept.append(wnid)
            splits["validation"] += pictures[:IMAGENET_21K_VALIDATION]
            splits["train"] += pictures[IMAGENET_21K_VALIDATION:]
        elif class_list:
            raise UserError(
                f"{root / wnid} holds {len(pictures)} pictures; more than {least} are needed"
            )
    if not kept:
        raise UserError(
            f"no class of {root} has more than {IMAGENET_21K_MORE_THAN} pictures; "
            "ImageNet-21K's selection keeps only those, or those of a list: --class-list FILE"
        )
    return Listing(root, kept, splits)


def _has_files(folder):
    """Whether there is anything; a folder that cannot be listed is told of by who lists it."""
    try:
        return bool(os.listdir(folder))
    except OSError:
        return True


def read_class_list(path):
    """The class ids of a text file, one per line."""
    try:
        text = decode_text(read_small(expand(path), LIST_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"the class list {path} cannot be read: {error}") from None
    wnids = text.split()
    doubled = next((wnid for wnid, times in Counter(wnids).items() if times > 1), None)
    if doubled or not wnids:
        what = f"lists {doubled} twice" if doubled else "is empty"
        raise UserError(f"{path} {what}; one class id per line, each once, is needed")
    return wnids


# ---------------------------------------------------------------------------------------- folders


def source_folder(source):
    folder = expand(source)
    if not os.path.isdir(folder):
        raise UserError(f"--source must be a folder of class folders; received {source}")
    return Path(os.path.abspath(folder))


def class_ids(folder):
    """Names of the class folders in sorted order; hidden ones are passed over."""
    try:
        found = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from None
    wnids = sorted(entry.name for entry in found if os.path.isdir(entry))
    loose = next((e for e in found if Path(e.name).suffix.lower() in suffixes()), None)
    if not wnids and loose:
        raise UserError(
            f"{folder} holds pictures such as {loose.name}, but no class folders with pictures"
        )
    if not wnids:
        raise UserError(f"{folder} holds no class folders; <class>/<picture> is needed")
    return wnids


def pictures_of(root, folder, label):
    """list of `Listed`: the pictures of a class folder, also of folders in it."""
    names = [file.relative_to(root).as_posix() for file in find_pictures(folder)]
    return [Listed(name, label) for name in sorted(names, key=os.fsencode)]
