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
        "sizes": [[0.0, 8], [0.5, 16]],
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
    """Within a step, between steps, within a save, and between what follows it.

    What is left in the folder is the same under JAX, where the next test goes on from it.
    """
    kills = ["before replace 1", "during step 5", "before replace 4", "step 5", "after replace 5"]
    check_kills(small_recipe(**EVERYTHING, optimizer=ADAMW), kills, data_dir, tmp_path)


@pytest.mark.backend
@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="test_finetune has nearly all of it under TensorFlow"
)
@pytest.mark.skipif(ON_MACOS, reason="its libraries do not outlive a fork")
def test_two_kills_of_a_run_with_slow_weights_and_the_mean_of_its_last_epochs(
    small_recipe, data_dir, tmp_path
):
    """The first kill is in a small epoch, the second in the last, when the mean has one of its two.

    Stochastic depth draws in the first pass, and `remat` computes with the same draws again. At the
    end statistics are measured anew.
    """
    recipe = small_recipe(**STRIKES_BACK)
    check_kills(recipe, ["during step 7", "step 20"], data_dir, tmp_path)
    [newest] = list_checkpoints(tmp_path / "run" / "checkpoints")[-1:]
    paths = set(load_checkpoint(newest).arrays)
    assert {"optimizer/logits_kernel_slow", "last_epochs/logits/kernel"} <= paths


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


def check_kills(recipe, kills, data_dir, tmp_path):
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
    assert len(steps_gone_on_from(child.stderr)) >= len(kills) - 2, child.stderr
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir)
    same_end(straight, Run(tmp_path / "run"))
    assert not list((tmp_path / "run").rglob("*.writing"))


# ------------------------------------------------------------------------------------- other ends


@pytest.mark.backend
def test_a_checkpoint_within_an_epoch_is_gone_on_from(small_recipe, data_dir, tmp_path, capsys):
    """An error at step 6 of 6; the last steps are done again, under other circumstances."""
    recipe = small_recipe(model={"dropout": 0.2}, train={"epochs": 2, "ema": 0.9})
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir)

    def crash():
        raise RuntimeError("crash")

    often = small_recipe(
        model={"dropout": 0.2},
        data={"in_memory": "never"},
        train={"epochs": 2, "ema": 0.9, "checkpoint_every": "2 steps"},
    )
    with pytest.raises(RuntimeError, match="crash"):
        fit(often, tmp_path / "run", data_dir=data_dir, callbacks=[CallAt(6, crash)])
    capsys.readouterr()
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    [(epoch, step)] = steps_gone_on_from(capsys.readouterr().err)
    assert epoch == 0 and 2 <= step < 6  # one that falls due while another is written comes later
    same_end(straight, run)


@pytest.fixture(scope="module")
def four_steps(small_recipe, data_dir, tmp_path_factory):
    """A recipe of two epochs of two steps, with a checkpoint for each, and a run of it."""
    recipe = small_recipe(
        data={"steps_per_epoch": 2, "holdout": 16},
        train={"epochs": 2, "checkpoint_every": "1 steps"},
    )
    return recipe, fit(recipe, tmp_path_factory.mktemp("straight") / "run", data_dir=data_dir)


ONE_RUN = [(2, 5, 9)]
ALL_CALLS = pytest.param([(number,) for number in range(1, 25)], marks=pytest.mark.slow)


@pytest.mark.parametrize("runs", [ONE_RUN, ALL_CALLS], ids=["some", "all"])
@pytest.mark.parametrize("name", ["replace", "fsync", "open", "write"])
def test_whatever_fails_while_a_run_writes_it_goes_on_later(
    name, runs, four_steps, data_dir, tmp_path, monkeypatch
):
    """A call fails, and another where the run goes on; the last time it ends with the same bits."""
    recipe, straight = four_steps
    failures = 0
    for numbers in runs:
        left = list(numbers)
        while left:
            folder = tmp_path / str(left[0])
            while left and not Run(folder).is_finished:
                with monkeypatch.context() as patched:
                    fail(name, left.pop(0), folder, patched)
                    try:
                        fit(recipe, folder, data_dir=data_dir)
                    except (RunFailed, UserError) as error:
                        failures += 1
                        assert "\n" not in str(error)
            if not Run(folder).is_finished:
                fit(recipe, folder, data_dir=data_dir)
            same_end(straight, Run(folder))
    assert failures


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


