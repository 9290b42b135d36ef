"""Reads and writes single files: writes are atomic, reads are limited in size and cannot hang.

Readers raise a ValueError or an OSError; `paths.os_error_text` explains the latter. `work_folders`
writes several files at once.
"""

import codecs
import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from keras_imnet64.core.types import Json, StrPath

MAX_JSON_BYTES = 16 * 2**20  # the largest file that we write has some 100 KB
MAX_JSON_DEPTH = 100
BYTE_ORDER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF8: "UTF-8",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def write_atomic(path: StrPath, content: bytes | str) -> None:
    """Writes a file so that it holds either the old content or the new one, never a part."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_together(path: StrPath, content: str) -> None:
    """Does what `write_atomic` does where several processes may write the same content at once."""
    path = Path(path)
    own = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.writing")
    write_atomic(own, content)
    os.replace(own, path)


@contextlib.contextmanager
def atomic_file(path: StrPath) -> Iterator[IO[bytes]]:
    """Opens a file for writing, which has its old content until the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with open(temporary, "wb", opener=_no_link) as file:
            yield file
            sync_file(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # an unfinished file would keep a full disk full
    sync_folder(path.parent)


def _no_link(path: str, flags: int) -> int:
    """Opens a file for writing; refuses to follow a link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def is_at(path: StrPath, file: IO[str] | IO[bytes]) -> bool:
    """Returns whether an open file is still at `path`: it may have been moved or deleted."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


def write_json(path: StrPath, content: Json) -> None:
    write_atomic(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: StrPath, columns: Sequence[str], rows: Iterable[Mapping[str, Json]]) -> None:
    write_atomic(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Json]]) -> str:
    """Returns rows as CSV with "\\n" at line ends.

    All text below the header is quoted, so that a line break or a comma in a name stays in its
    field. Bytes of file names that are not UTF-8 are written as escapes, such as \\udcff.

    Args:
        columns: keys of the rows, which are also the header. They are not quoted.
    """
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace").decode()


def sync_file(file: IO[bytes]) -> None:
    """Writes an open file to disk, so that its content survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: StrPath) -> None:
    """Writes a folder to disk, so that renames in it survive a power cut.

    Some file systems, such as folders shared with a virtual machine, have nothing to sync.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not os.path.isdir(path):
            raise
    finally:
        os.close(folder)


def read_small(path: StrPath, max_bytes: int) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a device or a pipe, or has more than `max_bytes` bytes.
    """
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is not a regular file")
    if state.st_size > max_bytes:
        raise ValueError(f"it has {state.st_size:,} bytes, more than {max_bytes:,}")
    with open(path, "rb") as file:
        return file.read(max_bytes)


def sha256_of(path: StrPath) -> str:
    """Returns the SHA-256 of a file's content, hexadecimal; raises an OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def byte_order_mark(content: bytes) -> str | None:
    """Returns the encoding whose byte order mark comes first, such as "UTF-16", or None."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)


def decode_text(content: bytes, errors: str = "strict") -> str:
    """Decodes a text file by its byte order mark, which editors on Windows write, or as UTF-8.

    Line ends are left as they are.

    Raises:
        ValueError: the bytes are not in that encoding.
    """
    encoding = byte_order_mark(content)
    if encoding is None and b"\0" in content:
        raise ValueError("it has zero bytes, as text in UTF-16 has: save it as UTF-8")
    try:
        return content.decode("utf-8-sig" if encoding in (None, "UTF-8") else encoding, errors)
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ValueError(
            f"it is not {encoding or 'UTF-8'} text ({where}): save it as UTF-8"
        ) from None


def parse_json(text: str | bytes) -> Json:
    """Parses JSON; raises ValueError if the text is no JSON or is nested too deeply."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if depth(content) > MAX_JSON_DEPTH:
        raise ValueError("it is nested too deeply")
    return content


def depth(content: Json) -> int:
    """Returns how many levels of lists, tuples and dicts are nested."""
    levels, holders = 0, [content]
    while holders := [h for h in holders if isinstance(h, dict | list | tuple)]:
        levels += 1
        holders = [i for h in holders for i in (h.values() if isinstance(h, dict) else h)]
    return levels
