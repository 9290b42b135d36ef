"""Finds image files below folders, and says what is wrong with other files.

The content of a file decides whether it is an image, not its suffix. There are three kinds of other
files: system files, which systems and programs leave in folders, are passed over in silence;
ignored files, such as annotations, are reported; and faulty files are refused, or skipped and
listed. `data.images` decodes images.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from keras_imnet64.core.errors import UserError, first_few, printable
from keras_imnet64.core.paths import expand, os_error_text
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.images.reading import (
    Unreadable,
    open_image,
    readable_formats,
    readable_suffixes,
    report_image_errors,
    report_unreadable,
)
from keras_imnet64.data.stores.base import PACKED
from keras_imnet64.data.stores.opening import is_store

SYSTEM_FILES = {  # in lower case
    ".ds_store", ".apdisk", ".localized", "icon\r",  # macOS
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",  # Windows
    ".directory", ".nomedia", ".picasa.ini", "picasa.ini",  # programs that show images
    ".gitkeep", ".keep", ".gitignore", ".gitattributes",
}  # fmt: skip
SYSTEM_FOLDERS = {  # in lower case
    "@eadir", "#recycle", "#snapshot", ".@__thumb", "lost+found",  # file servers
    "__macosx", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd",  # macOS
    "$recycle.bin", "system volume information",  # Windows
    ".ipynb_checkpoints", "__pycache__", ".git", ".cache", ".thumbnails",  # programs
}  # fmt: skip
SPLITS_OF_STORES = ("train", "validation")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has lost the second slash
SYSTEM_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".trash")  # AppleDouble, deleted files
TEXT_SUFFIXES = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".sh", ".py",
}  # fmt: skip
# Formats of Pillow that the first bytes of a file identify.
DETECTABLE_FORMATS = {"JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"}

FaultyFile = tuple[Path, str]  # a file, what is wrong with it
Faulty = tuple[str, str]  # the name of a file below its source, what is wrong with it


@dataclass
class FoundFiles:
    """Files by kind.

    Attributes:
        images: files with the suffix or the content of an image; not yet decoded.
        ignored: hidden files and text files, which are obviously not images.
        faulty: (file, what is wrong with it) of all other files, such as broken links.
    """

    images: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    faulty: list[FaultyFile] = field(default_factory=list)


@dataclass
class SourceFiles:
    """The files of a source, looked through once for all forms.

    Attributes:
        path: the file or folder.
        names: names of the files in it that have no suffix of an image, without their folders;
            of a file its own.
        suffixes: how many of these have each suffix, in lower case.
        num_images: how many files have the suffix of an image.
        image_folders: up to two of the folders that these are in; two may be classes.
    """

    path: Path
    names: set[str] = field(default_factory=set)
    suffixes: Counter[str] = field(default_factory=Counter)
    num_images: int = 0
    image_folders: set[PurePath] = field(default_factory=set)

    @classmethod
    def of(cls, path: Path) -> "SourceFiles":
        """Looks through a source; what cannot be read is left to the one who reads it."""
        found = cls(path)
        with contextlib.suppress(OSError):
            for file in [path] if path.is_file() else files_below(path):
                found.add(file)
        return found

    def add(self, file: PurePath) -> None:
        suffix = file.suffix.lower()
        if suffix in readable_suffixes():  # of which there may be millions
            self.num_images += 1
            if len(self.image_folders) < 2:
                self.image_folders.add(file.parent)
        else:
            self.suffixes[suffix] += 1
            self.names.add(file.name)

    def mostly(self, suffix: str) -> bool:
        """Returns whether there are files with this suffix, and not more image files."""
        return self.suffixes[suffix] > 0 and self.suffixes[suffix] >= self.num_images


def find_images(
    paths: StrPath | Iterable[StrPath],
    skipped: list[FaultyFile] | None = None,
    remedy: str = "convert or move such files",
) -> list[Path]:
    """Returns the files among `paths`, and the images in the folders among them.

    Folders are searched recursively, and links are followed.

    Args:
        paths: one path or several.
        skipped: receives (file, what is wrong with it) of each faulty file in a folder; None
            refuses such files.
        remedy: what to do about them, for the message.

    Returns:
        The files in the order of `paths`; images of a folder are sorted.

    Raises:
        UserError: a path does not exist or cannot be listed, a folder holds no image, or something
            is no path.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not paths:
        raise UserError("no images are given; pass image files or folders of images")
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            kind = type(path).__name__
            raise UserError(f"images are given as paths of files or folders; received a {kind}")
    return [file for path in paths for file in _images_at(expand(path), skipped, remedy)]