def test_a_checkpoint_that_fails_between_epochs_is_told_and_training_goes_on(
    small_recipe, data_dir, tmp_path, monkeypatch, capsys
):
    def full(folder, arrays, run_state):
        if run_state.step:
            raise OSError(28, "No space left on device")
        return save_checkpoint(folder, arrays, run_state)

    monkeypatch.setattr("keras_imnet64.training.checkpoints.save_checkpoint", full)
    recipe = small_recipe(train={"epochs": 1, "checkpoint_every": "2 steps"})
    fit(recipe, tmp_path / "run", data_dir=data_dir)
    assert "no checkpoint could be written ([Errno 28] No space" in capsys.readouterr().err


def test_a_folder_that_becomes_read_only_in_mid_run(
    small_recipe, data_dir, tmp_path, monkeypatch, capsys
):
    """In mid-epoch it is told, at the end it is the end; then the same command goes on."""
    recipe = small_recipe(data={"holdout": 16}, train={"epochs": 2, "checkpoint_every": "2 steps"})
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:

        def lock_up():
            for name in ("open", "mkdir", "replace"):
                fail(name, 1, folder, patched, errno.EROFS, times=math.inf)

        with pytest.raises(RunFailed, match=r"(?s)^[^\n]*Read-only.*before are intact[^\n]*$"):
            fit(recipe, folder, data_dir=data_dir, callbacks=[CallAt(7, lock_up)])
    assert "no checkpoint could be written ([Errno 30] Read-only" in capsys.readouterr().err
    run = fit(recipe, folder, data_dir=data_dir)
    assert steps_gone_on_from(capsys.readouterr().err)[0][0] == 1
    same_end(fit(recipe, tmp_path / "straight", data_dir=data_dir), run)


def test_checkpoints_that_are_deleted_under_our_feet_are_written_again(
    small_recipe, data_dir, tmp_path
):
    recipe = small_recipe(train={"epochs": 2})
    checkpoints = tmp_path / "run" / "checkpoints"
    delete = CallAt(3, lambda: shutil.rmtree(checkpoints))
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[delete])
    assert len(list_checkpoints(checkpoints)) == 2
    same_end(fit(recipe, tmp_path / "straight", data_dir=data_dir), run)


@pytest.mark.parametrize("later", [False, True], ids=["gone", "later"])
def test_best_of_which_the_checkpoint_does_not_know_is_chosen_anew(
    later, small_recipe, data_dir, tmp_path, capsys
):
    """Gone; or already of the epoch in which the run was killed, behind which no checkpoint is."""
    recipe = small_recipe(data={"holdout": 16})

    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[CallAt(8, stop)])
    best = tmp_path / "run/best.keras"
    best.unlink()
    if later:
        shutil.copy(fit(recipe, tmp_path / "other", data_dir=data_dir).model, best)
    capsys.readouterr()
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    what = "is of an epoch later than 1, which is now repeated" if later else "of epoch 1 is gone"
    assert f"{what}: the best epoch is chosen" in capsys.readouterr().err.replace("\n", " ")
    assert run.metrics["best.keras"]["epoch"] in (2, 3)
    assert model_info(best)["epoch"] == run.metrics["best.keras"]["epoch"]


@pytest.fixture(scope="module")
def crashed(small_recipe, data_dir, tmp_path_factory):
    """The folder of a run that ended in its first step."""

    def crash():
        raise RuntimeError("crash")

    folder = tmp_path_factory.mktemp("crashed") / "run"
    with pytest.raises(RuntimeError):
        fit(small_recipe(), folder, data_dir=data_dir, callbacks=[CallAt(1, crash)])
    return folder


