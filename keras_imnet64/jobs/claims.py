"""Claims on jobs: several processes, on any machines, share out the jobs of a folder with them.

A claim is the file `claims/<job>.<number>`. A process takes a job by creating the file with the
next number, which succeeds in exactly one process (O_EXCL), and later writes the job's ending into
it. The claim with the highest number counts. A job may be taken again once its claim has ended, or
once the process that holds it is dead:

- The holder locks its file (flock). A process on the same machine sees by the lock, at once,
  whether the holder lives.
- The locks of some file systems reach no other machine, so the holder also touches its file every
  few seconds. Another machine takes it for dead after it has watched the file for STALE_SECONDS
  without a change. It measures this time itself, so no two clocks are compared.

A holder that was suspended for longer finds a higher number and gives the job up.
"""

import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self, TypeAlias, TypeVar

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, shortened
from keras_imnet64.core.files import write_json
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.validation import parse_record, to_json
from keras_imnet64.runs import Run

TOUCH_SECONDS = 10.0
STALE_SECONDS = 120.0  # caches of NFS may show the time of a file up to 60 s late
POLL_SECONDS = 0.5
SUMMARY = "results"  # the claim on summing up what all have trained
DATA = "data"  # the claim on preparing the data, for which the others wait
MAX_BYTES = 4096
MAX_NOTE_CHARACTERS = 500  # of which one may take six bytes

