"""Class folders of images: anyone's own, ImageNet-1K's and ImageNet-21K's, listed for an index.

Nothing is decoded here. A class is a folder, its id the folder's name in UTF-8 and in Unicode's
composed form, whatever the locale and the system that wrote it; images of a class are in sorted
order of their names (by bytes, as `LC_ALL=C ls` has them). `layout` decides which folders are
classes, and `finding` which files are images.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import decode_text, read_small
from keras_imnet64.core.paths import expand, portable
from keras_imnet64.data.sources import layout as layouts
from keras_imnet64.data.sources.finding import Faulty, Found, find_below, list_folder, sort_files
from keras_imnet64.data.stores.indexing import ImageEntry

LIST_BYTES = 2**22
MOST_NAMED = 5  # folders in a note
IN_NO_CLASS = "lies in no class folder"
IMAGENET_21K_MORE_THAN = 500  # images of a class that is kept (Alibaba-MIIL/ImageNet21K)
IMAGENET_21K_VALIDATION = 50  # the first of each class
IMAGENET_21K_COUNTS = {  # whether by a list -> classes, training and validation images
    False: (11_221, 11_797_632, 561_052),
    True: (10_450, 11_060_223, 522_500),
}


@dataclass
class Listing:
    """What a source holds.

    Attributes:
        root: the folder below which the files lie.
        source: the folder that the user named, which root may lie in as a lone folder.
        wnids: class ids, in label order.
        splits: {split: list of `ImageEntry`}.
        faulty: (name below root, what is wrong with it) of files that are no images, and of
            images that are of no class.
        aside: names of files that nobody takes for images, such as annotations.
        folders: what the user calls the splits, as in "train and val"; empty where there are none.
        notes: sentences for the user about what was decided.
        inner: {class id: names of the folders in its folder that hold images of it}.
    """

    root: Path
    wnids: list[str] = field(default_factory=list)
    splits: dict[str, list[ImageEntry]] = field(
        default_factory=lambda: {"train": [], "validation": []}
    )
    faulty: list[Faulty] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    folders: str = ""
    notes: list[str] = field(default_factory=list)
    inner: dict[str, set[str]] = field(default_factory=dict)
    source: Path | None = None

    def counts(self) -> dict[str, int]:
        return {split: len(images) for split, images in self.splits.items()}

    def take_class(self, folder: Path, label: int) -> list[ImageEntry]:
        """list of `ImageEntry`: the images of a class whose folder is given."""
        found = find_below(folder, "add some, or move or delete the folder if it is no class")
        inner = {file.parent for file in found.images} - {folder}
        names = {path.relative_to(folder).parts[0] for path in inner}
        self.inner.setdefault(self.wnids[label], set()).update(names)
        return self.take(found, label)

    def take(self, found: Found, label: int) -> list[ImageEntry]:
        """list of `ImageEntry`: the images of a class; what else was found is noted."""
        self.faulty += [(self.name_of(file), fault) for file, fault in found.faulty]
        self.aside += map(self.name_of, found.aside)
        names = map(self.name_of, found.images)
        return [ImageEntry(name, label) for name in sorted(names, key=os.fsencode)]

    def note_loose(self, folder: Path, outer: Path | None = None) -> None:
        """Note the files that lie beside class folders: images and broken links are missed.

        Args:
            folder: holds the class folders.
            outer: the folder from which lone folders were entered on the way to `folder`.
        """
        folders = layouts.way(outer or folder, folder)
        found = sort_files(file for each in folders for file in list_folder(each)[1])
        self.faulty += [(self.name_of(file), IN_NO_CLASS) for file in found.images]
        for file, fault in found.faulty:
            if os.path.islink(file):
                self.faulty.append((self.name_of(file), fault))
            else:
                self.aside.append(self.name_of(file))
        self.aside += map(self.name_of, found.aside)

    def note_inner_folders(self) -> None:
        """Say that classes are made of several folders, each of which may have been meant as one.

        A single folder within a class folder hides no other class.
        """
        several = {wnid: sorted(names) for wnid, names in self.inner.items() if len(names) > 1}
        if several:
            wnid, *others = several
            paths = ", ".join(f"{wnid}/{name}" for name in several[wnid][:MOST_NAMED])
            more = f", and likewise for {layouts.listed(others)}" if others else ""
            self.notes.append(f"images of {paths} are taken for the class {wnid}{more}")

    def name_of(self, file: Path) -> str:
        """The name below root, or the whole path of a file that lies outside root."""
        try:
            return file.relative_to(self.root).as_posix()
        except ValueError:
            return file.as_posix()


# ------------------------------------------------------------------------------- anyone's images


def list_image_folder(
    source: str | Path, validation_share: float, splits: str | None = None
) -> Listing:
    """Training and validation folders of class folders, or one folder of them that is split.

    Args:
        source: the folder.
        validation_share: the chance of each image to be kept aside, where there is no val/. Its
            name alone draws, so that an image stays on its side when others come; but of each
            class at least one is on either side.
        splits: as for `layout.find_layout`.

    Raises:
        UserError: there are no classes, a class without images, or one that only val/ has; or
            the folders can be read in two ways.
    """
    source = source_folder(source)
    layout = layouts.find_layout(source, splits)
    if layout.train is None:
        listing = _split(layout.root, validation_share, source)
    else:
        listing = list_train_and_validation(layout.root, layout.train, layout.validation)
        listing.source = source
        listing.note_loose(layout.root, source)
    listing.note_inner_folders()
    listing.notes += layout.notes
    listing.aside += [f"{name}/" for name in layout.aside]
    return listing


def list_train_and_validation(root: Path, train: str, validation: str) -> Listing:
    """The Listing of two folders of class folders; classes are those of the first."""
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
        listing.notes.append(unscored(lacking, validation))
    for split, classes in (("train", of_train), ("validation", of_validation)):
        for label, wnid in enumerate(listing.wnids):
            if wnid in classes:
                listing.splits[split] += listing.take_class(classes[wnid], label)
    return listing


def unscored(wnids: list[str], validation: str) -> str:
    """A note about classes without validation images."""
    which = layouts.listed(wnids)
    return f"{validation} has no images of {which}, about which the scores will say nothing"


def _remedy_for_unknown(wnid: str, known: Iterable[str]) -> str:
    alike = [other for other in known if other.casefold() == wnid.casefold()]
    if alike:
        return f"{alike[0]} is there, so spell the two alike"
    return "a model cannot learn it, so move it away or add images to train on"


def _classes_of_split(listing: Listing, name: str, known: Container[str]) -> dict[str, Path]:
    """{class id: its folder} of a split, whose folder may hold one of the same name."""
    outer = listing.root / name
    folder = layouts.enter_lone_folders(outer, lambda lone: class_id(lone) in known)
    listing.note_loose(folder, outer)
    return class_folders(folder)


def _split(root: Path, share: float, source: Path) -> Listing:
    classes = class_folders(root)
    kept = f"about {100 * share:g} % of each class are kept aside for validation"
    listing = Listing(root, list(classes), notes=[f"nothing is split, so {kept}"], source=source)
    listing.note_loose(root, source)
    for label, folder in enumerate(classes.values()):
        images = listing.take_class(folder, label)
        if len(images) < 2:
            raise UserError(f"{folder} holds one image: to be split, a class needs at least two")
        by_name = sorted(images, key=lambda image: _rank(image.name))
        low = sum(_rank(image.name) < share for image in by_name)
        kept_aside = min(max(1, low), len(images) - 1)
        aside = {image.name for image in by_name[:kept_aside]}
        for image in images:
            listing.splits["validation" if image.name in aside else "train"].append(image)
    return listing


def _rank(name):
    """A number in 0..1 that is drawn by the name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64


