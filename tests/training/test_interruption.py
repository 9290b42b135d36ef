"""Interrupted equals uninterrupted: kills, failing disks, damaged checkpoints, no number."""

import builtins
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ON_MACOS
from hypothesis import given, settings
from hypothesis import strategies as st
from killed import FOUR_BLOCKS
from same_end import same_end, weights

from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.davit import VARIANTS
from keras_imnet64.models.info import model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.records import Rollback, RunState
from keras_imnet64.runs import Run
from keras_imnet64.training.finite import find_not_finite
from keras_imnet64.training.fit import fit
from keras_imnet64.training.state import (
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)

WRN = {"dropout": 0.2}
DAVIT = {"name": "davit_tiny", "drop_path_rate": 0.3, "stem": "small"}
EVERYTHING = {  # that draws numbers, keeps state or decides by it
    "model": WRN,
    "data": {"mirror": "random", "holdout": 16, "steps_per_epoch": 4},
    "augment": [
        {"op": "pad_crop", "padding": 2},
        {"op": "random_erasing"},
        {"op": "mixup_or_cutmix", "probability": 0.5},
    ],
    "schedule": {"name": "plateau", "patience": 1, "factor": 0.5, "min_delta": 0.5},
    "train": {
        "epochs": 4,
        "ema": 0.9,
        "accumulate_steps": 2,
        "dtype": "mixed_bfloat16",
        "early_stopping": 4,
        "checkpoint_every": "3 steps",
    },
}
STRIKES_BACK = EVERYTHING | {  # after "ResNet strikes back", and other state beside it
    "model": {
        "name": "small_resnet",
        "widths": [16],
        "blocks": [2],
        "stem_stride": 1,
        "drop_path_rate": 0.4,
    },
    "data": EVERYTHING["data"] | {"repeats": 3},
    "loss": {
        "name": "binary_cross_entropy",
        "label_smoothing": 0.1,
        "target_threshold": 0.2,
        "l2": 1e-4,
    },
    "optimizer": {
        "name": "lamb",
        "learning_rate": 0.005,
        "weight_decay": 0.02,
        "lookahead": {"steps": 3, "factor": 0.5},
        "groups": [
            {"variables": "/(gamma|beta)$", "learning_rate_factor": 4.0},
            {"variables": "^logits/", "weight_decay_factor": 0.0},
        ],
    },
    "schedule": {"name": "triangular", "peak_fraction": 0.25},
    "train": {
        "epochs": 4,
        "average_last": 2,
        "accumulate_steps": 2,
        "dtype": "mixed_bfloat16",
        "remat": True,
        "remeasure_statistics": 2,
        "checkpoint_every": "3 steps",
    },
}
SGD = {"name": "sgd", "learning_rate": 0.05}
ADAMW = {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.05, "clip_norm": 1.0}
MUON = {"name": "muon", "learning_rate": 0.003}


class CallAt(keras.callbacks.Callback):
    """Calls a function at the beginning of a step, counted over all epochs of a process."""

    def __init__(self, step, function):
        super().__init__()
        self.left, self.function = step, function

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.function()


def steps_gone_on_from(text):
    """(epoch, step) of each checkpoint that a log says training went on from."""
    found = re.findall(r"resuming from .*?epoch-(\d+)-step-(\d+)", text.replace("\n", ""))
    return [(int(epoch), int(step)) for epoch, step in found]


# ------------------------------------------------------------------------------------------- kills


@pytest.mark.skipif(ON_MACOS, reason="its libraries do not outlive a fork")
def test_kills_end_with_the_bits_of_a_straight_run(small_recipe, data_dir, tmp_path):
    """Between steps, within a save, and between what follows it; `test_finetune` has within a step.

    What is left in the folder is the same under JAX, where the next test goes on from it.
    """
    kills = ["before replace 4", "step 5", "after replace 5"]
    check_kills(small_recipe(**EVERYTHING, optimizer=ADAMW), kills, data_dir, tmp_path)