ClaimEnding: TypeAlias = Literal["finished", "failed", "stopped"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Claim:
    """The content of a claim.

    Attributes:
        machine: a name of the machine's running system that no other machine has.
        ending: how the job ended; None while it is being trained.
        note: why the job failed; of the claim on the results, what was summed up.
        status: the exit status of a job that failed.
    """

    host: str
    machine: str
    process: int
    ending: ClaimEnding | None = None
    note: str = ""
    status: int = 0

    @property
    def holder(self) -> str:
        """The process, for messages."""
        return f"process {self.process} on {self.host}" if self.machine else "a process that starts"


UNWRITTEN = Claim("", "", 0)  # a claim that was created at this moment


@dataclass(frozen=True)
class _Held:
    """A claim of this process, whose file is open and locked."""

    number: int
    claim: Claim
    file: IO[str]


class Claims:
    """The claims in a folder, as this process sees them; use it as a context.

    What has ended before the context began does not count: a job that failed then may be taken.

    Args:
        folder: of the runs; it is created with the first claim, and removed if nothing else gets
            into it before an error ends the context.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Run(folder).claims
        self._own = Claim(socket.gethostname(), machine_id(), os.getpid())
        self._newest: dict[str, int] = {}
        self._ended_before: dict[str, int] = {}
        self._held: dict[str, _Held] = {}
        self._watched: dict[str, tuple[tuple[int, ...], float]] = {}  # state of file, since when
        self._made: list[Path] = []  # folders, the innermost first
        self._looked = 0.0
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        self.refresh()
        for name, number in self._newest.items():
            if self._read(name, number).ending:
                self._ended_before[name] = number
        self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        threading.Thread(target=self._keep_touching, daemon=True, name="claims").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        for name in list(self._held):
            self.end(name, "stopped")
        with suppress(OSError):  # it is not empty
            for folder in self._made if error is not None else ():
                folder.rmdir()

    # ------------------------------------------------------------------------------- what there is

    def refresh(self, seconds: float = 0.0) -> None:
        """Reads which claims there are, unless that was done less than so many seconds ago."""
        if time.monotonic() - self._looked < seconds:
            return
        self._looked = time.monotonic()
        self._newest = {}
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.path):
                name, _, number = entry.name.rpartition(".")
                if number.isdecimal() and not name.startswith("."):
                    self._newest[name] = max(int(number), self._newest.get(name, 0))

    def look(self, name: str) -> Claim | None:
        """Returns the claim that counts; None if the job may be taken.

        A claim without an ending is that of a living process.
        """
        number = self._newest.get(name)
        if number is None:
            return None
        claim = self._read(name, number)
        if claim.ending:
            return None if number <= self._ended_before.get(name, 0) else claim
        if name in self._held and self._held[name].number == number:
            return claim
        if self._seems_alive(name, number, claim):
            return claim
        claim = self._read(name, number)  # it may have ended meanwhile
        return claim if claim.ending else None

    def newest(self, name: str) -> Claim | None:
        """Returns the claim with the highest number, whatever has become of its process."""
        number = self._newest.get(name)
        return None if number is None else self._read(name, number)

    def is_lost(self, name: str) -> bool:
        """Whether another process has taken a job for which this one seemed to be dead."""
        return name in self._held and self._newest.get(name, 0) > self._held[name].number

    def _file(self, name: str, number: int) -> Path:
        return self.path / f"{name}.{number}"

    def _read(self, name: str, number: int) -> Claim:
        try:
            with open(self._file(name, number), encoding="utf-8") as file:
                return parse_record(Claim, file.read(MAX_BYTES))
        except (OSError, ValueError):  # being created, or replaced at this moment
            return UNWRITTEN

    def _seems_alive(self, name: str, number: int, claim: Claim) -> bool:
        if claim.machine == self._own.machine:
            return _is_locked(self._file(name, number))
        try:
            with open(self._file(name, number), "rb") as file:  # which makes NFS look again
                state = os.fstat(file.fileno())
        except OSError:
            return True  # being replaced
        mark = (number, state.st_ino, state.st_size, state.st_mtime_ns)
        before, since = self._watched.get(name, (None, 0.0))
        if mark != before:
            self._watched[name] = mark, time.monotonic()
            return True
        return time.monotonic() - since < STALE_SECONDS

    # ------------------------------------------------------------------------------- taking, ending

    def take(self, name: str) -> bool:
        """Takes a job that may be taken; returns whether this process was the first to do so.

        Raises:
            RunFailed: the file system refuses a claim.
        """
        number = self._newest.get(name, 0) + 1
        file = self._file(name, number)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            opened = os.fdopen(descriptor, "w", encoding="utf-8")
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before others can read whose it is
            opened.write(_text(self._own))
            opened.flush()
            os.fsync(descriptor)
        except FileExistsError:
            return False
        except OSError as error:
            raise RunFailed(
                f"{file} cannot be written and locked ({os_error_text(error, self.path)}): name a "
                "folder on a file system with locks with --out"
            ) from error
        self._held[name] = _Held(number, self._own, opened)
        self.refresh()
        if self.is_lost(name):  # what was read before was old, as it may be on NFS
            self._withdraw(name)
            return False
        for earlier in range(1, number - 1):  # the last one stays, for processes that read it now
            self._file(name, earlier).unlink(missing_ok=True)
        return True

    def end(self, name: str, ending: ClaimEnding, note: str = "", status: int = 0) -> None:
        """Writes how a job that this process has taken has ended."""
        held = self._held.pop(name)
        note = shortened(note, MAX_NOTE_CHARACTERS)
        claim = replace(held.claim, ending=ending, note=note, status=status)
        with held.file, suppress(OSError):  # others find by the lock, or by the time, that it ended
            write_json(self._file(name, held.number), to_json(claim))

    def _withdraw(self, name: str) -> None:
        held = self._held.pop(name)
        with held.file, suppress(OSError):
            self._file(name, held.number).unlink()

    def _keep_touching(self) -> None:
        while not self._closing.wait(TOUCH_SECONDS):
            for held in list(self._held.values()):
                with suppress(OSError, ValueError):  # it ends at this moment
                    os.utime(held.file.fileno())

    # ---------------------------------------------------------------------------- one after another

    def once(self, name: str, note: str, function: Callable[[], object], doing: str) -> bool:
        """Calls a function in one of the processes, for which the others wait.

        Args:
            note: what the function is for; with another note it is called again.
            doing: what the process is doing, for those that wait.

        Returns:
            Whether this process called it.
        """
        is_said = False
        while True:
            self.refresh()
            claim = self.look(name)
            if claim and claim.ending == "finished" and claim.note == note:
                return False
            if (claim is None or claim.ending) and self.take(name):
                break
            if claim and claim.machine and not claim.ending and not is_said:
                say(f"waiting for {claim.holder}, which is {doing}")
                is_said = True
            time.sleep(POLL_SECONDS)
        try:
            function()
        except BaseException:
            self._withdraw(name)
            raise
        self.end(name, "finished", note)
        return True

    def one_first(self, name: str, function: Callable[[], Result], doing: str) -> Result:
        """Calls a function in every process: first in one of them, then in the others."""
        results: list[Result] = []
        if not self.once(name, "", lambda: results.append(function()), doing):
            results.append(function())
        return results[0]

    def prepare_data(self, function: Callable[[], Result]) -> Result:
        """Calls a function that packs the data if they are not packed.

        One process calls it first, then one on each other machine, which may have a data folder of
        its own, then the rest.
        """
        doing = "preparing the data"
        on_machine = f"{DATA}-{re.sub(r'[^a-zA-Z0-9-]', '-', self._own.machine)}"
        return self.one_first(DATA, lambda: self.one_first(on_machine, function, doing), doing)


def machine_id() -> str:
    """Returns a name of this machine until it is started again; the host name may be a copy."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()


def is_working(run: Run) -> bool:
    """Whether a process trains in a run folder, such as one whose parent was killed."""
    return _is_locked(run.lock_file)


def _is_locked(path: Path) -> bool:
    """Whether another process has locked a file; it may be known of this machine's only."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


def _text(claim: Claim) -> str:
    return json.dumps(to_json(claim), indent=2) + "\n"