# ----------------------------------------------------------------------------------- ImageNet-21K


def list_imagenet_21k(source, class_list=None):
    """The published selections of ImageNet-21K (Alibaba-MIIL/ImageNet21K, arXiv:2104.10972).

    Args:
        source: a folder of class folders.
        class_list: a file with one class id per line, whose classes are taken as they are; None
            takes those with more than 500 images.

    Returns:
        Listing: the first 50 images of each class are its validation.

    Raises:
        UserError: a listed class is missing, listed twice or too small, or none is large enough.
    """
    source = source_folder(source)
    root = layouts.enter_lone_folders(source, layouts.split_of)
    _refuse_splits_of_imagenet_21k(root)
    there = class_folders(root)
    wnids = list(there) if class_list is None else sorted(read_class_list(class_list))
    missing = sorted(set(wnids) - set(there))
    if missing:
        raise UserError(f"{class_list} names the class {missing[0]}, which is no folder in {root}")
    listing = Listing(root, source=source)
    listing.note_loose(root, source)
    for wnid in wnids:
        found = find_below(there[wnid]) if _has_files(there[wnid]) else Found()
        least = IMAGENET_21K_VALIDATION if class_list else IMAGENET_21K_MORE_THAN
        if len(found.images) > least:
            images = listing.take(found, len(listing.wnids))
            listing.wnids.append(wnid)
            listing.splits["validation"] += images[:IMAGENET_21K_VALIDATION]
            listing.splits["train"] += images[IMAGENET_21K_VALIDATION:]
        elif class_list:
            raise UserError(
                f"{there[wnid]} holds {len(found.images)} images; more than {least} are needed"
            )
    if not listing.wnids:
        raise UserError(
            f"no class of {root} has more than {IMAGENET_21K_MORE_THAN} images; "
            "ImageNet-21K's selection keeps only those, or those of a list: --class-list FILE"
        )
    return listing


def _refuse_splits_of_imagenet_21k(root: Path) -> None:
    """Its selection splits the classes itself; what is split already is another set of images."""
    named = layouts.named_splits(list_folder(root)[0])
    if layouts.TRAIN in named.values():
        raise UserError(
            f"{root} has the folders {' and '.join(named)}, which are named like splits; "
            "imagenet21k takes one folder of class folders, image_folder/NAME takes splits of them"
        )


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
    wnids = [unicodedata.normalize("NFC", word) for word in text.split()]
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


def class_id(name: str) -> str:
    """The id of a class by its folder's name: the same in every locale and on every system.

    macOS writes accents as characters of their own (NFD) where others compose them (NFC).
    """
    return unicodedata.normalize("NFC", portable(name))


def class_folders(folder: Path) -> dict[str, Path]:
    """{class id: its folder} of the folders in one, in sorted order of the ids.

    Raises:
        UserError: there is none, or two have the same id.
    """
    names, files = list_folder(folder)
    if not names:
        loose = sort_files(files).images
        raise UserError(
            f"{folder} holds images such as {loose[0].name}, but no class folders with images"
            if loose
            else f"{folder} holds no class folders; <class>/<image> is needed"
        )
    found = {}
    for name in names:
        other = found.setdefault(class_id(name), name)
        if other != name:
            raise UserError(
                f"{folder} has two folders of the class {class_id(name)}, in two Unicode forms of "
                f"its name ({other!a} and {name!a}): move the images into one of them"
            )
    return {wnid: folder / found[wnid] for wnid in sorted(found)}