@pytest.mark.backend
@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="test_finetune has nearly all of it under TensorFlow"
)
@pytest.mark.skipif(ON_MACOS, reason="its libraries do not outlive a fork")
def test_a_kill_of_a_run_with_slow_weights_and_the_mean_of_its_last_epochs(
    small_recipe, data_dir, tmp_path
):
    """The kill is in the last epoch, when the mean has one of its two.

    Stochastic depth draws in the first pass, and `remat` computes with the same draws again. At the
    end statistics are measured anew.
    """
    recipe = small_recipe(**STRIKES_BACK)
    check_kills(recipe, ["step 27"], data_dir, tmp_path)
    [newest] = list_checkpoints(tmp_path / "run" / "checkpoints")[-1:]
    paths = set(load_checkpoint(newest).arrays)
    assert {"optimizer/logits_kernel_slow", "last_epochs/logits/kernel"} <= paths


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.skipif(ON_MACOS, reason="its libraries do not outlive a fork")
def test_kills_in_epochs_of_two_sizes(small_recipe, data_dir, tmp_path):
    """The first within an epoch of smaller images, the second in one of the full size."""
    train = STRIKES_BACK["train"] | {"sizes": [[0.0, 8], [0.5, 16]]}
    recipe = small_recipe(**STRIKES_BACK | {"train": train})
    check_kills(recipe, ["during step 7", "step 20"], data_dir, tmp_path)


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.skipif(ON_MACOS, reason="its libraries do not outlive a fork")
@pytest.mark.parametrize(
    ("model", "optimizer"),
    [(WRN, SGD), (WRN, ADAMW), (WRN, MUON), (DAVIT, ADAMW)],
    ids=["sgd", "adamw", "muon", "davit"],
)
@pytest.mark.parametrize("seed", range(3))
def test_kills_anywhere(seed, model, optimizer, small_recipe, data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "davit_tiny", FOUR_BLOCKS)
    rng = np.random.default_rng(seed)
    kinds = ["step", "during step", *(f"{w} {f}" for w in ("before", "after") for f in CALLS)]
    kills = [f"{rng.choice(kinds)} {rng.integers(2, 6)}" for _ in range(5)]
    recipe = small_recipe(**EVERYTHING | {"optimizer": optimizer, "model": model})
    check_kills(recipe, kills, data_dir, tmp_path)


CALLS = ("replace", "fsync", "unlink")


def check_kills(recipe, kills, data_dir, tmp_path, straight=None):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml())
    child = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed.py"), tmp_path / "run", data_dir, file]
        + kills,
        capture_output=True,
        text=True,
        check=True,
    )
    ends = json.loads(child.stdout)
    assert ends == [-signal.SIGKILL] * len(kills) + [0], child.stderr
    places = steps_gone_on_from(child.stderr)
    assert len(places) >= max(1, len(kills) - 2) and places[-1] > (0, 0), child.stderr
    straight = straight or fit(recipe, tmp_path / "straight", data_dir=data_dir)
    same_end(straight, Run(tmp_path / "run"))
    assert not list((tmp_path / "run").rglob("*.writing"))


# ------------------------------------------------------------------------------------- other ends


EIGHT_STEPS = {
    "model": {"dropout": 0.2},
    "data": {"steps_per_epoch": 4, "holdout": 16},
    "train": {"epochs": 2, "ema": 0.9, "checkpoint_every": "2 steps"},
}


@pytest.fixture(scope="module")
def eight_steps(small_recipe, data_dir, tmp_path_factory):
    """A recipe of two epochs of four steps, with a checkpoint for every other, and a run of it."""
    recipe = small_recipe(**EIGHT_STEPS)
    return recipe, fit(recipe, tmp_path_factory.mktemp("straight") / "run", data_dir=data_dir)


def crash():
    raise RuntimeError("crash")