@pytest.mark.parametrize(
    ("sections", "goes_on"),
    [
        ({"data": {"in_memory": "never"}}, True),
        ({"train": {"checkpoint_every": "1 min", "on_nan": "rollback"}}, True),
        ({"optimizer": {"learning_rate": 0.04}}, False),
        ({"train": {"epochs": 4}}, False),
    ],
)
def test_a_run_goes_on_with_a_recipe_that_differs_harmlessly(
    sections, goes_on, crashed, small_recipe, data_dir, tmp_path
):
    shutil.copytree(crashed, tmp_path / "run")
    if goes_on:
        fit(small_recipe(**sections), tmp_path / "run", data_dir=data_dir)
    else:
        with pytest.raises(UserError, match=r"learning_rate: 0.05 -> 0.04|epochs: 3 -> 4"):
            fit(small_recipe(**sections), tmp_path / "run", data_dir=data_dir)


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
def test_the_state_before_a_step_that_is_not_finite_is_kept(small_recipe, data_dir, tmp_path):
    """Step 1 is finite; its update throws the weights to 1e30, so step 2 is not."""
    recipe = small_recipe(optimizer={"learning_rate": 1e30}, schedule={"name": "constant"})
    for _ in range(2):  # the same command repeats the step
        with pytest.raises(RunFailed, match="not finite at step 2 of epoch 1"):
            fit(recipe, tmp_path / "run", data_dir=data_dir)
        newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
        assert newest.name == "epoch-0000-step-0000001.safetensors"
        assert find_not_finite(load_checkpoint(newest).arrays) is None
    found = json.loads((tmp_path / "run/not_finite.json").read_text())
    assert (found["epoch"], found["step"], len(found["positions"])) == (1, 2, 16)


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
def test_rollback_goes_back_one_checkpoint_with_a_smaller_rate(
    small_recipe, data_dir, tmp_path, capsys
):
    recipe = small_recipe(
        schedule={"name": "constant"}, train={"on_nan": "rollback", "rollback_factor": 0.25}
    )
    poison = Poison(1, 3, times=2)
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[poison])
    rates = [float(row["learning_rate"]) for row in run.history]
    assert rates == pytest.approx([0.05, 0.05 / 16, 0.05 / 16])
    assert capsys.readouterr().err.count("rolling back; the learning rate is multiplied by") == 2
    newest = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    assert newest.run_state.rollbacks == (Rollback(epoch=2, step=4),) * 2


