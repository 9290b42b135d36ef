"""Removes data that are no longer needed: copies of packed images, downloads, abandoned folders.

Abandoned are work folders of dead processes, and files of remote sources whose command has ended
before they were in the store.

Packed stores, sources and the work folders of running processes are never removed.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.core.validation import read_record, to_json
from keras_imnet64.core.work_folders import abandoned
from keras_imnet64.data import datasets
from keras_imnet64.data.locations import DatasetLocation
from keras_imnet64.data.stores import packing

BUILD_SECONDS = 3600  # TFDS may still build in a folder if it has written there this recently


@dataclass(frozen=True)
class _Removable:
    """A file or folder that can be removed.

    Attributes:
        what: its description for the user.
        bytes: its size on disk.
    """

    what: str
    path: Path
    bytes: int


@dataclass(frozen=True)
class _DownloadNote:
    """TFDS' note on a download, in a file of the same name with the suffix .INFO."""

    dataset_names: list[str]
    original_fname: str


def clean(
    name: str | None = None,
    *,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    dry_run: bool = False,
) -> JsonObject:
    """Removes the data of one data set, or of all, that are no longer needed.

    If both splits are packed, TFDS' copy of them and the archives that TFDS downloaded for it are
    removed. Work folders are removed if the process on this machine that made them has died.

    Args:
        name: a data set; None means all.
        data_dir, cache_dir: as for `datasets.prepare`.
        dry_run: only report what would be removed.

    Returns:
        dict, fit for JSON: removed (list of {what, path, bytes}), bytes (of all), dry_run.

    Raises:
        UserError: there is no such data set, or a process is packing it.
        RunFailed: something cannot be removed.
    """
    rows = [datasets.find_dataset(name)] if name else datasets.all_rows(data_dir, cache_dir)
    locations = [
        location for row in rows for location in datasets.locations_of(row, data_dir, cache_dir)
    ]
    for location in locations:
        location.refuse_if_being_packed()
    removable = [item for location in locations for item in _find_removable(location)]
    if not dry_run:
        for item in removable:
            _remove(item.path)
    return {
        "removed": [to_json(item) for item in removable],
        "bytes": sum(item.bytes for item in removable),
        "dry_run": dry_run,
    }


def _find_removable(location: DatasetLocation) -> Iterator[_Removable]:
    name = location.dataset.name
    for path in (location.packed_dir, *map(location.folder, location.dataset.splits)):
        for folder in abandoned(path, packing.WORD):
            yield _removable(f"{name}, begun by a process that died", folder)
    if location.fetch_dir.is_dir():  # `clean` has refused if a process is using it
        yield _removable(f"{name}, fetched by a command that did not end", location.fetch_dir)
    if location.tfds_dir is None or not _is_packed(location) or _may_be_building(location.tfds_dir):
        return
    if location.tfds_dir.is_dir():
        yield _removable(f"{name}, TFDS' copy of what is packed", location.tfds_dir)
    if location.verified:
        for file in _downloads(location):
            yield _removable(f"{name}, downloaded by TFDS for what is packed", file)


def _removable(what: str, path: Path) -> _Removable:
    files = [path] if path.is_file() else path.rglob("*")
    return _Removable(what, path, sum(file.lstat().st_size for file in files if file.is_file()))


def _is_packed(location: DatasetLocation) -> bool:
    """Returns whether both splits are packed and can be opened."""
    try:
        return location.is_packed() and bool(location.open())
    except UserError:
        return False


def _may_be_building(folder: Path) -> bool:
    """Returns whether TFDS may be writing there; its unfinished folders do not name a process."""
    files = (file for part in folder.glob("*incomplete*") for file in (part, *part.rglob("*")))
    newest = max((file.lstat().st_mtime for file in files), default=0)
    return newest > time.time() - BUILD_SECONDS


def _downloads(location: DatasetLocation) -> Iterator[Path]:
    """Yields the archives that TFDS downloaded for this image size, each with the note on it."""
    prefix = f"Imagenet{location.dataset.image_size}_"
    for file in sorted((location.data_dir / "downloads").glob("*.INFO")):
        try:
            note = read_record(_DownloadNote, file)
        except (OSError, ValueError):  # not a note of TFDS
            continue
        if note.dataset_names == [location.builder_name] and note.original_fname.startswith(prefix):
            yield from (path for path in (file.with_suffix(""), file) if path.is_file())


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise RunFailed(
            f"{path} cannot be removed ({os_error_text(error, path.parent)}); fix that and run "
            "the same command again"
        ) from error