def test_a_run_resumes_within_an_epoch_with_a_recipe_that_differs_harmlessly(
    eight_steps, small_recipe, data_dir, tmp_path, capsys
):
    """An error at step 4 of 4; the last steps are done again, under other circumstances.

    Under JAX runs resume within an epoch after kills, above.
    """
    _, straight = eight_steps
    other = small_recipe(
        **EIGHT_STEPS
        | {
            "data": EIGHT_STEPS["data"] | {"in_memory": "never"},
            "train": EIGHT_STEPS["train"] | {"on_nan": "rollback"},
        }
    )
    with pytest.raises(RuntimeError, match="crash"):
        fit(other, tmp_path / "run", data_dir=data_dir, callbacks=[CallAt(4, crash)])
    for sections, difference in (
        ({"optimizer": {"learning_rate": 0.04}}, "learning_rate: 0.05 -> 0.04"),
        ({"train": EIGHT_STEPS["train"] | {"epochs": 4}}, "epochs: 2 -> 4"),
    ):
        with pytest.raises(UserError, match=difference):
            fit(small_recipe(**EIGHT_STEPS | sections), tmp_path / "run", data_dir=data_dir)
    capsys.readouterr()
    train = EIGHT_STEPS["train"] | {"checkpoint_every": "1 min"}
    rarely = small_recipe(**EIGHT_STEPS | {"train": train})
    run = fit(rarely, tmp_path / "run", data_dir=data_dir)
    [(epoch, step)] = steps_gone_on_from(capsys.readouterr().err)
    assert epoch == 0 and 2 <= step < 4  # one that falls due while another is written comes later
    same_end(straight, run)


# A file of the beginning, the first checkpoint, best.keras, and what is written after it.
EACH_ONCE = [[("open", 2), ("fsync", 5), ("replace", 5), ("write", 6)]]


def all_calls(name):
    return pytest.param([[(name, number)] for number in range(1, 25)], marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "runs",
    [EACH_ONCE, *map(all_calls, ("replace", "fsync", "open", "write"))],
    ids=["some", "replace", "fsync", "open", "write"],
)
def test_whatever_fails_while_a_run_writes_it_goes_on_later(
    runs, eight_steps, data_dir, tmp_path, monkeypatch
):
    """A call fails, and another where the run goes on; the last time it ends with the same bits."""
    recipe, straight = eight_steps
    failures = []
    for number, left in enumerate(runs):
        folder = tmp_path / str(number)
        for name, call in left:
            if Run(folder).is_finished:
                break
            with monkeypatch.context() as patched:
                failing = fail(name, call, folder, patched)
                try:
                    fit(recipe, folder, data_dir=data_dir)
                except (RunFailed, UserError) as error:
                    assert "\n" not in str(error)
                failures.append(failing.calls >= call)
        if not Run(folder).is_finished:
            fit(recipe, folder, data_dir=data_dir)
        same_end(straight, Run(folder))
    assert any(failures) and (runs is not EACH_ONCE or failures == [True] * 4)


class fail:
    """Let the N-th call of a function on what lies in a folder end in an error of the system.

    Args:
        name: "open", for writing; "write", half-way, into a file that was opened so; or a function
            of `os`.
        times: how many calls end so, the N-th being the first.
    """

    def __init__(self, name, number, folder, monkeypatch, error=errno.ENOSPC, times=1):
        self.calls, self.folder = 0, str(folder)
        where, called = (builtins, "open") if name in ("open", "write") else (os, name)
        function = getattr(where, called)

        def failing(file, *arguments, **options):
            if self._is_ours(file, arguments):
                self.calls += 1
                if number <= self.calls < number + times:
                    if name == "write":
                        return FillsUp(function(file, *arguments, **options), error)
                    raise OSError(error, os.strerror(error), file)
            return function(file, *arguments, **options)

        monkeypatch.setattr(where, called, failing)

    def _is_ours(self, file, arguments):
        if isinstance(file, int):
            path = os.readlink(f"/proc/self/fd/{file}") if not ON_MACOS else self.folder
            return path.startswith(self.folder)
        is_written = not arguments or not isinstance(arguments[0], str) or "r" not in arguments[0]
        return str(file).startswith(self.folder) and is_written


