"""Jobs of a folder that several processes share out: each takes what nobody has taken.

See `claims` for how. A process that finds nothing more to take waits until the others are done, and
takes over the jobs of those that are lost. A machine on which every job fails, such as one with a
broken GPU, would soon have failed at all of them: after some failures in a row, a process takes
nothing more as long as others train.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import first_few
from keras_imnet64.jobs.claims import STALE_SECONDS, Claims, is_working
from keras_imnet64.jobs.running import Ending, FailedJob, Job, JobsResult
from keras_imnet64.runs import HistoryRow, Run

LOOK_SECONDS = 5.0  # between two looks at what the others have taken
MAX_FAILURES = 3  # in a row, after which the machine may be the reason
IDLE_SECONDS = 30.0  # without a job of another process, which takes the next one much sooner
MAX_NAMED = 6  # jobs in a line


@dataclass(frozen=True)
class _Taken:
    """A job that this process has taken and not yet started."""

    job: Job
    since: float  # time.monotonic()

    def may_start(self) -> bool:
        """Whether no process trains there, such as a child of the one that had the job before."""
        is_late = time.monotonic() - self.since > STALE_SECONDS
        return is_late or not is_working(self.job.run)  # if it is late, `fit` says who works there


class SharedJobs:
    """The source of the jobs that this process takes.

    Args:
        jobs: those of all processes, without the ones that were done before.
        is_done: whether a run needs no more training.
        begin: called with a job that this process has taken, before it starts.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        claims: Claims,
        is_done: Callable[[Run], bool],
        begin: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.claims, self._is_done, self._begin = claims, is_done, begin
        self._open = list(jobs)  # neither done nor taken by this process, as far as is known
        self._taken: _Taken | None = None
        self._next_look = 0.0  # time.monotonic()
        self._unseen: dict[str, float] = {}  # finished elsewhere, but not seen here yet, since when
        self._here: list[str] = []  # finished
        self._elsewhere: dict[str, list[str]] = {}  # finished, by their process
        self._failed_elsewhere: list[FailedJob] = []
        self._is_waiting = False
        self._failed_in_a_row: list[FailedJob] = []  # here, since a job was finished here
        self._is_resting = False
        self._others_seen = -math.inf  # time.monotonic() when another process had a job

    def next_job(self) -> Job | None:
        if self._taken is None and time.monotonic() >= self._next_look:
            self.claims.refresh()
            self._taken = self._take()
            if self._taken is None:
                self._next_look = time.monotonic() + LOOK_SECONDS
        if self._taken is None or not self._taken.may_start():
            return None
        job, self._taken = self._taken.job, None
        self._begin(job)
        return job

    def may_have_more(self) -> bool:
        return bool(self._open) or self._taken is not None

    def may_continue(self, job: Job, row: HistoryRow) -> bool:
        return True

    def is_lost(self, job: Job) -> bool:
        self.claims.refresh(LOOK_SECONDS)
        return self.claims.is_lost(job.name)

    def job_ended(self, job: Job, ending: Ending, failure: FailedJob | None) -> None:
        self._next_look = 0.0
        if ending == "lost":
            self._open.append(job)
            self.claims.end(job.name, "stopped")
        elif failure:
            self.claims.end(job.name, "failed", failure.reason, failure.status)
            self._note_failure(job, failure)
        else:
            self.claims.end(job.name, ending)
            if ending == "finished":
                self._here.append(job.name)
                self._failed_in_a_row = []

    def _note_failure(self, job: Job, failure: FailedJob) -> None:
        if self._is_done(job.run):  # its loss was not finite, as it would be on any machine
            self._failed_in_a_row = []
        else:
            self._failed_in_a_row.append(failure)

    def _rests(self) -> bool:
        """Whether this process leaves what is open to others, as its machine may be at fault."""
        if len(self._failed_in_a_row) < MAX_FAILURES or not self._others_are_training():
            self._is_resting = False
        elif not self._is_resting:
            self._is_resting = True
            names = first_few([failed.name for failed in self._failed_in_a_row], MAX_NAMED)
            say(
                f"{names} have failed here one after another, so this process takes nothing more "
                "while other processes train: see whether this machine is the reason"
            )
        return self._is_resting

    # --------------------------------------------------------------------------- what others train

    def _take(self) -> _Taken | None:
        """Takes the first job that may be taken, and notes which others have ended."""
        rests = self._rests()
        held: list[str] = []
        for job in list(self._open):
            claim = self.claims.look(job.name)
            if claim and claim.ending is None:
                held.append(f"{job.name} ({claim.holder})")
            elif claim and claim.ending == "failed":
                self._open.remove(job)
                reason = f"{claim.note}, by {claim.holder}"
                self._failed_elsewhere.append(FailedJob(job.name, claim.status, reason))
            elif self._is_done(job.run):
                self._open.remove(job)
                if claim:
                    self._elsewhere.setdefault(claim.holder, []).append(job.name)
            elif claim and claim.ending == "finished" and self._may_appear(job):
                continue
            elif not rests and self._take_job(job):
                return _Taken(job, time.monotonic())
        if held and not rests and not self._is_waiting:
            self._is_waiting = True
            say(
                f"nothing left to take, waiting for {first_few(held, MAX_NAMED)}; what a lost "
                "process leaves is taken over"
            )
        return None

    def _take_job(self, job: Job) -> bool:
        """Takes a job; returns whether this process has it now, and it is not done."""
        before = self.claims.newest(job.name)
        if not self.claims.take(job.name):
            return False
        self._open.remove(job)
        if self._is_done(job.run):  # since it was looked at
            self.claims.end(job.name, "finished")
            return False
        if before and not before.ending:
            say(f"{job.name}  taken over from {before.holder}, which is lost")
        return True

    def _may_appear(self, job: Job) -> bool:
        """Whether the files of a job that another machine has finished may still appear here."""
        with suppress(OSError):
            os.listdir(job.run.path)  # makes NFS look again
        now = time.monotonic()
        return now - self._unseen.setdefault(job.name, now) < STALE_SECONDS

    def _others_are_training(self) -> bool:
        """Whether another process has a job, or may be about to take its next one."""
        if self.others_train(self._open):
            self._others_seen = time.monotonic()
        return time.monotonic() - self._others_seen < IDLE_SECONDS

    # --------------------------------------------------------------------------------- the results

    def others_train(self, jobs: Sequence[Job]) -> bool:
        """Whether another process trains one of the jobs at present."""
        self.claims.refresh()
        claims = [self.claims.look(job.name) for job in jobs]
        return any(claim is not None and claim.ending is None for claim in claims)

    def with_elsewhere(self, result: JobsResult) -> JobsResult:
        """Returns the result of all processes, for that of this one."""
        return JobsResult([*result.failed, *self._failed_elsewhere], result.stopped)

    def say_shares(self) -> None:
        """Says which process has trained what, if others took part."""
        if not self._elsewhere:
            return
        say(f"trained here: {_listed(self._here)}")
        for holder, names in self._elsewhere.items():
            say(f"by {holder}: {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({first_few(names, MAX_NAMED)})" if names else "none"
