"""Lists the images in class folders, of any data set or of ImageNet-21K, for indexing.

A class is a folder; its id is the folder's name in UTF-8 and in Unicode's composed form, on every
system and locale. The images of a class are sorted by the bytes of their names, as `LC_ALL=C ls`
sorts. `layout` decides which folders are classes, and `finding` which files are images.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import decode_text, read_small
from keras_imnet64.core.paths import expand, portable
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.sources import layout as layouts
from keras_imnet64.data.sources.finding import (
    Faulty,
    FoundFiles,
    find_below,
    list_folder,
    sort_below,
    sort_files,
)
from keras_imnet64.data.sources.shards import SHARD_SUFFIXES
from keras_imnet64.data.stores.indexing import ImageEntry, ReadImages
from keras_imnet64.records import SourceForm

MAX_LIST_BYTES = 2**22
MAX_NAMED = 5  # folders in a note
OTHER_FORMS = ", a CSV file of paths and labels, or Parquet or WebDataset shards"
ARCHIVE_SUFFIXES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
IN_NO_CLASS = "lies in no class folder"
IMAGENET_21K_MORE_THAN = 500  # images of a selected class (Alibaba-MIIL/ImageNet21K)
IMAGENET_21K_VALIDATION = 50  # the first images of each class
IMAGENET_21K_COUNTS = {  # has a class list -> classes, training and validation images
    False: (11_221, 11_797_632, 561_052),
    True: (10_450, 11_060_223, 522_500),
}


@dataclass
class Listing:
    """The images and classes of a source, with notes for the user; filled during the search.

    Attributes:
        root: the folder below which the files lie.
        source: what the user passed: root, a parent of it, or a file in it.
        form: see `records.StoreMeta`.
        read: yields the bytes of images, if they cannot be read in place; see `listing.Listed`.
        wnids: class ids, in label order.
        splits: {split: its images}.
        faulty: (name below root, what is wrong with it) of unusable files, and of images that
            belong to no class.
        ignored: names of files that are obviously not images, such as annotations.
        folders: names of the folders of the splits, as in "train and val"; empty if there are none.
        notes: sentences that tell the user what was decided.
        subfolders: {class id: names of the subfolders of its folder that hold images}.
    """

    root: Path
    wnids: list[str] = field(default_factory=list)
    splits: dict[str, list[ImageEntry]] = field(
        default_factory=lambda: {"train": [], "validation": []}
    )
    faulty: list[Faulty] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    folders: str = ""
    notes: list[str] = field(default_factory=list)
    subfolders: dict[str, set[str]] = field(default_factory=dict)
    source: Path | None = None
    form: SourceForm = "class folders"
    read: ReadImages | None = None

    def counts(self) -> dict[str, int]:
        """Returns {split: number of images}."""
        return {split: len(images) for split, images in self.splits.items()}

    def list_class(self, folder: Path, label: int) -> list[ImageEntry]:
        """Returns the images of a class folder, and records its other files and subfolders.

        Raises:
            UserError: the folder holds no image.
        """
        found = sort_below(folder)
        if not found.images:
            raise _no_image(folder, found)
        parents = {file.parent for file in found.images} - {folder}
        names = {parent.relative_to(folder).parts[0] for parent in parents}
        self.subfolders.setdefault(self.wnids[label], set()).update(names)
        return self.list_images(found, label)

    def list_images(self, found: FoundFiles, label: int) -> list[ImageEntry]:
        """Returns the images among the files of a class, and records the others."""
        self.faulty += [(self.name_of(file), fault) for file, fault in found.faulty]
        self.ignored += map(self.name_of, found.ignored)
        names = map(self.name_of, found.images)
        return [ImageEntry(name, label) for name in sorted(names, key=os.fsencode)]

    def record_loose_files(self, folder: Path, outer: Path | None = None) -> None:
        """Records files beside class folders, where images and broken links are faulty.

        Args:
            folder: holds the class folders.
            outer: a parent of `folder`, whose files, and those of the folders between, are
                recorded too.
        """
        folders = layouts.folders_between(outer or folder, folder)
        found = sort_files(file for each in folders for file in list_folder(each)[1])
        self.faulty += [(self.name_of(file), IN_NO_CLASS) for file in found.images]
        for file, fault in found.faulty:
            if os.path.islink(file):
                self.faulty.append((self.name_of(file), fault))
            else:
                self.ignored.append(self.name_of(file))
        self.ignored += map(self.name_of, found.ignored)

    def record_source(self, source: Path) -> None:
        """Records the folder that the user passed, and the files between it and root."""
        self.source = source
        self.record_loose_files(self.root, source)

    def note_subfolders(self) -> None:
        """Adds a note if a class has several subfolders, which may be meant as classes."""
        several = {wnid: sorted(names) for wnid, names in self.subfolders.items() if len(names) > 1}
        if several:
            wnid, *others = several
            paths = ", ".join(f"{wnid}/{name}" for name in several[wnid][:MAX_NAMED])
            more = f", and likewise for {layouts.join_names(others)}" if others else ""
            self.notes.append(f"images of {paths} are merged into the class {wnid}{more}")

    def name_of(self, file: Path) -> str:
        """Returns the path of a file below root, or its whole path if it lies outside root."""
        try:
            return file.relative_to(self.root).as_posix()
        except ValueError:
            return file.as_posix()


def _no_image(folder: Path, found: FoundFiles) -> UserError:
    """Returns the error for a class folder without images."""
    if shard := _first_shard(file for file, _ in found.faulty):
        return UserError(
            f"the folder {folder} holds no image but {shard.name}, which may hold many: pass "
            f"{shard.parent} as --source to use them, or move the folder away"
        )
    example = f"; {found.faulty[0][0]} {found.faulty[0][1]}" if found.faulty else ""
    return UserError(
        f"the folder {folder} holds no image; add some, or move the folder away if it is no "
        f"class{example}"
    )


def _first_shard(files: Iterable[Path]) -> Path | None:
    return next((file for file in files if file.suffix.lower() in SHARD_SUFFIXES), None)


# ----------------------------------------------------------------------------------- any data set


def list_image_folder(
    source: StrPath, validation_share: float, splits: str | None = None
) -> Listing:
    """Lists a training and a validation folder of class folders, or splits one folder.

    Args:
        source: the folder.
        validation_share: if the folder has no splits, the probability with which an image becomes
            a validation image; see `held_out`. 1 leaves no training images.
        splits: as for `layout.find_layout`.

    Raises:
        UserError: there are no classes, a class has no images, a class is only in the validation
            folder, or the layout is ambiguous.
    """
    folder = source_folder(source, OTHER_FORMS)
    layout = layouts.find_layout(folder, splits)
    if layout.splits is None:
        listing = _split(layout.root, validation_share, folder)
    else:
        train, validation = layout.splits.train, layout.splits.validation
        listing = list_train_and_validation(layout.root, train, validation)
        listing.record_source(folder)
    listing.note_subfolders()
    listing.notes += layout.notes
    listing.ignored += [f"{name}/" for name in layout.ignored]
    return listing


def list_train_and_validation(root: Path, train: str, validation: str) -> Listing:
    """Lists two folders of class folders below `root`; the first defines the classes."""
    listing = Listing(root, folders=f"{train} and {validation}")
    of_train = _classes_of_split(listing, train, ())
    of_validation = _classes_of_split(listing, validation, of_train)
    others = set(of_validation) - set(of_train)
    if others:
        raise UserError(
            f"{root / validation} has the class {min(others)}, which {root / train} lacks: "
            f"{_remedy_for_unknown(min(others), of_train)}"
        )
    listing.wnids = list(of_train)
    if lacking := [wnid for wnid in listing.wnids if wnid not in of_validation]:
        listing.notes.append(unscored_note(lacking, validation))
    for split, classes in (("train", of_train), ("validation", of_validation)):
        for label, wnid in enumerate(listing.wnids):
            if wnid in classes:
                listing.splits[split] += listing.list_class(classes[wnid], label)
    return listing


def unscored_note(wnids: Iterable[str], validation: str) -> str:
    """Returns the note about classes without validation images."""
    classes = layouts.join_names(wnids)
    return f"{validation} has no images of {classes}, so scores will not cover them"


def _remedy_for_unknown(wnid: str, known: Iterable[str]) -> str:
    alike = [other for other in known if other.casefold() == wnid.casefold()]
    if alike:
        return f"rename it to {alike[0]}, as in training"
    return "a model cannot learn it, so move it away or add training images"


def _classes_of_split(listing: Listing, name: str, known: Container[str]) -> dict[str, Path]:
    """Returns {class id: its folder} of the split `name`.

    Args:
        known: class ids. A single folder with one of these ids is a class; any other single folder
            is entered.
    """
    outer = listing.root / name
    folder = layouts.enter_single_folders(outer, lambda single: class_id(single) in known)
    listing.record_loose_files(folder, outer)
    return class_folders(folder)


def _split(root: Path, share: float, source: Path) -> Listing:
    """Lists a folder of class folders, and assigns each image to a split."""
    classes = class_folders(root)
    listing = Listing(root, list(classes), notes=[split_note(share)])
    listing.record_source(source)
    for label, folder in enumerate(classes.values()):
        images = listing.list_class(folder, label)
        validation = held_out([image.in_words for image in images], share, folder)
        for image in images:
            split = "validation" if image.in_words in validation else "train"
            listing.splits[split].append(image)
    return listing


def check_validation_share(share: float) -> None:
    """Raises a UserError if a share is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise UserError(f"--validation-share must be above 0 and at most 1; received {share}")


