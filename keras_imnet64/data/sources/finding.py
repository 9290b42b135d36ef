"""Finds image files below folders, and says what every other file there is.

The content of a file decides whether it is an image, not its suffix. Three kinds of files are no
images: companions, which systems and programs leave in folders and which nobody misses; files
that are left aside with a word, such as annotations; and faulty ones, which are refused or listed.
Decoding is the task of `images`.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from keras_imnet64.core.errors import UserError, first_few, printable
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.data.images.reading import (
    Unreadable,
    open_image,
    readable_formats,
    readable_suffixes,
    report_image_errors,
    report_unreadable,
)

COMPANION_FILES = {  # in lower case
    ".ds_store", ".apdisk", ".localized", "icon\r",  # macOS
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",  # Windows
    ".directory", ".nomedia", ".picasa.ini", "picasa.ini",  # programs that show images
    ".gitkeep", ".keep", ".gitignore", ".gitattributes",
}  # fmt: skip
COMPANION_FOLDERS = {  # in lower case
    "@eadir", "#recycle", "#snapshot", ".@__thumb", "lost+found",  # file servers
    "__macosx", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd",  # macOS
    "$recycle.bin", "system volume information",  # Windows
    ".ipynb_checkpoints", "__pycache__", ".git", ".cache", ".thumbnails",  # programs
}  # fmt: skip
COMPANION_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".trash")  # AppleDouble, deleted files
TEXT_SUFFIXES = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".sh", ".py",
}  # fmt: skip
SURE_FORMATS = {"JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"}  # by their bytes
Faulty = tuple[Path | str, str]  # a file, what is wrong with it


@dataclass
class Found:
    """Files, sorted by what they are.

    Attributes:
        images: files whose suffix or content is an image's; not yet decoded.
        aside: hidden files and texts, which nobody takes for images.
        faulty: (file, what is wrong with it) of the others, such as broken links.
    """

    images: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    faulty: list[Faulty] = field(default_factory=list)


def find_images(
    paths: str | os.PathLike | Iterable, skipped: list[Faulty] | None = None
) -> list[Path]:
    """The files that are named, and the images in the folders that are named.

    Folders are searched recursively, through links too.

    Args:
        paths: one path or several.
        skipped: a list that receives (file, what is wrong with it) of files in folders that are no
            images; None refuses them.

    Returns:
        list of Path: in the order of `paths`, each folder's in sorted order.

    Raises:
        UserError: a path does not exist, cannot be listed, or a folder holds no image.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not paths:
        raise UserError("no images were named; name image files or folders of them")
    return [file for path in paths for file in _images_at(Path(path), skipped)]


def _images_at(path: Path, skipped: list[Faulty] | None) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            missing = "is neither a file nor a folder of images"
            if not path.exists():
                missing = "does not exist; an image or a folder is needed"
            raise UserError(f"{path} {missing}")
    except OSError as error:
        raise _cannot_be_searched(path, error) from error
    found = find_below(path)
    if found.faulty and skipped is None:
        faulty = [(file.relative_to(path), fault) for file, fault in found.faulty]
        raise UserError(
            f"{describe_faulty(faulty, len(found.images), path)}; convert or move such files "
            "(`predict` leaves them out with --skip-corrupt)"
        )
    if skipped is not None:
        skipped.extend(found.faulty)
    return found.images


def _cannot_be_searched(path: Path, error: OSError) -> UserError:
    """The sentence about a folder below `path`, or `path` itself, that cannot be listed."""
    folder = error.filename or path
    return UserError(f"{folder} cannot be searched: {os_error_text(error, folder)}")