def _images_at(path: Path, skipped: list[FaultyFile] | None, remedy: str) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            missing = "is neither a file nor a folder of images"
            if not path.exists():
                missing = "does not exist; an image or a folder is needed"
                if ADDRESS.match(str(path)):
                    missing = "is an address; download the image first, and pass its file"
            raise UserError(f"{path} {missing}")
    except OSError as error:
        raise _cannot_be_searched(path, error) from error
    found = find_below(path)
    if found.faulty and skipped is None:
        faulty = [(str(file.relative_to(path)), fault) for file, fault in found.faulty]
        raise UserError(f"{describe_faulty(faulty, len(found.images), path)}; {remedy}")
    if skipped is not None:
        skipped.extend(found.faulty)
    return found.images


def _cannot_be_searched(path: Path, error: OSError) -> UserError:
    """Returns the error for a folder that cannot be listed: `path`, or one below it."""
    folder = error.filename or path
    return UserError(f"{folder} cannot be searched: {os_error_text(error, folder)}")


def find_below(folder: Path, needed: str = "files such as .png and .jpg are needed") -> FoundFiles:
    """Sorts all files below a folder by kind; each list is in sorted order.

    Args:
        needed: the remedy for a folder without images, for the message.

    Raises:
        UserError: a folder cannot be listed, or there is no image.
    """
    found = sort_below(folder)
    if not found.images:
        example = f"; {found.faulty[0][0]} {found.faulty[0][1]}" if found.faulty else ""
        raise UserError(f"the folder {folder} holds no image; {needed}{example}")
    return found


def sort_below(folder: Path) -> FoundFiles:
    """Sorts all files below a folder by kind; each list is in sorted order and may be empty.

    Raises:
        UserError: a folder cannot be listed.
    """
    try:
        return sort_files(sorted(files_below(folder)))
    except OSError as error:
        raise _cannot_be_searched(folder, error) from error


def files_below(folder: Path) -> Iterator[Path]:
    """Yields the paths of all files below `folder`, without system files and prepared data sets.

    Hidden folders are not entered; they are yielded like files. Each real folder is entered once,
    and the parents of `folder` never, so that links cannot form a loop.

    Raises:
        OSError: a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    entered = set(map(str, Path(os.path.realpath(folder)).parents))
    for where, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(where)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        names_of_folders = sorted(n for n in folders if not _is_passed_over(Path(where), n))
        folders[:] = [name for name in names_of_folders if not name.startswith(".")]
        hidden = [name for name in names_of_folders if name.startswith(".")]
        yield from (Path(where, n) for n in [*hidden, *names] if not is_system_file(n))


def list_folder(folder: Path) -> tuple[list[str], list[Path]]:
    """Returns what lies directly in a folder, without system files, and prepared data sets.

    Returns:
        (names of the folders, paths of the files), both sorted. Hidden folders count as files.

    Raises:
        UserError: the folder cannot be listed.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {os_error_text(error, folder)}") from None
    folders: list[str] = []
    files: list[Path] = []
    for entry in entries:
        # Links are followed; a link to itself counts as a file.
        is_folder = entry.is_dir(follow_symlinks=False) or os.path.isdir(entry)
        if is_folder and (_is_passed_over(folder, entry.name) or _is_data_dir(Path(entry))):
            continue
        if is_folder and not entry.name.startswith("."):
            folders.append(entry.name)
        elif not is_system_file(entry.name):
            files.append(Path(folder, entry.name))
    return folders, files


