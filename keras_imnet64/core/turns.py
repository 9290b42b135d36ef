"""Lets processes do something one after another, also on several machines that share a folder.

The lock is on a file that exists only while a process holds the lock or waits for it.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from keras_imnet64.core.activity import Activity
from keras_imnet64.core.files import is_at

DONE = "done"
MAX_CHARACTERS = 2_000  # of the text in the file


@contextlib.contextmanager
def one_at_a_time(path: Path, doing: str, work: str) -> Iterator[bool]:
    """Waits until no other process has locked a file, then locks it within the block.

    Where the file cannot be written, or the file system has no locks, nobody waits. Folders that
    are made for the file are removed again if the block fails and leaves nothing in them.

    Args:
        doing: such as "preparing shapes", for those that wait.
        work: one line; equal lines stand for equal work.

    Yields:
        Whether this process has waited for another one, which has finished equal work.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    acquired = None
    with contextlib.suppress(OSError):
        acquired = _acquire(path, doing)
    if acquired is None:
        yield False
        return
    file, earlier = acquired
    try:
        with file:
            _write(file, f"process {os.getpid()} on {socket.gethostname()}\n{work}\n")
            try:
                yield earlier[1:] == [work, DONE]
                _write(file, f"{DONE}\n")
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()  # before another process can get the lock
    except BaseException:
        with contextlib.suppress(OSError):  # it is not empty
            for folder in made:
                folder.rmdir()
        raise


def _acquire(path: Path, doing: str) -> tuple[TextIO, Sequence[str]]:
    """Returns the locked file, and the lines of the process for which this one has waited."""
    earlier: Sequence[str] = []
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (_lines(file) or ["another process"])[0]
            with Activity(f"waiting for {holder}, which is {doing}", at_once=True):
                fcntl.flock(file, fcntl.LOCK_EX)
            earlier = _lines(file)
        except OSError:
            file.close()
            raise
        if is_at(path, file):
            return file, earlier
        file.close()  # the one that had the lock has removed the file


def _write(file: TextIO, text: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full: others wait all the same
        os.write(file.fileno(), text.encode())


def _lines(file: TextIO) -> list[str]:
    try:
        file.seek(0)
        return file.read(MAX_CHARACTERS).splitlines()
    except (OSError, ValueError):  # removed on another machine
        return []