def find_below(folder: Path, needed: str = "files such as .png and .jpg are needed") -> Found:
    """The `Found` of all files below a folder, each list in sorted order.

    Args:
        needed: what to say of a folder without images.

    Raises:
        UserError: a folder cannot be listed, or there is no image.
    """
    try:
        found = sort_files(sorted(files_below(folder)))
    except OSError as error:
        raise _cannot_be_searched(folder, error) from error
    if not found.images:
        such = f"; {found.faulty[0][0]} {found.faulty[0][1]}" if found.faulty else ""
        raise UserError(f"the folder {folder} holds no image; {needed}{such}")
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Paths of all that is no folder and no companion below `folder`.

    Hidden folders are not entered, but named like files. Each real folder is entered once, and none
    that `folder` lies in, where a link may lead round.

    Raises:
        OSError: a folder cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise error

    seen = set(map(str, Path(os.path.realpath(folder)).parents))
    for where, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        inner = sorted(name for name in folders if not is_companion_folder(name))
        folders[:] = [name for name in inner if not name.startswith(".")]
        hidden = [name for name in inner if name.startswith(".")]
        yield from (Path(where, n) for n in [*hidden, *names] if not is_companion(n))


def list_folder(folder: Path) -> tuple[list[str], list[Path]]:
    """(names of the folders, paths of the files) directly in a folder, sorted, without companions.

    Hidden folders count as files.

    Raises:
        UserError: the folder cannot be listed.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {os_error_text(error, folder)}") from None
    folders, files = [], []
    for entry in entries:
        # Links are followed, without an error for those that go round.
        is_folder = entry.is_dir(follow_symlinks=False) or os.path.isdir(entry)
        if is_folder and is_companion_folder(entry.name):
            continue
        if is_folder and not entry.name.startswith("."):
            folders.append(entry.name)
        elif not is_companion(entry.name):
            files.append(Path(folder, entry.name))
    return folders, files


# ----------------------------------------------------------------------------- what each file is


def sort_files(files: Iterable[Path]) -> Found:
    """The `Found` of paths of files; those whose suffix is no image's are looked into."""
    found = Found()
    for file in files:
        if file.name.startswith("."):
            found.aside.append(file)
            continue
        fault = _fault_of(file)
        if fault is None:
            found.images.append(file)
        elif is_text(file):
            found.aside.append(file)
        else:
            found.faulty.append((file, fault))
    return found


def is_image(file: Path) -> bool:
    """Whether `sort_files` takes a file for an image."""
    return bool(sort_files([file]).images)


def is_companion(name: str) -> bool:
    """Whether a file of this name is what systems leave in folders, such as Thumbs.db."""
    name = name.lower()
    return name in COMPANION_FILES or name.startswith(COMPANION_PREFIXES)


def is_companion_folder(name: str) -> bool:
    """Whether a folder of this name is what systems leave among folders, such as @eaDir."""
    name = name.lower()
    return name in COMPANION_FOLDERS or name.startswith(COMPANION_PREFIXES)


def is_text(file: str | Path) -> bool:
    """Whether a file is text by its suffix, such as annotations or notes."""
    return PurePath(file).suffix.lower() in TEXT_SUFFIXES


def _fault_of(file: Path) -> str | None:
    """What keeps a file from being an image, in words; None for an image.

    A file that may not be read counts as an image, so that whoever reads it next says why not.
    """
    try:
        with report_unreadable(file):
            if not file.is_file():
                return "is not a file" if file.exists() else "is a broken link"
        if file.suffix.lower() in readable_suffixes():
            return None  # decoding it will show what is wrong with it
        with (
            report_image_errors(file),
            open(file, "rb") as content,
            open_image(content, file, _sure()),
        ):
            return None
    except Unreadable:
        return None
    except UserError as error:
        return str(error).removeprefix(f"{printable(file)} ")


def _sure() -> tuple[str, ...]:
    """Pillow's names of the formats that are told by their first bytes without a doubt."""
    return tuple(SURE_FORMATS.intersection(readable_formats()))


def describe_faulty(faulty: list[Faulty], num_images: int, folder: str | Path) -> str:
    """How many files of a folder cannot be used and what is wrong with the first, as a clause.

    Args:
        faulty: [(name below the folder, what is wrong with it)], at least one.
        num_images: how many files are images.
    """
    total = len(faulty) + num_images
    of = f"{len(faulty):,} of {total:,} files below {folder} cannot be used"
    return f"{of}: {first_few([f'{name} {fault}' for name, fault in faulty])}"