class FillsUp:
    """A file that takes the first half of what is written."""

    def __init__(self, file, error):
        self.file, self.error = file, error

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        raise OSError(self.error, os.strerror(self.error), self.file.name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_folder_that_becomes_read_only_in_mid_run(
    eight_steps, data_dir, tmp_path, monkeypatch, capsys
):
    """In mid-epoch it is told, at the end it is the end; then the same command goes on."""
    recipe, straight = eight_steps
    folder, steps = tmp_path / "run", []
    with monkeypatch.context() as patched:

        def lock_up():
            for name in ("open", "mkdir", "replace"):
                fail(name, 1, folder, patched, errno.EROFS, times=math.inf)

        callbacks = [CallAt(5, lock_up), CallAt(8, lambda: steps.append(8))]
        with pytest.raises(RunFailed, match=r"(?s)^[^\n]*Read-only.*before are intact[^\n]*$"):
            fit(recipe, folder, data_dir=data_dir, callbacks=callbacks)
    assert steps == [8]  # training goes on to the end of the epoch
    assert "no checkpoint could be written ([Errno 30] Read-only" in capsys.readouterr().err
    run = fit(recipe, folder, data_dir=data_dir)
    assert steps_gone_on_from(capsys.readouterr().err) == [(1, 0)]
    same_end(straight, run)


def test_checkpoints_that_are_deleted_under_our_feet_are_written_again(
    eight_steps, small_recipe, data_dir, tmp_path
):
    """At a step at which none is being written."""
    train = EIGHT_STEPS["train"] | {"checkpoint_every": "1 min"}
    checkpoints = tmp_path / "run" / "checkpoints"
    delete = CallAt(3, lambda: shutil.rmtree(checkpoints))
    recipe = small_recipe(**EIGHT_STEPS | {"train": train})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[delete])
    assert len(list_checkpoints(checkpoints)) == 2
    same_end(eight_steps[1], run)


@pytest.fixture(scope="module")
def stopped(eight_steps, data_dir, tmp_path_factory):
    """The folder of a run that was stopped in its second epoch, as by a scheduler."""

    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stopped, match="in epoch 2 after step 2"):
        fit(eight_steps[0], folder, data_dir=data_dir, callbacks=[CallAt(6, stop)])
    return folder


def test_a_run_that_was_stopped_ends_with_the_bits_of_a_straight_one(
    eight_steps, stopped, data_dir, tmp_path, monkeypatch, capsys
):
    recipe, straight = eight_steps
    folder = shutil.copytree(stopped, tmp_path / "run")
    (folder / "checkpoints" / ".half.writing").write_bytes(b"killed here")
    assert not (folder / "metrics.json").exists()
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    run = fit(recipe, folder, data_dir=data_dir)
    assert "setting NCCL_ALGO is Ring, was not set: last bits may" in capsys.readouterr().err
    assert run.environment["processes"][-1]["settings"]["NCCL_ALGO"] == "Ring"
    # Half a cosine from 0.05 over 8 updates, at the last one of each epoch: updates 3 and 7.
    rates = [0.025 * (1 + math.cos(math.pi * update / 8)) for update in (3, 7)]
    assert [float(r["learning_rate"]) for r in run.history] == pytest.approx(rates, rel=1e-4)
    same_end(straight, run)
    assert [p["from_step"] for p in run.environment["processes"]] == [0, 2]
    assert not list(run.path.rglob("*.writing"))


@pytest.mark.parametrize("later", [False, True], ids=["gone", "later"])
def test_best_of_which_the_checkpoint_does_not_know_is_chosen_anew(
    later, eight_steps, stopped, data_dir, tmp_path, capsys
):
    """Gone; or already of the epoch in which the run was killed, behind which no checkpoint is."""
    recipe, straight = eight_steps
    best = shutil.copytree(stopped, tmp_path / "run") / "best.keras"
    assert model_info(best)["epoch"] == 1
    best.unlink()
    if later:
        shutil.copy(straight.model, best)
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    what = "is of an epoch later than 1, which is now repeated" if later else "of epoch 1 is gone"
    assert f"{what}: the best epoch is chosen" in capsys.readouterr().err.replace("\n", " ")
    assert run.metrics["best.keras"]["epoch"] == model_info(best)["epoch"] == 2


