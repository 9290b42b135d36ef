"""State that is not finite while the loss still is: which step is named, and what is kept."""

import json
import math
import os
import signal

import keras
import pytest
from keras import ops

from keras_imnet64.core.errors import RunFailed, Stopped
from keras_imnet64.runs import Run
from keras_imnet64.training.data import load_data, make_stream
from keras_imnet64.training.finite import find_not_finite
from keras_imnet64.training.fit import fit
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

ADAMW = {"name": "adamw", "learning_rate": 0.003}


class Overwrite(keras.callbacks.Callback):
    """Makes a variable infinite in one step of a run, so many times as the step comes by.

    Args:
        path: the end of the variable's path.
        epoch, step: in which step, from 0 and from 1.
    """

    def __init__(self, path, epoch, step, times=99):
        super().__init__()
        self.path, self.at, self.times = path, (epoch, step), times
        self.steps_seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        iterations = int(ops.convert_to_numpy(self.model.optimizer._iterations))
        self.step = iterations - epoch * self.params["steps"]

    def on_train_batch_begin(self, batch, logs=None):
        self.step += 1
        self.steps_seen.append((self.epoch, self.step))
        if (self.epoch, self.step) == self.at and self.times:
            self.times -= 1
            model = self.model
            variables = model.variables + model.optimizer.variables
            variable = next(v for v in variables if v.path.endswith(self.path))
            variable.assign(ops.full(variable.shape, math.inf, variable.dtype))


class AfterFailure(Overwrite):
    """The same, and a function is called when the first step is begun for the second time."""

    def __init__(self, *arguments, function, **options):
        super().__init__(*arguments, **options)
        self.function = function

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch, logs)
        if self.steps_seen.count((0, 1)) == 2:
            self.function()


def checkpoint_names(folder):
    """Names of the checkpoints, all of which must be finite."""
    paths = list_checkpoints(Run(folder).checkpoints)
    assert not any(find_not_finite(load_checkpoint(path).arrays) for path in paths)
    return [path.name.removesuffix(".safetensors") for path in paths]


def named(folder):
    return json.loads((folder / "not_finite.json").read_text())


def positions(recipe, data_dir, epoch, steps):
    """Of the images of some steps, counted from 1."""
    stream = make_stream(recipe, load_data(recipe, data_dir))
    return [p for step in steps for p in stream.positions(epoch, step - 1).tolist()]


@pytest.mark.parametrize(
    ("path", "named_path", "sections"),
    [
        ("moving_variance", "model/.*moving_variance", {}),  # which training does not use
        ("_average", "optimizer/.*_average", {"train": {"ema": 0.9}}),
        pytest.param(
            # The update of this very step makes a weight NaN too; the loss is so in the next.
            *("_velocity", "model/.*"),
            {"optimizer": ADAMW, "train": {"checkpoint_every": "1 steps"}},
            marks=pytest.mark.backend,
        ),
    ],
    ids=["statistics", "average", "optimizer"],
)
def test_the_first_step_is_found_though_its_loss_is_finite(
    path, named_path, sections, small_recipe, data_dir, tmp_path
):
    recipe = small_recipe(**sections)
    sentence = f"^{named_path} is not finite at step 3 of epoch 1; the same command"
    for _ in range(2 if path == "moving_variance" else 1):  # the same command repeats the step
        with pytest.raises(RunFailed, match=sentence):
            fit(recipe, tmp_path, data_dir=data_dir, callbacks=[Overwrite(path, 0, 3)])
        assert checkpoint_names(tmp_path)[-1] == "epoch-0000-step-0000002"
    assert named(tmp_path) == {
        "epoch": 1,
        "step": 3,
        "split": "train",
        "positions": positions(recipe, data_dir, 0, [3]),
    }


@pytest.mark.backend
def test_a_long_epoch_is_left_soon(small_recipe, data_dir, tmp_path, monkeypatch):
    """The state is looked at every 4 steps of 24; parts of a batch are steps of their own."""
    monkeypatch.setattr("keras_imnet64.training.callbacks.finiteness.STEPS_BETWEEN_CHECKS", 4)
    recipe = small_recipe(train={"epochs": 1, "accumulate_steps": 4, "ema": 0.9})
    overwrite = Overwrite("moving_variance", 0, 11)
    with pytest.raises(RunFailed, match="moving_variance is not finite at step 11 of epoch 1; the"):
        fit(recipe, tmp_path, data_dir=data_dir, callbacks=[overwrite])
    assert max(overwrite.steps_seen) == (0, 13)
    assert overwrite.steps_seen.count((0, 1)) == 2  # one repetition finds the step
    assert checkpoint_names(tmp_path)[-1] == "epoch-0000-step-0000010"
    assert len(named(tmp_path)["positions"]) == 4


def test_statistics_that_overflow_in_the_first_step(small_recipe, data_dir, tmp_path):
    """The variance of such large numbers is infinite; what it divides is 0, and so is finite."""
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1e25, name="scale"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    with pytest.raises(RunFailed, match="norm/moving_variance is not finite at step 1 of"):
        fit(small_recipe(), tmp_path, data_dir=data_dir, model=model)
    assert checkpoint_names(tmp_path) == ["epoch-0000-step-0000000"]
    assert named(tmp_path)["step"] == 1


