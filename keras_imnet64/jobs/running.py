"""Trains runs in child processes, several at a time, and logs their epochs."""

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
from typing import Literal, Protocol, TypeAlias

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import (
    EXIT_STOPPED_AT_ONCE,
    EXIT_STOPPED_STATE_SAVED,
    EXIT_USER_ERROR,
    RunFailed,
    Stopped,
    UserError,
    first_few,
)
from keras_imnet64.core.processes import failure_reason, start_child
from keras_imnet64.jobs.shares import MachineShare
from keras_imnet64.runs import HistoryRow, Run

POLL_SECONDS = 0.5
STATUSES_AFTER_SIGTERM = (EXIT_STOPPED_STATE_SAVED, EXIT_STOPPED_AT_ONCE, -signal.SIGTERM)
MAX_NAMED = 20  # failed jobs that an error names

ENDINGS = {
    "finished": "finished",
    "lost": "given up: another process took this one for dead, and trains it now",
}

# stopped: with its state saved; lost: to another process, which trains it now.
Ending: TypeAlias = Literal["finished", "failed", "stopped", "lost"]


@dataclass(frozen=True)
class Job:
    """A run to train.

    Attributes:
        arguments: of the command that trains the run; those of its share of the machine are added.
        log: the file to which the output of its processes is appended.
        note: what distinguishes it from the other jobs, for people; "" if its name says that.
    """

    run: Run
    arguments: tuple[str, ...]
    log: Path
    note: str = ""

    @property
    def name(self) -> str:
        return self.run.path.name


@dataclass(frozen=True)
class FailedJob:
    """A run that could not be trained."""

    name: str
    status: int  # exit status of its process; -n if signal n ended it
    reason: str


@dataclass(frozen=True)
class JobsResult:
    """What became of the jobs.

    Attributes:
        stopped: whether a signal stopped the jobs that were not finished.
    """

    failed: list[FailedJob]
    stopped: bool


class JobSource(Protocol):
    """Where jobs come from, and what follows from their progress."""

    def next_job(self) -> Job | None:
        """Returns the next job to start; None if there is none at present."""

    def may_have_more(self) -> bool:
        """Returns whether to wait for a further job while no job runs."""

    def may_continue(self, job: Job, row: HistoryRow) -> bool:
        """Returns whether a job may go on after an epoch; otherwise it is stopped."""

    def is_lost(self, job: Job) -> bool:
        """Returns whether a process on another machine trains the job now; it is killed then."""

    def job_ended(self, job: Job, ending: Ending, failure: "FailedJob | None") -> None:
        """Takes note of the end of a job's process, and of the reason if it failed."""


@dataclass
class _Process:
    """The child process that trains a run."""

    job: Job
    child: subprocess.Popen[bytes]
    share: MachineShare
    log_start: int  # bytes of the log that earlier processes wrote
    num_epochs_logged: int
    stop_requested: bool = False
    is_lost: bool = False

    def log_epochs(self) -> list[HistoryRow]:
        """Logs each epoch that the run has added to its history, and returns their rows."""
        rows = self.job.run.history_so_far
        added = rows[self.num_epochs_logged :]
        for row in added:
            score = f"  val_top1 {float(row['val_top1']):.2f}" if row["val_top1"] else ""
            say(
                f"{self.job.name}  epoch {row['epoch']}  loss {float(row['loss']):.3f}{score}"
                f"  {row['seconds']} s"
            )
        self.num_epochs_logged = max(self.num_epochs_logged, len(rows))
        return added

    def request_stop(self) -> None:
        """Asks the child, once, to save its state and end."""
        if not self.stop_requested:
            self.stop_requested = True
            with suppress(ProcessLookupError):
                self.child.send_signal(signal.SIGTERM)

    def give_up(self) -> None:
        """Kills the child: it must write nothing any more."""
        self.is_lost = True
        self.child.kill()

    def ending(self, status: int) -> tuple[Ending, FailedJob | None]:
        """Returns how the child ended, and why if it failed."""
        if self.is_lost:
            return "lost", None
        failure = self.failure(status)
        if failure:
            return "failed", failure
        return ("finished" if status == 0 else "stopped"), None

    def failure(self, status: int) -> FailedJob | None:
        """Returns why the child failed; None if it finished, or stopped on request."""
        output = self.job.log.read_bytes()[self.log_start :].decode(errors="replace")
        reason = failure_reason(status, output)
        if reason is None or (self.stop_requested and status in STATUSES_AFTER_SIGTERM):
            return None
        return FailedJob(self.job.name, status, f"{reason} ({self.job.log})")