@pytest.mark.backend
def test_rollback_takes_back_slow_weights_and_the_mean_of_the_last_epochs(
    small_recipe, data_dir, tmp_path
):
    """As if the second and third epochs had begun with the smaller rate, and no number gone."""

    class HalveTheRate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.learning_rate_scale.assign(0.5)

    recipe = small_recipe(
        optimizer={"lookahead": {"steps": 4}},
        train={"average_last": 3, "on_nan": "rollback", "rollback_factor": 0.5},
    )
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir, callbacks=[HalveTheRate()])
    poison = Poison(2, 0, times=1)  # when the mean of two epochs is in the newest checkpoint
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[poison])
    ends = [load_checkpoint(list_checkpoints(r.checkpoints)[-1]) for r in (straight, run)]
    assert ends[1].run_state.rollbacks == (Rollback(epoch=3, step=1),)
    assert ends[1].arrays["optimizer/iteration"] == 18
    first, second = (end.arrays for end in ends)
    assert {p.split("/")[0] for p in first} >= {"model", "optimizer", "last_epochs"}
    assert any(p.endswith("_slow") for p in first)
    for path in first | second:
        np.testing.assert_array_equal(first[path], second[path], err_msg=path)
    for a, b in zip(weights(straight.model), weights(run.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rollback_goes_behind_the_update_that_did_it(small_recipe, data_dir, tmp_path):
    """The newest checkpoint has the weights that give no number; a smaller rate needs an older."""
    recipe = {"optimizer": {"learning_rate": 1e30}, "schedule": {"name": "constant"}}
    with pytest.raises(RunFailed, match="not finite at step 2 of epoch 1"):
        fit(small_recipe(**recipe), tmp_path / "run", data_dir=data_dir)
    recipe["train"] = {"on_nan": "rollback", "rollback_factor": 1e-32, "epochs": 3}
    run = fit(small_recipe(**recipe), tmp_path / "run", data_dir=data_dir)
    assert [float(row["learning_rate"]) for row in run.history] == pytest.approx([0.01] * 3)


def test_weights_that_are_not_finite_are_no_beginning(small_recipe, data_dir, tmp_path):
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    model.trainable_variables[0].assign(model.trainable_variables[0] * float("nan"))
    with pytest.raises(UserError, match="the initial weights are not finite"):
        fit(small_recipe(), tmp_path / "run", data_dir=data_dir, model=model)


def test_a_run_that_was_killed_before_its_first_checkpoint_still_takes_its_weights(
    small_recipe, data_dir, tmp_path, monkeypatch
):
    first = fit(small_recipe(train={"epochs": 1}), tmp_path / "first", data_dir=data_dir)
    recipe = small_recipe(train={"epochs": 1, "initial_weights": str(first.model)})
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir)
    with monkeypatch.context() as patched:
        fail("replace", 3, tmp_path / "run", patched)  # after recipe and environment
        with pytest.raises(RunFailed):
            fit(recipe, tmp_path / "run", data_dir=data_dir)
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    same_end(straight, fit(recipe, tmp_path / "run", data_dir=data_dir))


def test_rollback_ends_after_so_many_times(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(train={"on_nan": "rollback", "max_rollbacks": 2})
    with pytest.raises(RunFailed, match="rollbacks so far: 2"):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[Poison(1, 3, times=99)])


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
    small_recipe, data_dir, tmp_path, capsys
):
    recipe = small_recipe()
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    old, new = list_checkpoints(run.checkpoints)
    weights = run.model.read_bytes()
    new.write_bytes(new.read_bytes()[:-1])
    run.metrics_file.unlink()  # as if the end had not been reached
    run.model.unlink()
    fit(recipe, tmp_path / "run", data_dir=data_dir)
    text = capsys.readouterr().err.replace("\n", "")
    assert f"skipped: the checkpoint {new} is damaged" in text
    assert f"resuming from {old}" in text
    assert len(weights) == len(run.model.read_bytes())


# ------------------------------------------------------------------------------- between backends


def test_a_run_begun_under_one_backend_goes_on_under_the_other(small_recipe, data_dir, tmp_path):
    """From a common checkpoint, float32 and no dropout, 50 steps agree in loss to 1e-3."""
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
        fit(recipe, tmp_path / "tensorflow", data_dir=data_dir, callbacks=[CallAt(5, stop)])
    shutil.copytree(tmp_path / "tensorflow", tmp_path / "tensorflow, jax")
    child = subprocess.run(
        [sys.executable, "-c", UNDER_JAX, tmp_path, data_dir, file],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    for name in ("tensorflow", "jax, tensorflow"):
        fit(recipe, tmp_path / name, data_dir=data_dir)
    for first, second in (("tensorflow", "jax"), ("jax", "tensorflow")):
        same, other = Run(tmp_path / first), Run(tmp_path / f"{first}, {second}")
        for run, backend in ((same, first), (other, second)):
            processes = run.environment["processes"]
            assert [p["backend"] for p in processes] == [first, backend]
            assert [p["from_epoch"] for p in processes] == [0, 1]
        losses = [[float(row["loss"]) for row in run.history] for run in (same, other)]
        assert len(losses[0]) == 11 and losses[0][0] == losses[1][0]
        np.testing.assert_allclose(*losses, rtol=1e-3)


UNDER_JAX = """
import os, shutil, signal, sys
from pathlib import Path
import keras
from keras_imnet64.core.errors import Stopped
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.training.finite import find_not_finite
from keras_imnet64.training.fit import fit

class Stop(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 4:
            os.kill(os.getpid(), signal.SIGTERM)

folder, data_dir, file = map(Path, sys.argv[1:])
recipe = load_recipe(file)
try:
    fit(recipe, folder / "jax", data_dir=data_dir, callbacks=[Stop()])
except Stopped as stopped:
    assert "after epoch 1" in str(stopped), stopped
shutil.copytree(folder / "jax", folder / "jax, tensorflow")
for name in ("jax", "tensorflow, jax"):
    fit(recipe, folder / name, data_dir=data_dir)
"""
