"""Jobs in child processes: their shares of the machine, their ends, and how they are stopped."""

import os
import re
import signal

import pytest
import stand_in_fit

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.jobs import preflight, running
from keras_imnet64.jobs.preflight import PreflightReply, PreflightRequest
from keras_imnet64.jobs.running import (
    FailedJob,
    Job,
    JobsResult,
    raise_unfinished,
    run_jobs,
)
from keras_imnet64.jobs.shares import MachineShare, share_machine
from keras_imnet64.runs import Run


class JobList:
    """Jobs that are known from the start, and that no other process trains."""

    def __init__(self, jobs):
        self.waiting = list(jobs)
        self.lost = set()
        self.ended = {}

    def next_job(self):
        return self.waiting.pop(0) if self.waiting else None

    def may_have_more(self):
        return False

    def may_continue(self, job, row):
        return True

    def is_lost(self, job):
        return job.name in self.lost

    def job_ended(self, job, ending, failure):
        self.ended[job.name] = ending


@pytest.fixture
def job(tmp_path, monkeypatch):
    """job(name, scores, ending) -> a job whose process is the stand-in."""
    plans = {}
    stand_in_fit.use(monkeypatch, lambda folder: plans[folder.name])

    def job(name, scores, ending="finished", pause=0.0):
        plans[name] = {"scores": scores, "ending": ending, "pause": pause}
        folder = tmp_path / name
        folder.mkdir()
        return Job(Run(folder), ("--out", str(folder)), tmp_path / f"{name}.log", f"it is {name}")

    return job


def test_jobs_run_on_a_free_share_each_and_a_failure_stops_no_other(job, capsys):
    jobs = [job("a", [1.0, 2.0]), job("b", [1.0], "failed"), job("c", [3.0])]
    result = run_jobs(JobList(jobs), [MachineShare(), MachineShare()])
    assert [failed.name for failed in result.failed] == ["b"] and not result.stopped
    assert "the loss is not finite" in result.failed[0].reason
    assert [j.run.is_finished for j in jobs] == [True, False, True]
    said = capsys.readouterr().err
    assert re.search(r"a  started, process \d+: it is a$", said, re.MULTILINE)
    assert "a  epoch 2  loss 1.500  val_top1 2.00" in said and "c  finished" in said
    assert said.index("c  started") > min(said.index("a  finished"), said.index("b  failed"))


class Pruning(JobList):
    """Stops a job after an epoch whose score is below 10."""

    def may_continue(self, job, row):
        return float(row["val_top1"]) >= 10


def test_a_source_can_stop_a_job_after_an_epoch(job):
    source = Pruning([job("bad", [20.0, 5.0, *[30.0] * 1000], pause=0.05), job("good", [11.0])])
    result = run_jobs(source, [MachineShare()])
    assert result == JobsResult([], stopped=False)
    assert source.ended == {"bad": "stopped", "good": "finished"}


def test_a_job_that_another_machine_has_taken_is_killed(job, capsys):
    class Losing(JobList):
        def may_continue(self, job, row):
            self.lost.add("a")
            return True

    source = Losing([job("a", [1.0] * 1000, pause=0.05), job("b", [2.0])])
    assert run_jobs(source, [MachineShare()]) == JobsResult([], stopped=False)
    assert source.ended == {"a": "lost", "b": "finished"}
    assert "a  given up: another process took this one for dead" in capsys.readouterr().err


def test_a_signal_stops_the_jobs_and_starts_no_other(job):
    class Signalled(JobList):
        def may_continue(self, job, row):
            if row["epoch"] == "1":  # a second signal would end this process at once
                os.kill(os.getpid(), signal.SIGTERM)
            return True

    source = Signalled([job("a", [1.0] * 1000, pause=0.2), job("b", [1.0])])
    result = run_jobs(source, [MachineShare()])
    assert result == JobsResult([], stopped=True) and source.ended == {"a": "stopped"}


def test_what_is_not_finished_is_one_sentence():
    def raising(failed, stopped=False):
        raise_unfinished(JobsResult(failed, stopped), "cells", 9, "the same command")

    raising([])
    with pytest.raises(Stopped, match="the cells' states are saved, and the same command resumes"):
        raising([FailedJob("a", 1, "no memory")], stopped=True)
    with pytest.raises(RunFailed, match=r"2 of 9 cells failed \(a, b\), .* with: no memory"):
        raising([FailedJob("a", 1, "no memory"), FailedJob("b", 2, "no such key")])
    with pytest.raises(UserError) as caught:
        raising([FailedJob("b", 2, "no such key")])
    assert caught.type is UserError
    many = [FailedJob(f"cell-{n}", 1, "no memory") for n in range(500)]
    with pytest.raises(RunFailed, match="and 480 more"):
        raising(many)


def test_a_failure_is_explained_by_the_last_process_of_the_job(tmp_path):
    log = tmp_path / "log"
    log.write_text("Error: stopped in epoch 3\n")
    process = running._Process(
        job=Job(Run(tmp_path / "branch-00"), (), log),
        child=None,
        share=None,
        log_start=log.stat().st_size,
        num_epochs_logged=0,
    )
    with log.open("a") as file:
        file.write("Traceback\nImportError: libcudnn\n")
    assert process.failure(1) == FailedJob("branch-00", 1, f"ImportError: libcudnn ({log})")
    assert "signal 9 (Killed)" in process.failure(-9).reason
    assert process.failure(0) is None


def test_the_gpus_to_share_are_those_asked_for(small_recipe, data_dir, monkeypatch):
    """By their indices among all: a backend counts those that it has taken from 0."""
    six = Devices("tensorflow", "gpu", tuple(f"GPU:{index}" for index in range(6)))
    two = Devices("tensorflow", "gpu", ("GPU:0", "GPU:1"))  # what those two are called when taken
    monkeypatch.setattr(preflight, "take_devices", lambda devices, _: two if devices else six)
    request = PreflightRequest(
        recipes=[small_recipe().to_toml()],
        devices="2,5",
        data_dir=str(data_dir),
    )
    assert preflight.reply_to(request) == PreflightReply([2, 5])


def test_what_fit_would_refuse_is_refused_before_any_run(small_recipe, data_dir):
    groups = [{"variables": "no_such_layer", "learning_rate_factor": 2.0}]
    recipe = small_recipe(optimizer={"groups": groups})
    request = PreflightRequest(recipes=[recipe.to_toml()], data_dir=str(data_dir))
    reply = preflight.reply_to(request)
    assert reply.error is not None and "no_such_layer" in reply.error


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert share_machine(1, "0,3", [0, 3])[0].options == ("--devices", "0,3")

    def shares(num_jobs, gpus):
        found = share_machine(num_jobs, None, gpus)
        return [share.environment["CUDA_VISIBLE_DEVICES"] for share in found]

    assert shares(2, [0, 1, 2, 5]) == ["0,2", "1,5"]
    assert shares(2, [0, 1, 2]) == ["0,2", "1"]
    assert shares(3, range(6)) == ["0,3", "1,4", "2,5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,6,5,4,3,2")
    assert shares(2, [0, 1]) == ["7", "6"]
    with pytest.raises(UserError, match="at most the 2 devices; received 3"):
        share_machine(3, None, [0, 1])


def test_cores_are_shared_out_where_there_are_no_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4}, raising=False)
    assert [share.cores for share in share_machine(2, None, [])] == [{0, 2, 4}, {1, 3}]
    assert [share.cores for share in share_machine(6, None, [])] == [None] * 6