def run_jobs(source: JobSource, shares: Sequence[MachineShare]) -> JobsResult:
    """Trains runs, each in a process that starts as soon as a share of the machine is free.

    Ends when no process runs and the source has no further job, or when a signal has stopped all
    processes.
    """
    free = list(shares)
    running: list[_Process] = []
    failed: list[FailedJob] = []
    with _stop_event(running) as stop:
        while True:
            while free and not stop.is_set() and (job := source.next_job()):
                running.append(_start(job, free.pop(0)))
            if not running and (stop.is_set() or not source.may_have_more()):
                return JobsResult(failed, stop.is_set())
            time.sleep(POLL_SECONDS)
            for process in list(running):
                if stop.is_set():
                    process.request_stop()
                if source.is_lost(process.job):
                    process.give_up()
                status = process.child.poll()  # before its epochs are read, so that none is missed
                for row in process.log_epochs():
                    if not source.may_continue(process.job, row):
                        process.request_stop()
                if status is None:
                    continue
                running.remove(process)
                free.append(process.share)
                ending, failure = process.ending(status)
                if failure:
                    say(f"{failure.name}  failed: {failure.reason}")
                    failed.append(failure)
                elif ending in ("finished", "lost"):
                    say(f"{process.job.name}  {ENDINGS[ending]}")
                source.job_ended(process.job, ending, failure)


def again(fresh: bool) -> str:
    """Returns the command that goes on, in words, after one with or without --fresh."""
    return "the same command without --fresh" if fresh else "the same command"


def raise_unfinished(result: JobsResult, what: str, num_jobs: int, command: str) -> None:
    """Raises an error for all jobs if a signal stopped them or some of them failed.

    Args:
        what: the jobs, such as "branches".
        command: what trains what is not finished, see `again`.

    Raises:
        Stopped: a signal stopped the jobs.
        UserError: all jobs that failed did so by a mistake of the user.
        RunFailed: jobs failed, not all of them by a mistake.
    """
    failed = result.failed
    names = first_few([job.name for job in failed], MAX_NAMED)
    if result.stopped:
        raise Stopped(
            f"stopped; the {what}' states are saved, and {command} resumes them"
            + (f"; failed: {names}" if failed else "")
        )
    if failed:
        is_mistake = all(job.status == EXIT_USER_ERROR for job in failed)
        raise (UserError if is_mistake else RunFailed)(
            f"{len(failed)} of {num_jobs} {what} failed ({names}), the first with: "
            f"{failed[0].reason}; fix this, then {command} trains the {what} that are not finished"
        )


def _start(job: Job, share: MachineShare) -> _Process:
    log_start = job.log.stat().st_size if job.log.exists() else 0
    num_epochs = len(job.run.history_so_far)
    child = start_child(
        "keras_imnet64",
        *job.arguments,
        "--ends-with-parent",
        *share.options,
        log=job.log,
        environment=os.environ | dict(share.environment),
    )
    if share.cores:
        os.sched_setaffinity(child.pid, share.cores)
    say(f"{job.name}  started, process {child.pid}" + (f": {job.note}" if job.note else ""))
    return _Process(job, child, share, log_start, num_epochs)


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