# ----------------------------------------------------------------------------------- kinds of files


def sort_files(files: Iterable[Path]) -> FoundFiles:
    """Sorts files by kind; reads the first bytes of files without an image's suffix."""
    found = FoundFiles()
    for file in files:
        if file.name.startswith("."):
            found.ignored.append(file)
            continue
        fault = _fault_of(file)
        if fault is None:
            found.images.append(file)
        elif is_text(file):
            found.ignored.append(file)
        else:
            found.faulty.append((file, fault))
    return found


def is_image(file: Path) -> bool:
    """Returns whether `sort_files` counts a file as an image."""
    return bool(sort_files([file]).images)


def is_system_file(name: str) -> bool:
    """Returns whether systems or programs leave files of this name in folders, as Thumbs.db."""
    name = name.lower()
    return name in SYSTEM_FILES or name.startswith(SYSTEM_PREFIXES)


def is_system_folder(name: str) -> bool:
    """Returns whether systems or programs make folders of this name, such as @eaDir."""
    name = name.lower()
    return name in SYSTEM_FOLDERS or name.startswith(SYSTEM_PREFIXES)


def _is_passed_over(parent: Path, name: str) -> bool:
    return is_system_folder(name) or (name == PACKED and _holds_stores(parent / name))


def _is_data_dir(folder: Path) -> bool:
    """Returns whether a folder in a source has nothing but prepared data sets and hidden files.

    Before the first data set is prepared there, it has the hidden lock of the one that is.
    """
    is_data_dir = False
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:  # of a class folder, the first one is usually enough
            if not entry.name.startswith("."):
                if entry.name != PACKED or not _holds_stores(Path(entry)):
                    return False
                is_data_dir = True
            elif entry.name.endswith(".lock"):
                is_data_dir = True
    return is_data_dir


def _holds_stores(folder: Path) -> bool:
    """Returns whether a folder, of a source that is also the data dir, has prepared data sets.

    Until the first one is complete, the folder has hidden work folders only.
    """
    try:
        folders = [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError:  # to be reported by the one who enters the folder
        return False
    sets = [entry for entry in folders if not entry.name.startswith(".")]
    is_new = bool(folders) and not sets
    return is_new or any(is_store(each / split) for each in sets for split in SPLITS_OF_STORES)


def is_text(file: str | Path) -> bool:
    """Returns whether a file has the suffix of a text file."""
    return PurePath(file).suffix.lower() in TEXT_SUFFIXES


def _fault_of(file: Path) -> str | None:
    """Returns why a file is not an image, as a clause; None for an image.

    A file without read permission counts as an image; reading it later fails with the reason.
    """
    try:
        with report_unreadable(file):
            if not file.is_file():
                return "is not a file" if file.exists() else "is a broken link"
        if file.suffix.lower() in readable_suffixes():
            return None  # decoding it later shows whether it is damaged
        with (
            report_image_errors(file),
            open(file, "rb") as content,
            open_image(content, file, _detectable()),
        ):
            return None
    except Unreadable:
        return None
    except UserError as error:
        return str(error).removeprefix(f"{printable(file)} ")


def _detectable() -> tuple[str, ...]:
    """Returns the formats among DETECTABLE_FORMATS that this build of Pillow reads."""
    return tuple(DETECTABLE_FORMATS.intersection(readable_formats()))


def describe_faulty(faulty: Sequence[Faulty], num_images: int, folder: StrPath) -> str:
    """Returns how many files of a folder cannot be used, and why the first few cannot, as a clause.

    Args:
        faulty: (name below the folder, what is wrong with it), at least one.
        num_images: number of files that are images.
    """
    total = len(faulty) + num_images
    count = f"{len(faulty):,} of {total:,} files below {folder} cannot be used"
    return f"{count}: {first_few([f'{name} {fault}' for name, fault in faulty])}"
