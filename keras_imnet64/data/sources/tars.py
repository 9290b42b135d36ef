"""Opens tar archives and lists their files; nothing is unpacked."""

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.data.sources.finding import is_system_file, is_system_folder


def open_tar(path: Path, content: IO[bytes] | None = None, where: str = "") -> tarfile.TarFile:
    """Opens a tar, or one of its members that is a tar: `content`, named `where` in messages."""
    with _report_damaged_tar(where or str(path)):
        return tarfile.open(path, "r:", fileobj=content, encoding="utf-8")


def members(archive: tarfile.TarFile, where: str) -> Iterator[tarfile.TarInfo]:
    """Yields the files of a tar, named `where` in messages, without system files.

    Links and names that point outside the tar are refused, although nothing is unpacked.
    """
    with _report_damaged_tar(where):
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if member.isdir() or _is_of_system(parts):
                continue
            if not member.isreg() or ".." in parts or member.name.startswith("/"):
                raise UserError(f"{where} holds {member.name}, which is a link or points outside")
            yield member
        file = archive.fileobj
        assert file is not None  # it was opened to be read
        file.seek(archive.offset)
        if any(file.read(tarfile.BLOCKSIZE)):  # a whole tar ends with zeros
            raise tarfile.ReadError("it ends within a member")


def _is_of_system(parts: tuple[str, ...]) -> bool:
    return any(map(is_system_folder, parts[:-1])) or any(map(is_system_file, parts[-1:]))


@contextlib.contextmanager
def _report_damaged_tar(where: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{where} is not a whole tar archive ({reason(error)})") from None