def test_an_epoch_that_ends_not_finite_is_not_recorded(small_recipe, data_dir, tmp_path):
    """What the optimizer keeps is no part of the weights that would be scored and shipped."""

    class OverwriteAfter(Overwrite):
        def on_train_batch_begin(self, batch, logs=None):
            self.step += 1

        def on_train_batch_end(self, batch, logs=None):
            self.step -= 1
            super().on_train_batch_begin(batch)

    recipe = small_recipe(data={"holdout": 16})
    with pytest.raises(RunFailed, match="_momentum is not finite at step 5 of epoch 2; the same"):
        fit(recipe, tmp_path, data_dir=data_dir, callbacks=[OverwriteAfter("_momentum", 1, 5)])
    assert [row["epoch"] for row in Run(tmp_path).history] == ["1"]
    assert checkpoint_names(tmp_path) == ["epoch-0001-step-0000000", "epoch-0001-step-0000004"]


def test_a_step_that_is_finite_when_it_is_repeated_is_not_named(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(train={"epochs": 1, "validate_every": 0})
    overwrite = Overwrite("moving_variance", 0, 3, times=1)
    sentence = (
        "moving_variance is not finite at one of the steps 1 to 6 of epoch 1; the repeated "
        "steps gave something else"
    )
    with pytest.raises(RunFailed, match=sentence):
        fit(recipe, tmp_path, data_dir=data_dir, callbacks=[overwrite])
    found = named(tmp_path)
    assert (found["first_step"], found["step"]) == (1, 6)
    assert found["positions"] == positions(recipe, data_dir, 0, range(1, 7))
    assert len(fit(recipe, tmp_path, data_dir=data_dir).history) == 1


def test_a_run_that_cannot_be_repeated_says_between_which_steps(small_recipe, data_dir, tmp_path):
    layer = {"layer": "keras.layers.RandomFlip", "mode": "horizontal"}
    overwrite = Overwrite("moving_variance", 0, 3)
    sentence = "at one of the steps 1 to 6 of epoch 1; .*RandomFlip draws its own random numbers"
    with pytest.raises(RunFailed, match=sentence):
        fit(small_recipe(augment=[layer]), tmp_path, data_dir=data_dir, callbacks=[overwrite])
    assert overwrite.steps_seen.count((0, 1)) == 1
    assert checkpoint_names(tmp_path)[-1] == "epoch-0000-step-0000000"
    assert len(named(tmp_path)["positions"]) == 96


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise RuntimeError("crash")


@pytest.mark.parametrize(
    ("function", "error"),
    [(terminate, Stopped), pytest.param(crash, RuntimeError, marks=pytest.mark.slow)],
)
def test_a_search_that_is_interrupted_is_done_again(
    function, error, small_recipe, data_dir, tmp_path
):
    place = "moving_variance", 0, 4
    with pytest.raises(error):
        callback = AfterFailure(*place, function=function)
        fit(small_recipe(), tmp_path, data_dir=data_dir, callbacks=[callback])
    assert not (tmp_path / "not_finite.json").exists()
    checkpoint_names(tmp_path)
    with pytest.raises(RunFailed, match="moving_variance is not finite at step 4 of epoch 1; the"):
        fit(small_recipe(), tmp_path, data_dir=data_dir, callbacks=[Overwrite(*place)])
    assert checkpoint_names(tmp_path)[-1] == "epoch-0000-step-0000003"


def test_rollback_leaves_a_state_that_is_not_finite_behind(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(
        train={"validate_every": 0, "on_nan": "rollback"}, schedule={"name": "constant"}
    )
    overwrite = Overwrite("moving_variance", 1, 3, times=2)
    run = fit(recipe, tmp_path, data_dir=data_dir, callbacks=[overwrite])
    rates = [float(row["learning_rate"]) for row in run.history]
    assert rates == pytest.approx([0.05, 0.05 / 4, 0.05 / 4])
    assert not run.not_finite_file.exists()


def test_rollback_goes_behind_an_update_and_not_just_behind_a_part_of_a_batch(
    small_recipe, data_dir, tmp_path, capsys
):
    """Parts 5 and 7 see the weights of the update in part 4: only one before it changes them."""

    class StopIn(Overwrite):
        def on_train_batch_begin(self, batch, logs=None):
            super().on_train_batch_begin(batch, logs)
            if (self.epoch, self.step) == (0, 5):
                terminate()

    train = {"epochs": 1, "validate_every": 0, "accumulate_steps": 4, "on_nan": "rollback"}
    recipe = small_recipe(train=train)
    with pytest.raises(Stopped):
        fit(recipe, tmp_path, data_dir=data_dir, callbacks=[StopIn("", 9, 9)])
    assert checkpoint_names(tmp_path)[-1] == "epoch-0000-step-0000005"
    fit(recipe, tmp_path, data_dir=data_dir, callbacks=[Overwrite("/gamma", 0, 7, times=1)])
    assert capsys.readouterr().err.replace("\n", "").count("step-0000000.safetensors") == 1