# ----------------------------------------------------------------------------------- not a number


class Poison(keras.callbacks.Callback):
    """Makes a weight infinite before a step, the first so many times that it comes by."""

    def __init__(self, epoch, step, times):
        super().__init__()
        self.at, self.times = (epoch, step), times

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, first = epoch, self.model.optimizer.iterations
        self.step = int(keras.ops.convert_to_numpy(first)) % 6

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, self.step) == self.at and self.times:
            self.times -= 1
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            variable = self.model.trainable_variables[0]
            variable.assign(variable * float("inf"))
        self.step += 1


@pytest.mark.backend
def test_the_step_that_made_a_weight_infinite_is_the_one_that_is_named(
    small_recipe, data_dir, tmp_path, monkeypatch
):
    """Under JAX no thread beside the steps brings the state into the model meanwhile.

    What it brought would be deleted by the step that is running.
    """
    threads, sync = set(), getattr(keras.Model, "jax_state_sync", None)

    def noted(model):
        threads.add(threading.current_thread())
        sync(model)

    monkeypatch.setattr(keras.Model, "jax_state_sync", noted, raising=False)
    poison = Poison(1, 3, times=99)
    with pytest.raises(RunFailed, match="not finite at step 4 of epoch 2"):
        fit(small_recipe(), tmp_path / "run", data_dir=data_dir, callbacks=[poison])
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert newest.name == "epoch-0001-step-0000003.safetensors"
    assert threads == ({threading.main_thread()} if keras.backend.backend() == "jax" else set())