def split_note(share: float) -> str:
    """Returns the note about images without splits, of which a share is for validation."""
    if share == 1:
        return "every image is for validation: models can be scored on this set, not trained"
    kept = f"about {100 * share:g} % of each class are kept aside for validation"
    return f"nothing is split, so {kept}"


def held_out(names: Collection[str], share: float, where: StrPath) -> set[str]:
    """Returns which images of a class are kept for validation.

    Only the name of an image decides, so that it stays in its split when others are added. The
    exception is an image that is kept because the hash of none is below the share: it moves to
    training when another with a lower hash is added. With a share of 0.1, that may happen in
    classes of fewer than about 50 images, since 0.9**50 is 0.5 %.

    Args:
        names: of the images of the class.
        share: the probability with which an image is kept; at least one is, and one is not.
            With a share of 1 all are.
        where: what holds them, for messages.

    Raises:
        UserError: a single image is to be split.
    """
    if share == 1:
        return set(names)
    if len(names) < 2:
        raise UserError(f"{where} holds one image: to be split, a class needs at least two")
    ordered = sorted(names, key=_draw)
    below_share = sum(_draw(name) < share for name in ordered)
    return set(ordered[: min(max(1, below_share), len(ordered) - 1)])


def _draw(name: str) -> float:
    """Returns a number in 0..1 that depends only on the name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64


# ----------------------------------------------------------------------------------- ImageNet-21K


def list_imagenet_21k(source: StrPath, class_list: StrPath | None = None) -> Listing:
    """Lists a published selection of ImageNet-21K (Alibaba-MIIL/ImageNet21K, arXiv:2104.10972).

    The first 50 images of each class are its validation images.

    Args:
        source: a folder of class folders.
        class_list: a file of the class ids to select, one per line; None selects classes with more
            than 500 images.

    Raises:
        UserError: a listed class is missing, repeated or too small, or no class is large enough.
    """
    folder = source_folder(source)
    root = layouts.enter_single_folders(folder, layouts.split_of)
    _refuse_splits_of_imagenet_21k(root)
    folder_of = class_folders(root)
    wnids = list(folder_of) if class_list is None else sorted(_selected_ids(class_list))
    missing = sorted(set(wnids) - set(folder_of))
    if missing:
        raise UserError(f"{class_list} names the class {missing[0]}, which is no folder in {root}")
    listing = Listing(root)
    listing.record_source(folder)
    threshold = IMAGENET_21K_VALIDATION if class_list else IMAGENET_21K_MORE_THAN
    for wnid in wnids:
        found = find_below(folder_of[wnid]) if _has_files(folder_of[wnid]) else FoundFiles()
        if len(found.images) > threshold:
            images = listing.list_images(found, len(listing.wnids))
            listing.wnids.append(wnid)
            listing.splits["validation"] += images[:IMAGENET_21K_VALIDATION]
            listing.splits["train"] += images[IMAGENET_21K_VALIDATION:]
        elif class_list:
            raise UserError(
                f"{folder_of[wnid]} holds {len(found.images)} images; "
                f"more than {threshold} are needed"
            )
    if not listing.wnids:
        raise UserError(
            f"no class of {root} has more than {IMAGENET_21K_MORE_THAN} images; "
            "ImageNet-21K's selection keeps only those; pass --class-list FILE to select others"
        )
    return listing


def _refuse_splits_of_imagenet_21k(root: Path) -> None:
    """Refuses folders of splits: the images are split here as in the published selection."""
    named = layouts.named_splits(list_folder(root)[0])
    if layouts.TRAIN in named.values():
        raise UserError(
            f"{root} has the folders {' and '.join(named)}, which are named like splits; "
            "imagenet21k needs one folder of class folders; use image_folder/NAME for splits"
        )


def _has_files(folder: Path) -> bool:
    """Returns whether a folder is not empty; True if it cannot be listed, which fails later."""
    try:
        return bool(os.listdir(folder))
    except OSError:
        return True


def _selected_ids(path: StrPath) -> list[str]:
    """Returns the class ids in the text file of --class-list, one per line."""
    try:
        text = decode_text(read_small(expand(path), MAX_LIST_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"the class list {path} cannot be read: {error}") from None
    wnids = [unicodedata.normalize("NFC", word) for word in text.split()]
    repeated = next((wnid for wnid, times in Counter(wnids).items() if times > 1), None)
    if repeated or not wnids:
        fault = f"lists {repeated} twice" if repeated else "is empty"
        raise UserError(f"{path} {fault}; list each class id once, one per line")
    return wnids


# ---------------------------------------------------------------------------------------- folders


def source_folder(source: StrPath, others: str = "") -> Path:
    """Returns the absolute path of the folder that the user passed as --source.

    Args:
        others: the other sources that the data set may have, for the message.

    Raises:
        UserError: it is no folder.
    """
    folder = expand(source)
    if not os.path.isdir(folder):
        kind = folder.suffix.lower()
        advice = "; unpack it first" if kind in ARCHIVE_SUFFIXES and os.path.isfile(folder) else ""
        raise UserError(
            f"--source must be a folder of class folders{others}; received {source}{advice}"
        )
    return Path(os.path.abspath(folder))


def class_id(name: str) -> str:
    """Returns the id of a class from its folder's name, the same on every system and locale.

    macOS writes accents as separate characters (NFD) where other systems compose them (NFC).
    """
    return unicodedata.normalize("NFC", portable(name))


def class_folders(folder: Path) -> dict[str, Path]:
    """Returns {class id: its folder} of the class folders in `folder`, sorted by id.

    Raises:
        UserError: there are no class folders, or two have the same id.
    """
    names, files = list_folder(folder)
    if not names:
        loose = sort_files(files).images
        fault = f"{folder} holds no class folders; <class>/<image> is needed"
        if loose:
            fault = (
                f"{folder} holds images such as {loose[0].name}, but no class folders with images"
            )
        archives = [file for file in files if file.suffix.lower() in ARCHIVE_SUFFIXES - {".tar"}]
        if archives and not loose:
            fault += f"; unpack {archives[0].name} first"
        elif shard := _first_shard(files):
            fault += f"; {shard.name} may hold images too: pass {shard} as --source to use them"
        raise UserError(fault)
    name_of: dict[str, str] = {}  # class id -> name of its folder
    for name in names:
        other = name_of.setdefault(class_id(name), name)
        if other != name:
            raise UserError(
                f"{folder} has two folders of the class {class_id(name)}, in two Unicode forms of "
                f"its name ({other!a} and {name!a}): move the images into one of them"
            )
    return {wnid: folder / name_of[wnid] for wnid in sorted(name_of)}
