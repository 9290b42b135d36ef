"""Work folders: a result is prepared beside its target, then moved there as a whole.

A work folder is named `.<result>.<word>@<host>@<process id>@<letters>`, where the word says what
its process does, such as "writing". The name tells what a killed process has left behind from the
work of a living process. A folder that a result replaces is moved aside to the result's name with
`-old`; if the process dies before the result has its place, the next one moves it back.

If the target is a link to a folder, the folder that it leads to is replaced, not the link.
"""

import contextlib
import glob
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_imnet64.core.errors import RunFailed
from keras_imnet64.core.files import sync_folder
from keras_imnet64.core.paths import os_error_text, refuse_existing
from keras_imnet64.core.types import StrPath

MARK = "@"  # no host name contains it, so that "node" never takes a folder of "node-12" for its own
OLD = "-old"
CLOCK_SECONDS = 5  # by which clocks of processes and of files may differ


@contextlib.contextmanager
def work_folder(target: StrPath, word: str) -> Iterator[Path]:
    """Makes an empty folder beside `target`, and deletes it with its content at the end.

    Raises: as `new_work_folder`.
    """
    folder = new_work_folder(target, word)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_work_folder(target: StrPath, word: str) -> Path:
    """Makes an empty folder beside `target`, and deletes those that dead processes left there.

    Raises:
        OSError, ValueError: the system refuses the folder; the parent of `target` must exist.
    """
    target = _followed(target)
    remove_abandoned(target, word)
    prefix = f"{_prefix(target, word)}{os.getpid()}{MARK}"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))


def publish(result: Path, target: Path, *, replace: bool) -> None:
    """Moves a finished file or folder to `target`, after syncing all of it to disk.

    Args:
        replace: whether the result may replace what is at `target`. A file is replaced in one
            step; a folder is moved aside first, and deleted when the result has its place. If the
            result does not get there, the folder is moved back.

    Raises:
        UserError: something is at `target` and must not be replaced.
        OSError: the system refuses a step.
    """
    for path in [*result.rglob("*"), result]:
        sync_folder(path)  # syncs a file in the same way
    if not replace:
        refuse_existing(target)
    target = _followed(target)
    if not (result.is_dir() and os.path.lexists(target)):
        os.replace(result, target)
        sync_folder(target.parent)
        return
    replaced = target.rename(result.with_name(f"{result.name}{OLD}"))
    try:
        os.replace(result, target)
    except BaseException:
        replaced.rename(target)
        raise
    sync_folder(target.parent)
    _delete(replaced)


@contextlib.contextmanager
def report_failed_write(doing: str, target: StrPath) -> Iterator[None]:
    """Raises a RunFailed for an OSError, for a block that leaves nothing behind when it fails.

    Args:
        doing: the action, such as "exporting to x.tflite".
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{doing} failed and left nothing behind ({os_error_text(error, target)}); fix that "
            "and run the same command again"
        ) from error


def remove_abandoned(target: StrPath, word: str) -> None:
    """Deletes the work folders of `target` that dead processes of this machine have left.

    What one of them had moved aside for a result that did not get its place is moved back.
    """
    target = _followed(target)
    for folder in _of_dead_processes(target, word):
        if folder.name.endswith(OLD) and not os.path.lexists(target):
            with contextlib.suppress(OSError):
                folder.rename(target)
        else:
            _delete(folder)


def abandoned(target: StrPath, word: str) -> list[Path]:
    """Returns the work folders of `target` that `remove_abandoned` would delete."""
    target = _followed(target)
    is_lost = not os.path.lexists(target)
    folders = _of_dead_processes(target, word)
    return [folder for folder in folders if not (is_lost and folder.name.endswith(OLD))]


def _of_dead_processes(target: Path, word: str) -> list[Path]:
    """Returns the work folders of `target` whose process, of this machine, has died."""
    folders = list(_folders_of_this_machine(target, word))
    return [folder for folder, pid in folders if not _is_alive(folder, pid)]


def living_writer(target: StrPath, word: str) -> int | None:
    """Returns the id of another living process of this machine that is making `target`, or None.

    If several processes call this within `work_folder`, at most one of them gets None.
    """
    folders = _folders_of_this_machine(_followed(target), word)
    pids = [pid for folder, pid in folders if _is_alive(folder, pid)]
    return next((pid for pid in pids if pid != os.getpid()), None)


def _followed(target: StrPath) -> Path:
    """Returns the folder that a link leads to, and any other path as it is."""
    is_link = os.path.islink(target) and os.path.isdir(target)
    return Path(os.path.realpath(target) if is_link else target)


def _delete(path: Path) -> None:
    """Deletes a folder or a file, as far as the system lets it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _prefix(target: Path, word: str) -> str:
    """Returns how the names of this machine's work folders begin."""
    host = re.sub(r"[^\w.-]", "-", socket.gethostname())
    return f".{target.name}.{word}{MARK}{host}{MARK}"


def _folders_of_this_machine(target: Path, word: str) -> Iterator[tuple[Path, int]]:
    """Yields (work folder, process id) for each work folder of `target` from this machine."""
    prefix = _prefix(target, word)
    for folder in target.parent.glob(f"{glob.escape(prefix)}*"):
        pid = folder.name.removeprefix(prefix).split(MARK)[0]
        if pid.isdecimal():
            yield folder, int(pid)


def _is_alive(folder: Path, pid: int) -> bool:
    """Returns whether the process that made a folder lives.

    A process that is younger than the folder has only been given the same id.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.create_time() <= folder.stat().st_mtime + CLOCK_SECONDS
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OSError, OverflowError):
        return False
