"""Training all branches of a recipe by one command, in processes, and again where one failed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SPECTRAL
from preflight_in_process import check_in_this_process
from same_end import same_end, weights
from untrained_run import write_run

from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.core.files import write_json
from keras_imnet64.jobs import preflight, running
from keras_imnet64.jobs.machine import Machine
from keras_imnet64.jobs.running import FailedJob, JobsResult
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.runs import Run, lock
from keras_imnet64.spectral import training
from keras_imnet64.spectral.branches import bands_of, branch_folder, branch_recipe, branch_runs
from keras_imnet64.spectral.ensemble import ensemble
from keras_imnet64.spectral.training import fit_branches
from keras_imnet64.training.fit import fit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def begin(data_dir, tmp_path):
    """begin(recipe, *options) -> a process of `fit` into tmp_path / "run"."""

    def begin(recipe, *options):
        file = tmp_path / "recipe.toml"
        file.write_text(recipe.to_toml())
        command = ["cli.py", "fit", "--recipe", file, "--data-dir", data_dir, "--json"]
        return subprocess.Popen(
            [sys.executable, *command, "--out", tmp_path / "run", *options],
            cwd=ROOT,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def check_here(monkeypatch):
    """check_here() makes the check before training run in this process."""

    return lambda: check_in_this_process(monkeypatch)


def test_all_branches_are_trained_and_a_failed_one_is_trained_again(
    small_recipe, data_dir, tmp_path, begin, run, check_here, monkeypatch
):
    recipe = small_recipe(model=SPECTRAL, train={"epochs": 1})
    branches = [branch_folder(tmp_path / "run", band) for band in range(4)]
    branches[0].parent.mkdir()
    branches[0].touch()  # in the way
    for band in (2, 3):
        write_run(branches[band], branch_recipe(recipe, band), band, data_dir)
    child = begin(recipe)
    while not (tmp_path / "run" / "branch-00.log").exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)
    file = tmp_path / "recipe.toml"
    file.write_text("")  # all are of the recipe as it was at the start
    _, text = child.communicate()
    assert child.returncode == 2  # the user's mistake, and nothing else, is in the way
    assert "1 of 4 branches failed (branch-00), the first with: the run folder" in text
    assert text.count("finished before") == 2
    assert text.count(" started, process ") == 2 and text.count("  finished\n") == 1
    assert "branch-01  epoch 1  loss " in text  # which waited until branch-00 had failed
    assert load_recipe(branches[1] / "recipe.toml").train == recipe.train
    alone = fit(branch_recipe(recipe, 1), tmp_path / "alone", data_dir=data_dir)
    for a, b in zip(weights(alone.model), weights(branches[1] / "model.keras"), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)  # on one core there: not to the bit

    trained = []

    def train(source, shares):
        for job in iter(source.next_job, None):
            trained.append(job.name)
            write_run(job.run.path, branch_recipe(recipe, 0), 0, data_dir)
        return JobsResult([], stopped=False)

    branches[0].unlink()
    file.write_text(recipe.to_toml())
    check_here()
    monkeypatch.setattr(training, "run_jobs", train)
    command = ["fit", "--recipe", file, "--out", tmp_path / "run", "--data-dir", data_dir]
    status, out, text = run(*command, "--json")
    assert status == 0, text
    assert trained == ["branch-00"]
    assert text.count("finished before") == 3
    assert list(json.loads(out)) == ["run", *(f"branch-{band:02}" for band in range(4))]

    other = small_recipe(model=SPECTRAL, train={"epochs": 2})
    with pytest.raises(UserError, match=r"was begun with another recipe \(train.epochs: 1 -> 2"):
        fit_branches(other, tmp_path / "run", Machine(data_dir=data_dir))
    (tmp_path / "run" / "recipe.toml").unlink()  # as where branches of other machines are put
    with pytest.raises(UserError, match=r"branch-00 was begun with another recipe"):
        fit_branches(other, tmp_path / "run", Machine(data_dir=data_dir))


@pytest.mark.slow
def test_two_processes_share_out_the_branches_and_one_is_killed(
    small_recipe, data_dir, tmp_path, begin
):
    """The other one resumes what it leaves; every branch ends with the bits of a run alone."""
    recipe = small_recipe(model=SPECTRAL, train={"epochs": 12, "checkpoint_every": "2 steps"})
    first = begin(recipe)
    while not (branch_folder(tmp_path / "run", 0) / "history.csv").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    second = begin(recipe)
    while not branch_folder(tmp_path / "run", 1).exists():
        assert second.poll() is None, second.stderr.read()
        time.sleep(0.02)
    first.kill()
    first.communicate()
    out, text = second.communicate()
    assert second.returncode == 0, text
    assert list(json.loads(out)) == ["run", *(f"branch-{band:02}" for band in range(4))]
    for band in range(4):
        alone = fit(branch_recipe(recipe, band), tmp_path / f"alone-{band}", data_dir=data_dir)
        same_end(alone, Run(branch_folder(tmp_path / "run", band)))


def test_a_signal_stops_a_branch_with_its_state_saved(
    small_recipe, data_dir, tmp_path, check_here, monkeypatch
):
    say, said = running.say, []

    def say_and_stop(text):
        say(text)
        said.append(text)
        if "branch-00  epoch 1 " in text:
            os.kill(os.getpid(), signal.SIGTERM)

    check_here()
    monkeypatch.setattr(running, "say", say_and_stop)
    recipe = small_recipe(model=SPECTRAL, train={"epochs": 10**6})
    with pytest.raises(Stopped, match="the branches' states are saved"):
        fit_branches(recipe, tmp_path / "run", Machine(data_dir=data_dir))
    (number,) = re.findall(r" started, process (\d+)", "\n".join(said))
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)
    assert "the state is saved" in (tmp_path / "run" / "branch-00.log").read_text()
    assert not branch_folder(tmp_path / "run", 1).exists()


@pytest.mark.slow
def test_a_signal_stops_all_branches_with_their_states_saved(small_recipe, tmp_path, begin):
    recipe = small_recipe(model=SPECTRAL, train={"epochs": 10**6})
    child = begin(recipe, "--jobs", "2")
    folders = [branch_folder(tmp_path / "run", band) for band in (0, 1)]
    while not all((folder / "history.csv").exists() for folder in folders):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, text = child.communicate(timeout=60)
    assert child.returncode == 75, text
    assert "the branches' states are saved" in text
    for number in text.split(" started, process ")[1:]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(number.split()[0]), 0)
    assert not branch_folder(tmp_path / "run", 2).exists()


def test_branches_stop_when_the_parent_process_is_killed(small_recipe, tmp_path, begin):
    child = begin(small_recipe(model=SPECTRAL, train={"epochs": 10**6}))
    run = Run(branch_folder(tmp_path / "run", 0))
    while not run.history_file.exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    child.kill()
    child.communicate()
    log, deadline = tmp_path / "run" / "branch-00.log", time.monotonic() + 60
    while "Error: stopped" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "the state is saved" in log.read_text()


DEEPER = SPECTRAL | {"base": SPECTRAL["base"] | {"depth": 8}}
PREFLIGHT_ERRORS = {
    "network": (
        {"model": SPECTRAL | {"base": SPECTRAL["base"] | {"depth": 7}}},
        {},
        r"depth must be .*received 7",
    ),
    "data": (
        {"model": DEEPER, "data": {"dataset": "imagenet_resized/32x32"}},
        {},
        "data prepare imagenet_resized/32x32",
    ),
    "steps": (
        {"model": SPECTRAL, "data": {"steps_per_epoch": 7}},
        {},
        "steps_per_epoch must be at most 6",
    ),
    "devices": ({"model": SPECTRAL}, {"devices": "99"}, '"99" asks for more than the'),
    "devices_of_jobs": (
        {"model": SPECTRAL},
        {"devices": "99", "jobs": 2},
        '"99" asks for more than the',
    ),
}


@pytest.mark.parametrize("case", PREFLIGHT_ERRORS)
def test_an_error_before_training_leaves_the_folder_as_it_is(
    case, small_recipe, tmp_path, data_dir, check_here
):
    sections, options, sentence = PREFLIGHT_ERRORS[case]
    check_here()
    earlier = branch_folder(tmp_path / "run", 0)
    earlier.mkdir(parents=True)
    with pytest.raises(UserError, match=sentence):
        machine = Machine(data_dir=data_dir, **options)
        fit_branches(small_recipe(**sections), tmp_path / "run", machine, fresh=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "run", earlier]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_left_alone(fresh, small_recipe, tmp_path):
    file = tmp_path / "thesis.tex"
    file.touch()
    for path, sentence in ((tmp_path, "is not empty and holds no run"), (file, "is a file")):
        with pytest.raises(UserError, match=sentence):
            fit_branches(small_recipe(model=SPECTRAL), path, Machine(), fresh=fresh)
    assert file.exists()


def test_one_process_at_a_time_trains_branches(small_recipe, tmp_path, data_dir, check_here):
    check_here()
    branch_folder(tmp_path, 0).mkdir()
    machine = Machine(data_dir=data_dir)
    for fresh in (False, True):
        with lock(Run(tmp_path)), pytest.raises(UserError, match="another process is working in"):
            fit_branches(small_recipe(model=SPECTRAL), tmp_path, machine, fresh=fresh)


def test_finished_branches_need_neither_data_nor_devices(small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(model=SPECTRAL)
    for band in bands_of(recipe):
        run = Run(branch_folder(tmp_path, band))
        run.path.mkdir()
        run.recipe_file.write_text(branch_recipe(recipe, band).to_toml())
        score = {"top1": 1.0, "top5": 5.0, "loss": 2.0, "count": 40}
        images = {"dataset": "imagenet_resized/16x16", "split": "validation", "verified": False}
        content = {"recipe": "small", "backend": "jax", "selected_on": "none", **images}
        write_json(run.metrics_file, content | {"seconds": 1.0, "model.keras": score})
    monkeypatch.setattr(preflight, "run_child", None)
    fitted = fit_branches(recipe, tmp_path, Machine(data_dir=tmp_path / "gone"))
    assert [score["top1"] for score in fitted.scores.values()] == [1.0] * 4


def test_fresh_keeps_the_earlier_branches(
    small_recipe, data_dir, tmp_path, monkeypatch, check_here
):
    recipe = small_recipe(model=SPECTRAL, train={"epochs": 1})
    write_run(branch_folder(tmp_path / "run", 0), branch_recipe(recipe, 0), 0, data_dir)
    check_here()

    def fail_all(source, shares):
        names = [job.name for job in iter(source.next_job, None)]
        return JobsResult([FailedJob(n, -signal.SIGKILL, "killed") for n in names], stopped=False)

    monkeypatch.setattr(training, "run_jobs", fail_all)
    with pytest.raises(RunFailed, match="without --fresh trains the branches"):
        fit_branches(recipe, tmp_path / "run", Machine(data_dir=data_dir), fresh=True)
    assert (branch_folder(tmp_path / "run.1", 0) / "model.keras").exists()
    assert not branch_folder(tmp_path / "run", 0).exists()


def test_branches_do_not_lie_in_an_ordinary_run(small_recipe, data_dir, tmp_path):
    write_run(tmp_path / "run", small_recipe(), 0, data_dir)
    for fresh in (False, True):
        with pytest.raises(UserError, match="holds an ordinary run"):
            fit_branches(small_recipe(model=SPECTRAL), tmp_path / "run", Machine(), fresh=fresh)
    with pytest.raises(UserError, match="name the folder that holds branches"):
        ensemble(tmp_path / "run", data_dir=data_dir)


def test_one_branch_does_not_lie_in_an_ordinary_run(small_recipe, data_dir, tmp_path, run):
    write_run(tmp_path / "run", small_recipe(), 0, data_dir)
    file = tmp_path / "recipe.toml"
    file.write_text(small_recipe(model=SPECTRAL).to_toml())
    command = ["fit", "--recipe", file, "--branch", 0, "--out"]
    status, _, error = run(*command, tmp_path / "run")
    assert status == 2 and "holds an ordinary run" in error
    branch_folder(tmp_path / "other", 1).mkdir(parents=True)
    other = small_recipe(model=SPECTRAL, train={"epochs": 2})
    (tmp_path / "other" / "recipe.toml").write_text(other.to_toml())
    status, _, error = run(*command, tmp_path / "other")
    assert status == 2 and "was begun with another recipe (train.epochs: 2 -> 3)" in error
    status, _, error = run("evaluate", tmp_path / "other")
    assert status == 2 and "are not joined yet: run `ensemble` on it" in error


def test_jobs_are_refused_for_a_single_run(run, tmp_path):
    status, _, error = run("fit", "--recipe", "demo", "--jobs", "2", "--out", tmp_path / "run")
    assert status == 2 and "--jobs is for training all branches" in error


def test_branches_stand_in_the_order_of_their_bands(tmp_path):
    for name in ("branch-100", "branch-99", "branch-02", "branch-11", "branch-11.1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").touch()
    names = [run.path.name for run in branch_runs(tmp_path)]
    assert names == ["branch-02", "branch-11", "branch-99", "branch-100"]
