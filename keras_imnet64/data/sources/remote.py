"""Fetches the files of a remote source, such as s3://bucket/folder, with fsspec.

The files are kept beside the store until they are in it. If the command ends before that, the same
command goes on after the last byte that had arrived.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.files import write_json
from keras_imnet64.core.paths import os_error_text, without_secrets
from keras_imnet64.core.types import PackProgress
from keras_imnet64.core.validation import read_record, to_json
from keras_imnet64.core.work_folders import report_failed_write
from keras_imnet64.data.sources.class_lists import CLASS_LISTS
from keras_imnet64.data.sources.finding import SourceFiles, is_system_file, is_system_folder
from keras_imnet64.data.sources.shards import SHARD_SUFFIXES, has_suffix, holds_shards
from keras_imnet64.data.stores import packing

if TYPE_CHECKING:
    import fsspec

NOTE = ".fetched.json"
PART = ".part"  # the suffix of a file that is not complete
BLOCK_BYTES = 8 * 2**20
# What file systems call the state of a file; the first that is there tells whether it has changed.
VERSIONS = (
    "etag", "ETag", "md5Hash", "blob_id",
    "mtime", "LastModified", "last_modified", "modify", "updated", "created",
)  # fmt: skip


@dataclass(frozen=True)
class _RemoteFile:
    """A file of the source: its size, and what tells whether it has changed, or ""."""

    size: int
    version: str


@dataclass(frozen=True)
class _Note:
    """What is being fetched, as a file beside it records it: the address, and files by name."""

    url: str
    files: dict[str, _RemoteFile] = field(default_factory=dict)


@contextlib.contextmanager
def local_copy(url: str, folder: Path, progress: PackProgress | None = None) -> Iterator[Path]:
    """Fetches a source into `folder`, and yields the path of its copy.

    The copy is deleted at the end of the block, unless the block fails.

    Raises:
        UserError: the address is wrong, its package is not installed, or access is refused.
        RunFailed: the connection broke, or the disk is full; the same command goes on.
    """
    system, root = _open_system(url)
    url = without_secrets(url)  # for messages, and the note
    files = _list(system, root, url)
    remaining = _prepare(folder, url, files)
    packing.require_space(folder, remaining, f"fetching {url}")
    total, done = sum(file.size for file in files.values()), 0
    for name, file in files.items():

        def report(arrived: int, done: int = done) -> None:
            if progress and total:
                progress(f"fetching {url}", done + arrived, total)

        _fetch(system, _join(root, name, files), folder / name, file, url, report)
        done += file.size
    yield folder / next(iter(files)) if len(files) == 1 else folder
    shutil.rmtree(folder, ignore_errors=True)


def _open_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(url)
    except Exception as error:  # file systems raise any exception
        fault = "cannot be opened"
        if isinstance(error, ImportError):
            fault = "needs a package that is not installed"
        raise UserError(f"{without_secrets(url)} {fault}: {_reason(error)}") from None
    return system, str(root).rstrip("/")


def _reason(error: Exception) -> str:
    """Returns the message of a file system, which may quote the whole address."""
    return reason(without_secrets(str(error)) or error)


def _list(system: fsspec.AbstractFileSystem, root: str, url: str) -> dict[str, _RemoteFile]:
    """Returns {name below root: file} of the files to fetch, sorted by name.

    Raises:
        UserError: the source cannot be listed, has no files, or a name points outside.
    """
    try:
        found: Mapping[str, Mapping[str, Any]]  # facts of any type
        found = system.find(root, detail=True)
    except Exception as error:  # as above
        raise UserError(f"{url} cannot be listed: {_reason(error)}") from None
    files: dict[str, _RemoteFile] = {}
    for path, info in sorted(found.items()):
        name = path.removeprefix(root).strip("/") or PurePosixPath(path).name
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or "\0" in name:
            raise UserError(f"{url} has a file whose name points outside it: {name}")
        if not _is_hidden(parts):
            version = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
            files[name] = _RemoteFile(int(info.get("size") or 0), version)
    files = _needed(files)
    if not files:
        raise UserError(f"{url} has no files: check the address")
    return files


def _is_hidden(parts: tuple[str, ...]) -> bool:
    *folders, file = parts
    hidden = any(part.startswith(".") for part in parts)
    return hidden or is_system_file(file) or any(map(is_system_folder, folders))


def _needed(files: dict[str, _RemoteFile]) -> dict[str, _RemoteFile]:
    """Returns the shards and class lists of a source of shards, as a local one is; else all."""
    source = SourceFiles(Path())
    for name in files:
        source.add(PurePosixPath(name))
    for suffix in SHARD_SUFFIXES:  # beside which other files are not fetched
        if holds_shards(source, suffix):
            return {
                name: file
                for name, file in files.items()
                if has_suffix(name, suffix) or PurePosixPath(name).name in CLASS_LISTS
            }
    return files


def _join(root: str, name: str, files: Mapping[str, _RemoteFile]) -> str:
    """Returns the path of a file; `root` is the file itself if its name is all that is there."""
    is_file = len(files) == 1 and PurePosixPath(root).name == name
    return root if is_file else f"{root}/{name}"


def _prepare(folder: Path, url: str, files: dict[str, _RemoteFile]) -> int:
    """Makes the folder, and removes from it what is not, or no longer, of this source.

    Returns:
        The bytes that are still to be fetched.
    """
    note = _Note(url, files)
    try:
        before = read_record(_Note, folder / NOTE)
    except (OSError, ValueError):
        before = _Note("")
    with report_failed_write(f"fetching {url}", folder):
        if before.url != url:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in before.files.items() if before.url == url else ():
            has_changed = file != files.get(name)
            if has_changed:
                (folder / name).unlink(missing_ok=True)
            if has_changed or not file.version:  # whose rest may be of another version
                _part_of(folder / name).unlink(missing_ok=True)
        write_json(folder / NOTE, to_json(note))
    return sum(file.size - _bytes_of(folder / name) for name, file in files.items())


def _part_of(file: Path) -> Path:
    return file.with_name(f".{file.name}{PART}")


def _bytes_of(file: Path) -> int:
    """Returns how many bytes of a file have arrived."""
    arrived = next((each for each in (file, _part_of(file)) if each.is_file()), None)
    return arrived.stat().st_size if arrived else 0


def _fetch(
    system: fsspec.AbstractFileSystem,
    path: str,
    target: Path,
    file: _RemoteFile,
    url: str,
    report: Callable[[int], None],
) -> None:
    """Fetches the rest of one file; it gets its name when it is complete."""
    if target.is_file():
        report(file.size)
        return
    part = _part_of(target)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as local, system.open(path, "rb") as source:
            source.seek(local.tell())
            while block := source.read(BLOCK_BYTES):
                local.write(block)
                local.flush()
                report(local.tell())
            arrived = local.tell()
        if arrived == file.size:
            os.replace(part, target)
            return
        part.unlink()
        fault = f"{arrived:,} bytes arrived where {file.size:,} were announced"
    except Exception as error:  # file systems raise any exception
        is_local = isinstance(error, OSError) and error.strerror
        fault = os_error_text(error, target) if is_local else _reason(error)
    raise RunFailed(
        f"{without_secrets(path)} of {url} could not be fetched ({fault}); run the same "
        "command again, which goes on where this one ended"
    )
