"""Working folders: made beside the place that a result will take, and named after who makes it.

A name is `.<result>.<word>@<host>@<process id>@<letters>`; the word says what is done there, such
as "writing". What is made in one, and how it takes its place, is the business of who makes it.
"""

import glob
import os
import re
import shutil
import socket
import tempfile
from pathlib import Path

MARK = "@"  # which no host name has: what is made on "node" is never taken for that of "node-12"
CLOCK_SECONDS = 5  # between the clocks of processes and of files


def new_beside(path, word):
    """A new folder of this process beside `path`; what dead ones have left there is deleted.

    Raises:
        OSError, ValueError: what the system says against it; the parent of `path` must exist.
    """
    path = Path(path)
    remove_dead(path, word)
    prefix = f"{_beginning(path, word)}{os.getpid()}{MARK}"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))


def remove_dead(path, word):
    """Delete the working folders of `path` that were begun on this machine and abandoned."""
    for folder in abandoned(path, word):
        shutil.rmtree(folder, ignore_errors=True)


def abandoned(path, word):
    """The working folders of `path` whose process, of this machine, has died."""
    begun = list(_begun_here(path, word))
    return [folder for folder, pid in begun if not _is_at_work(folder, pid)]


def living_writer(path, word):
    """The id of another living process of this machine that makes `path`; None if there is none.

    Of several processes that ask after they have called `new_beside`, at most one is told that it
    is alone.
    """
    pids = [pid for folder, pid in _begun_here(path, word) if _is_at_work(folder, pid)]
    return next((pid for pid in pids if pid != os.getpid()), None)


def _beginning(path, word):
    host = re.sub(r"[^\w.-]", "-", socket.gethostname())
    return f".{path.name}.{word}{MARK}{host}{MARK}"


def _begun_here(path, word):
    """(folder, process id) of each working folder of `path` that is of this machine."""
    path = Path(path)
    beginning = _beginning(path, word)
    for folder in path.parent.glob(f"{glob.escape(beginning)}*"):
        pid = folder.name.removeprefix(beginning).split(MARK)[0]
        if pid.isdecimal():
            yield folder, int(pid)


def _is_at_work(folder, pid):
    """Whether the process lives, and is not a later one that got the number of a dead one."""
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
