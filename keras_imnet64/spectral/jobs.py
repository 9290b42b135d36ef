"""Trains branches in child processes, several at a time, and logs their epochs."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import EXIT_STOPPED_AT_ONCE, EXIT_STOPPED_STATE_SAVED
from keras_imnet64.core.processes import failure_reason, start_child
from keras_imnet64.runs import Run
from keras_imnet64.spectral.shares import MachineShare

POLL_SECONDS = 0.5
STATUSES_AFTER_SIGTERM = (EXIT_STOPPED_STATE_SAVED, EXIT_STOPPED_AT_ONCE, -signal.SIGTERM)


@dataclass(frozen=True)
class BranchJob:
    """A branch to train."""

    band: int
    run: Run
    log: Path  # the output of its processes is appended to it

    @property
    def name(self) -> str:
        return self.run.path.name


@dataclass(frozen=True)
class FailedJob:
    """A branch that could not be trained."""

    name: str
    status: int  # exit status of its process; -n if signal n ended it
    reason: str


@dataclass
class _Process:
    """The child process that trains a branch."""

    job: BranchJob
    child: subprocess.Popen[bytes]
    share: MachineShare
    log_start: int  # bytes of the log that earlier processes wrote
    num_epochs_logged: int
    stop_requested: bool = False

    def log_epochs(self) -> None:
        """Logs each epoch that the branch has added to its history."""
        rows = _history(self.job.run)
        for row in rows[self.num_epochs_logged :]:
            score = f"  val_top1 {float(row['val_top1']):.2f}" if row["val_top1"] else ""
            say(
                f"{self.job.name}  epoch {row['epoch']}  loss {float(row['loss']):.3f}{score}"
                f"  {row['seconds']} s"
            )
        self.num_epochs_logged = max(self.num_epochs_logged, len(rows))

    def request_stop(self) -> None:
        """Asks the child, once, to save its state and end."""
        if not self.stop_requested:
            self.stop_requested = True
            with suppress(ProcessLookupError):
                self.child.send_signal(signal.SIGTERM)

    def failure(self, status: int) -> FailedJob | None:
        """Returns why the child failed; None if it finished, or stopped on request."""
        output = self.job.log.read_bytes()[self.log_start :].decode(errors="replace")
        reason = failure_reason(status, output)
        if reason is None or (self.stop_requested and status in STATUSES_AFTER_SIGTERM):
            return None
        return FailedJob(self.job.name, status, f"{reason} ({self.job.log})")


def run_jobs(
    jobs: Sequence[BranchJob], shares: Sequence[MachineShare], arguments: Sequence[str]
) -> tuple[list[FailedJob], bool]:
    """Trains branches, each in a process that starts as soon as a share of the machine is free.

    Args:
        arguments: those of the command `fit` that trains all branches of the recipe.

    Returns:
        (the branches that failed, whether a signal stopped the others).
    """
    waiting, free = list(jobs), list(shares)
    running: list[_Process] = []
    failed: list[FailedJob] = []
    with _stop_event(running) as stop:
        while running or (waiting and not stop.is_set()):
            while waiting and free and not stop.is_set():
                running.append(_start(waiting.pop(0), free.pop(0), arguments))
            time.sleep(POLL_SECONDS)
            for process in list(running):
                if stop.is_set():
                    process.request_stop()
                process.log_epochs()
                status = process.child.poll()
                if status is None:
                    continue
                running.remove(process)
                free.append(process.share)
                failure = process.failure(status)
                if failure:
                    say(f"{failure.name}  failed: {failure.reason}")
                    failed.append(failure)
                elif status == 0:
                    say(f"{process.job.name}  finished")
        return failed, stop.is_set()


def _start(job: BranchJob, share: MachineShare, arguments: Sequence[str]) -> _Process:
    log_start = job.log.stat().st_size if job.log.exists() else 0
    num_epochs = len(_history(job.run))
    child = start_child(
        "keras_imnet64",
        *arguments,
        *("--branch", str(job.band), "--ends-with-parent"),
        *share.options,
        log=job.log,
        environment=os.environ | dict(share.environment),
    )
    if share.cores:
        os.sched_setaffinity(child.pid, share.cores)
    say(f"{job.name}  started, process {child.pid}")
    return _Process(job, child, share, log_start, num_epochs)


def _history(run: Run) -> list[dict[str, str]]:
    return run.history if run.history_file.exists() else []


@contextmanager
def _stop_event(running: Sequence[_Process]) -> Iterator[threading.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets; the second raises KeyboardInterrupt.

    The children that still run at the end of the block are killed.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for process in running:
            process.child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
