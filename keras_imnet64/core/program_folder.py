"""A folder of compiled programs on disk: bounded in size, safe from damage and other processes.

A program is one file, `<machine>/<name>.program`: the SHA-256 of its content, then the content. It
is written beside its place and renamed, so that no process ever reads half of it; one that is
damaged later is removed when it is read. Using a program renews its time, and the programs whose
time is the oldest make room for new ones. Nothing else in the folder is touched.
"""

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.types import StrPath

SUFFIX = ".program"
UNFINISHED = ".unfinished"  # after SUFFIX and who writes it: not renamed yet
PROGRAM_NAME = re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}(\.[\d-]+{re.escape(UNFINISHED)})?")
DIGEST_BYTES = hashlib.sha256().digest_size
ABANDONED_SECONDS = 3600  # after which a file that is not renamed belongs to a killed process
OTHERS_MAY_WRITE = 0o022


@dataclass(frozen=True)
class ProgramFile:
    """A file of the folder."""

    path: Path
    bytes: int
    used: float  # seconds since 1970

    @property
    def is_abandoned(self) -> bool:
        return self.path.suffix == UNFINISHED and self.used < time.time() - ABANDONED_SECONDS


class ProgramFolder:
    """The programs of one machine, in a folder that several machines may share.

    Args:
        root: the folder of all machines, whose total size is bounded.
        machine: name of the subfolder; programs run on machines of the same name alone.
        max_bytes: bound of the size of all programs in `root`; each further process that writes
            at the same time may exceed it by a hundredth.
    """

    def __init__(self, root: StrPath, machine: str, max_bytes: int) -> None:
        self.root, self.folder, self.max_bytes = Path(root), Path(root) / machine, max_bytes
        self._room = 0  # bytes to write before files are counted again, since there may be many

    def make(self) -> None:
        """Makes the folder, readable and writable for this user alone.

        Raises:
            OSError: the system refuses it, or other users may write into it. A program is code:
                whoever can write there could run code of their own in this process.
        """
        for folder in (self.root, self.folder):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700, parents=True)
            check_folder(folder)

    def get(self, name: str) -> bytes | None:
        """Returns a program, or None if it is missing or damaged.

        Raises:
            OSError: it cannot be read.
        """
        path = self._path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, program = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        with contextlib.suppress(OSError):  # a folder that cannot be written is still read
            if digest == hashlib.sha256(program).digest():
                os.utime(path)
                return program
            path.unlink()
        return program if digest == hashlib.sha256(program).digest() else None

    def put(self, name: str, program: bytes) -> None:
        """Keeps a program, unless it alone exceeds the bound; removes others to stay within it.

        Raises:
            OSError: it cannot be written; nothing of it is left.
        """
        if len(program) + DIGEST_BYTES > self.max_bytes:
            return
        path = self._path(name)
        unfinished = path.with_name(
            f"{path.name}.{os.getpid()}-{threading.get_ident()}{UNFINISHED}"
        )
        try:
            with open(unfinished, "wb") as file:
                file.write(hashlib.sha256(program).digest())
                file.write(program)
            os.replace(unfinished, path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        self._room -= DIGEST_BYTES + len(program)
        if self._room < 0:
            self._room = self.max_bytes // 100
            remove_least_recently_used(self.root, self.max_bytes - self._room)

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()}{SUFFIX}"


def check_folder(folder: Path) -> None:
    """Refuses a folder into which other users may write; one that does not exist is in order.

    Raises:
        PermissionError: it belongs to another user, or others may write into it.
        OSError: the system does not tell.
    """
    try:
        found = folder.stat()
    except FileNotFoundError:
        return
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if found.st_mode & OTHERS_MAY_WRITE:
        raise PermissionError(f"other users may write into {folder}: `chmod go-w {folder}`")


def remove_least_recently_used(root: Path, max_bytes: int) -> None:
    """Removes programs, those that were used longest ago first, until the bound is held."""
    files = sorted(program_files(root), key=lambda file: file.used)
    total = sum(file.bytes for file in files)
    for file in files:
        if file.is_abandoned or (total > max_bytes and file.path.suffix == SUFFIX):
            with contextlib.suppress(OSError):  # another process was faster, or owns it
                file.path.unlink()
            total -= file.bytes


def remove_all(root: Path) -> None:
    """Removes all programs, and the folders that are empty then.

    Raises:
        OSError: a file cannot be removed.
    """
    folders = []
    for file in program_files(root):
        file.path.unlink(missing_ok=True)
        folders.append(file.path.parent)
    for folder in (*dict.fromkeys(folders), root):
        with contextlib.suppress(OSError):  # it does not exist, or other files are in it
            folder.rmdir()


def program_files(root: Path) -> Iterator[ProgramFile]:
    """Yields the files of a folder of programs, unfinished ones too; none if there is no folder."""
    for path in root.glob(f"*/*{SUFFIX}*"):
        if PROGRAM_NAME.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                found = path.stat()
                yield ProgramFile(path, found.st_size, found.st_mtime)
