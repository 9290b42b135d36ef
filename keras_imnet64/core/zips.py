"""Reads zip archives and npz files from untrusted sources: sizes are checked before decompression.

Every fault raises a `zipfile.BadZipFile`, to whose message the caller adds the file name.
"""

import contextlib
import math
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from keras_imnet64.core.types import StrPath

MAX_TEXT_BYTES = 48 * 2**20  # a joined model of 256 ResNet-50 has a smaller config
BOMB_BYTES, BOMB_RATIO = 64 * 2**20, 200  # real data exceeds at most one: images hardly compress
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, LookupError, zlib.error, struct.error)


def open_zip(file: StrPath | IO[bytes]) -> zipfile.ZipFile:
    """Opens a zip archive whose members are all safe to read.

    Args:
        file: a path, or a seekable binary file.

    Raises:
        zipfile.BadZipFile: the file is no zip archive, two members have the same name, or a member
            has an absolute path or one with "..", is encrypted, uses a method other than deflate,
            or is a decompression bomb, alone or together with others.
    """
    with _as_bad_zip():
        if isinstance(file, str | Path) and not stat.S_ISREG(os.stat(file).st_mode):
            raise zipfile.BadZipFile("it is not a regular file")
        archive = zipfile.ZipFile(file)
    try:
        _check_members(archive)
    except zipfile.BadZipFile:
        archive.close()
        raise
    return archive


def read_member(archive: zipfile.ZipFile, name: str, max_bytes: int | None = None) -> bytes:
    """Returns the content of one member, which may have at most `max_bytes` bytes."""
    with _as_bad_zip():
        size = archive.getinfo(name).file_size
        if max_bytes is not None and size > max_bytes:
            raise zipfile.BadZipFile(f"{name} has {size:,} bytes, more than {max_bytes:,}")
        return archive.read(name)


def read_npz(file: StrPath | IO[bytes], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns {name: array} of an npz file; sizes are checked before memory is allocated.

    Raises:
        zipfile.BadZipFile: see `open_zip`; or an array is missing, holds Python objects (which
            could run code), or its header states another size than the array has.
    """
    with open_zip(file) as archive:
        return {name: _read_array(archive, f"{name}.npy") for name in names}


def _check_members(archive: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    assert archive.fp is not None
    archive.fp.seek(0, 2)
    archive_bytes = archive.fp.tell()
    repeated = [name for name, times in Counter(i.filename for i in infos).items() if times > 1]
    if repeated:
        raise zipfile.BadZipFile(f'it has two members of the name "{repeated[0]}"')
    for info in infos:
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise zipfile.BadZipFile(f'it has a member that points outside it: "{name}"')
        if info.flag_bits & ENCRYPTED:
            raise zipfile.BadZipFile(f"{name} is encrypted")
        if info.compress_type not in METHODS:
            raise zipfile.BadZipFile(f"{name} is packed by a method other than deflate")
    _check_growth(infos, archive_bytes)


def _check_growth(infos: list[zipfile.ZipInfo], archive_bytes: int) -> None:
    """Refuses members that grow to more than BOMB_BYTES, alone or together."""
    growing = [i for i in infos if i.file_size > BOMB_RATIO * min(i.compress_size, archive_bytes)]
    if sum(info.file_size for info in infos) > BOMB_RATIO * archive_bytes:
        growing = infos  # the same bytes may be listed as many members
    size = sum(info.file_size for info in growing)
    if size > BOMB_BYTES:
        packed = min(sum(info.compress_size for info in growing), archive_bytes)
        name = max(growing, key=lambda info: info.file_size).filename
        members = name if len(growing) == 1 else f"{name} with {len(growing) - 1:,} other members"
        raise zipfile.BadZipFile(f"{members} would grow from {packed:,} to {size:,} bytes")


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if name not in archive.NameToInfo:
        raise zipfile.BadZipFile(f"{name} is missing")
    with _as_bad_zip():
        with archive.open(name) as member:
            stated = _stated_bytes(member, name)
        if archive.getinfo(name).file_size != stated:
            raise zipfile.BadZipFile(f"{name} has another size than its header states")
        with archive.open(name) as member:
            return np.lib.format.read_array(member, allow_pickle=False)


def _stated_bytes(member: IO[bytes], name: str) -> int:
    """Returns how many bytes an npy file must have according to its header."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise zipfile.BadZipFile(f"{name} is not of npy version 1.0")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    except Exception as error:  # NumPy parses the header as Python: many errors are possible
        raise zipfile.BadZipFile(f"the header of {name} cannot be read ({error})") from None
    if dtype.hasobject:
        raise zipfile.BadZipFile(f"{name} holds Python objects, which are not read")
    if min(shape, default=0) < 0:
        raise zipfile.BadZipFile(f"{name} has the shape {shape}")
    return member.tell() + math.prod(shape) * dtype.itemsize


@contextlib.contextmanager
def _as_bad_zip() -> Iterator[None]:
    """Raises BadZipFile for any error that a damaged archive raises."""
    try:
        yield
    except DAMAGED as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error