@pytest.mark.backend
@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="under TensorFlow other runs roll back, below"
)
def test_rollback_takes_back_slow_weights_and_the_mean_of_the_last_epochs(
    small_recipe, data_dir, tmp_path, capsys
):
    """As if the second and third epochs had begun with the smaller rate, and no number gone."""

    class LowerTheRate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.learning_rate_scale.assign(0.25**2)

    recipe = small_recipe(
        optimizer={"lookahead": {"steps": 4}},
        train={
            "average_last": 3,
            "validate_every": 0,
            "on_nan": "rollback",
            "rollback_factor": 0.25,
        },
    )
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir, callbacks=[LowerTheRate()])
    poison = Poison(2, 0, times=2)  # when the mean of two epochs is in the newest checkpoint
    capsys.readouterr()
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[poison])
    assert capsys.readouterr().err.count("rolling back; the learning rate is multiplied by") == 2
    ends = [load_checkpoint(list_checkpoints(r.checkpoints)[-1]) for r in (straight, run)]
    assert ends[1].run_state.rollbacks == (Rollback(epoch=3, step=1),) * 2
    assert ends[1].arrays["optimizer/iteration"] == 18
    first, second = (end.arrays for end in ends)
    assert {p.split("/")[0] for p in first} >= {"model", "optimizer", "last_epochs"}
    assert any(p.endswith("_slow") for p in first)
    for path in first | second:
        np.testing.assert_array_equal(first[path], second[path], err_msg=path)
    for a, b in zip(weights(straight.model), weights(run.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_state_before_a_step_that_is_not_finite_is_kept_and_rollback_goes_behind_it(
    small_recipe, data_dir, tmp_path
):
    """Step 1 is finite; its update throws the weights to 1e30, so step 2 is not.

    The newest checkpoint has these weights; a smaller rate needs an older.
    """
    recipe = {"optimizer": {"learning_rate": 1e30}, "schedule": {"name": "constant"}}
    train = {"epochs": 3, "validate_every": 0}
    with pytest.raises(RunFailed, match="not finite at step 2 of epoch 1"):
        fit(small_recipe(**recipe, train=train), tmp_path / "run", data_dir=data_dir)
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert newest.name == "epoch-0000-step-0000001.safetensors"
    assert find_not_finite(load_checkpoint(newest).arrays) is None
    found = json.loads((tmp_path / "run/not_finite.json").read_text())
    assert (found["epoch"], found["step"], len(found["positions"])) == (1, 2, 16)
    train |= {"on_nan": "rollback", "rollback_factor": 1e-32}
    run = fit(small_recipe(**recipe, train=train), tmp_path / "run", data_dir=data_dir)
    assert [float(row["learning_rate"]) for row in run.history] == pytest.approx([0.01] * 3)


def test_weights_that_are_not_finite_are_no_beginning(small_recipe, data_dir, tmp_path):
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    model.trainable_variables[0].assign(model.trainable_variables[0] * float("nan"))
    with pytest.raises(UserError, match="the initial weights are not finite"):
        fit(small_recipe(), tmp_path / "run", data_dir=data_dir, model=model)


def test_a_run_that_was_killed_before_its_first_checkpoint_still_takes_its_weights(
    eight_steps, small_recipe, data_dir, tmp_path, monkeypatch
):
    """A rate of nearly nothing leaves the weights as they are in the file."""
    file = eight_steps[1].model
    recipe = small_recipe(
        optimizer={"learning_rate": 1e-30},
        loss={"l2": 0.0},
        data={"steps_per_epoch": 1},
        train={"epochs": 1, "validate_every": 0, "initial_weights": str(file)},
    )
    with monkeypatch.context() as patched:
        fail("replace", 3, tmp_path / "run", patched)  # after recipe and environment
        with pytest.raises(RunFailed):
            fit(recipe, tmp_path / "run", data_dir=data_dir)
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    before, after = (
        {v.path: keras.ops.convert_to_numpy(v) for v in load_model(path).trainable_variables}
        for path in (file, run.model)
    )
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value, err_msg=path)


def test_rollback_ends_after_so_many_times(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(train={"on_nan": "rollback", "max_rollbacks": 2})
    with pytest.raises(RunFailed, match="rollbacks so far: 2"):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[Poison(0, 3, times=99)])


# ---------------------------------------------------------------------------- damaged checkpoints


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two checkpoints and one of another recipe, and their content by name."""
    folder, rng = tmp_path_factory.mktemp("pair"), np.random.default_rng(0)
    contents = {}
    for epoch, step in ((1, 0), (2, 3)):
        arrays = {"model/a": rng.random((3, 5), "float32"), "b": np.array([epoch], "int32")}
        run_state = RunState(epoch, step, recipe={"train.seed": 0})
        path = save_checkpoint(folder, arrays, run_state)
        contents[path.name] = (path.read_bytes(), arrays, run_state)
    arrays = {"model/a": np.zeros((3, 5), "float32"), "b": np.array([2], "int32")}
    foreign = save_checkpoint(folder, arrays, RunState(2, 3, recipe={"train.seed": 1}))
    return contents, foreign.read_bytes()


def test_a_checkpoint_is_of_a_recipe_that_states_a_default_more(tmp_path):
    """The options of an augmentation step stand in a list, where no key is missing."""
    crop = {"op": "pad_crop", "fill": "reflect"}
    for earlier, later in ((crop, crop | {"padding": 4}), (crop | {"padding": 4}, crop)):
        state = RunState(1, 0, recipe={"augment": [earlier], "train.seed": 0})
        save_checkpoint(tmp_path, {"b": np.zeros(1, "float32")}, state)
        assert newest_checkpoint(tmp_path, {"augment": [later]}) is not None
        for other in ([], [later, later], [later | {"fill": "zero"}]):
            with pytest.raises(UserError, match="is of another recipe"):
                newest_checkpoint(tmp_path, {"augment": other})


DAMAGES = st.one_of(
    st.tuples(st.just("truncated"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("flipped"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("zeroed"), st.floats(0, 1), st.integers(1, 64)),
    st.tuples(st.sampled_from(["swapped", "foreign", "grown"]), st.just(0.0), st.just(0)),
)


@given(DAMAGES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_damaged_checkpoint_is_never_loaded_wrong(pair, tmp_path_factory, damage, both):
    contents, foreign = pair
    folder = tmp_path_factory.mktemp("damaged")
    (old, new), whole = sorted(contents), {name: c[0] for name, c in contents.items()}
    damaged = {new: damaged_by(damage, whole[new], whole[old], foreign)}
    if both:
        damaged[old] = damaged_by(damage, whole[old], whole[new], foreign)
    for name in contents:
        (folder / name).write_bytes(damaged.get(name, whole[name]))
    try:
        found = newest_checkpoint(folder, {"train.seed": 0})
    except UserError as error:
        assert both and "no checkpoint in" in str(error)
        assert {path.name for path in folder.iterdir()} == set(contents)  # and so it stays
        return
    _, arrays, run_state = contents[found.path.name]
    assert found.run_state == run_state and found.arrays.keys() == arrays.keys()
    assert all(np.array_equal(found.arrays[key], arrays[key]) for key in arrays)
    if found.path.name == old:
        assert (folder / f"{new}.damaged").exists()


def damaged_by(damage, content, other, foreign):
    kind, place, number = damage
    place = min(int(place * len(content)), len(content) - 1)
    if kind == "truncated":
        return content[:place]
    if kind == "flipped":
        return content[:place] + bytes([content[place] ^ 1 << number]) + content[place + 1 :]
    if kind == "zeroed":
        return content[:place] + bytes(number) + content[place + number :]
    return {"swapped": other, "foreign": foreign, "grown": content + b"\0"}[kind]


def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    eight_steps, data_dir, tmp_path, capsys
):
    recipe, straight = eight_steps
    run = Run(shutil.copytree(straight.path, tmp_path / "run"))
    old, new = list_checkpoints(run.checkpoints)
    new.write_bytes(new.read_bytes()[:-1])
    run.metrics_file.unlink()  # as if the end had not been reached
    run.model.unlink()
    same_end(straight, fit(recipe, tmp_path / "run", data_dir=data_dir))
    text = capsys.readouterr().err.replace("\n", "")
    assert f"skipped: the checkpoint {new} is damaged" in text
    assert f"resuming from {old}" in text


# ------------------------------------------------------------------------------- between backends


@pytest.mark.slow
def test_a_run_begun_under_one_backend_goes_on_under_the_other(small_recipe, data_dir, tmp_path):
    """From a common checkpoint, float32 and no dropout, 50 steps agree in loss to 1e-3.

    The first epoch is TensorFlow's, the next five are JAX's, and the last five TensorFlow's again.
    In test_earlier_versions JAX goes on from TensorFlow's file, and writes one of the same layout.
    """
    recipe = small_recipe(
        data={"steps_per_epoch": 5},
        optimizer={"learning_rate": 0.01},
        schedule={"name": "constant"},
        train={"epochs": 11, "validate_every": 0},
    )
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml())

    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="after epoch 1"):
        fit(recipe, tmp_path / "both", data_dir=data_dir, callbacks=[CallAt(5, stop)])
    shutil.copytree(tmp_path / "both", tmp_path / "alone")
    child = subprocess.run(
        [sys.executable, "-c", UNDER_JAX, tmp_path / "both", data_dir, file],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    alone, both = (fit(recipe, tmp_path / name, data_dir=data_dir) for name in ("alone", "both"))
    processes = both.environment["processes"]
    assert [p["backend"] for p in processes] == ["tensorflow", "jax", "tensorflow"]
    assert [p["from_epoch"] for p in processes] == [0, 1, 6]
    losses = [[float(row["loss"]) for row in run.history] for run in (alone, both)]
    assert len(losses[0]) == 11 and losses[0][0] == losses[1][0]
    assert losses[0][1:6] != losses[1][1:6]  # to the bit: they are two programs
    np.testing.assert_allclose(*losses, rtol=1e-3)


UNDER_JAX = """
import os, signal, sys
from pathlib import Path
import keras
from keras_imnet64.core.errors import Stopped
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.training.fit import fit

class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (5, 4):
            os.kill(os.getpid(), signal.SIGTERM)

folder, data_dir, file = map(Path, sys.argv[1:])
try:
    fit(load_recipe(file), folder, data_dir=data_dir, callbacks=[Stop()])
except Stopped as stopped:
    assert "after epoch 6" in str(stopped), stopped
else:
    raise AssertionError("not stopped")
"""
