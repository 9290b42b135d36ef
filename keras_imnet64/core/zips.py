"""Zip archives and npz files from anywhere: every size is judged before anything is inflated.

Whatever is wrong with one is a `zipfile.BadZipFile` that says so; who reads adds which file it was.
"""

import contextlib
import math
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

TEXT_BYTES = 48 * 2**20  # more than any list of names takes, or the config of 256 ResNet-50 joined
BOMB_BYTES, BOMB_RATIO = 64 * 2**20, 200  # both exceeded: not images, which hardly compress
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, LookupError, zlib.error, struct.error)


def open_zip(file):
    """A ZipFile whose members are all safe to read.

    Args:
        file: a path, or a seekable binary file.

    Raises:
        zipfile.BadZipFile: it is no zip, or it has a member of a doubled, absolute or climbing
            name, an encrypted one, one packed by a rare method, or members that would grow beyond
            measure, one by one or together.
    """
    with _as_bad_zip():
        if isinstance(file, str | Path) and not stat.S_ISREG(os.stat(file).st_mode):
            raise zipfile.BadZipFile("it is not a regular file")
        archive = zipfile.ZipFile(file)
    try:
        _judge(archive)
    except zipfile.BadZipFile:
        archive.close()
        raise
    return archive


def read_member(archive, name, most=None):
    """The bytes of one member, of which there may be at most `most`."""
    with _as_bad_zip():
        size = archive.getinfo(name).file_size
        if most is not None and size > most:
            raise zipfile.BadZipFile(f"{name} has {size:,} bytes, more than {most:,}")
        return archive.read(name)


def read_npz(file, names):
    """{name: array} of an npz, each held against its size before memory is taken for it.

    Raises:
        zipfile.BadZipFile: see `open_zip`; an array is missing, is of Python objects (which could
            run code), or is announced larger than it is.
    """
    with open_zip(file) as archive:
        return {name: _read_array(archive, f"{name}.npy") for name in names}


def _judge(archive):
    infos = archive.infolist()
    archive.fp.seek(0, 2)
    archive_bytes = archive.fp.tell()
    doubled = [name for name, times in Counter(i.filename for i in infos).items() if times > 1]
    if doubled:
        raise zipfile.BadZipFile(f'it has two members of the name "{doubled[0]}"')
    for info in infos:
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise zipfile.BadZipFile(f'it has a member that points outside it: "{name}"')
        if info.flag_bits & ENCRYPTED:
            raise zipfile.BadZipFile(f"{name} is encrypted")
        if info.compress_type not in METHODS:
            raise zipfile.BadZipFile(f"{name} is packed by a method other than deflate")
    _judge_growth(infos, archive_bytes)


def _judge_growth(infos, archive_bytes):
    """Refuse members that swell to more than BOMB_BYTES, be it one or many together."""
    swollen = [i for i in infos if i.file_size > BOMB_RATIO * min(i.compress_size, archive_bytes)]
    if sum(info.file_size for info in infos) > BOMB_RATIO * archive_bytes:
        swollen = infos  # few bytes may be listed as many members
    size = sum(info.file_size for info in swollen)
    if size > BOMB_BYTES:
        packed = min(sum(info.compress_size for info in swollen), archive_bytes)
        name = max(swollen, key=lambda info: info.file_size).filename
        what = name if len(swollen) == 1 else f"{name} with {len(swollen) - 1:,} other members"
        raise zipfile.BadZipFile(f"{what} would grow from {packed:,} to {size:,} bytes")


def _read_array(archive, name):
    if name not in archive.NameToInfo:
        raise zipfile.BadZipFile(f"{name} is missing")
    with _as_bad_zip():
        with archive.open(name) as member:
            held = archive.getinfo(name).file_size - _announced(member, name)
        if held:
            raise zipfile.BadZipFile(f"{name} is announced larger or smaller than it is")
        with archive.open(name) as member:
            return np.lib.format.read_array(member, allow_pickle=False)


def _announced(member, name):
    """How many bytes an npy file must have by its own header."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise zipfile.BadZipFile(f"{name} is not of npy version 1.0")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    except Exception as error:  # NumPy reads the header as Python: any error of a tokenizer
        raise zipfile.BadZipFile(f"the header of {name} cannot be read ({error})") from None
    if dtype.hasobject:
        raise zipfile.BadZipFile(f"{name} holds Python objects, which are not read")
    if min(shape, default=0) < 0:
        raise zipfile.BadZipFile(f"{name} has the shape {shape}")
    return member.tell() + math.prod(shape) * dtype.itemsize


@contextlib.contextmanager
def _as_bad_zip():
    """Let what damaged archives raise be one kind of error."""
    try:
        yield
    except DAMAGED as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error
