"""What training says of its first step, which compiles, and of the steps after it."""

import numpy as np
import pytest

from keras_imnet64.core import activity
from keras_imnet64.training.callbacks.progress_bar import ProgressBar

LOGS = {"loss": 2.5, "top1": 0.25, "top5": 0.5}


@pytest.fixture
def clock(monkeypatch):
    """clock["now"] is what activities take for the time."""
    clock = {"now": 1000.0}
    monkeypatch.setattr(activity.time, "monotonic", lambda: clock["now"])
    return clock


@pytest.fixture
def bar():
    rates = np.linspace(0.1, 0.5, 5)
    bar = ProgressBar(epochs=2, steps_per_epoch=4, batch_size=8, rates_of=lambda epoch: rates)
    yield bar
    bar.close()


def test_the_first_step_is_said_to_compile_until_it_ends(bar, clock, capsys):
    bar.prepare()
    assert activity.is_active()
    bar.begin(0, 0)
    (compiling,) = activity._screen.activities
    assert compiling.text == "epoch 1/2 0/4  compiling the training step"
    clock["now"] += 95
    bar.on_train_batch_end(0, LOGS)
    (training,) = activity._screen.activities
    assert training.text == "epoch 1/2 1/4  loss 2.500 top1 25.0 top5 50.0 lr 0.2"
    assert "epoch 1/2 1/4" in capsys.readouterr().err.splitlines()[-1]


def test_a_log_tells_how_long_the_first_step_took(bar, clock, capsys):
    bar.prepare()
    bar.begin(0, 0)
    clock["now"] += 95
    bar.on_train_batch_end(0, LOGS)
    bar.on_train_batch_end(1, LOGS)
    lines = [line for line in capsys.readouterr().err.splitlines() if "took" in line]
    assert [line[line.index("the first") :] for line in lines] == ["the first step took 95 s"]


def test_later_epochs_compile_nothing(bar, clock, capsys):
    bar.prepare()
    bar.begin(0, 0)
    bar.on_train_batch_end(0, LOGS)
    bar.end()
    bar.begin(1, 0)
    (training,) = activity._screen.activities
    assert training.text == "epoch 2/2 0/4"
    bar.end()
    assert not activity.is_active()


def test_a_run_that_fails_in_its_first_step_ends_the_activity(bar):
    bar.prepare()
    bar.begin(0, 0)
    bar.close()
    assert not activity.is_active()


def test_each_size_compiles_and_what_is_left_counts_by_area(clock, capsys):
    """Of 4 epochs the last two have four times the area: 1 + 4 + 4 epochs of now are left."""
    bar = ProgressBar(
        epochs=4,
        steps_per_epoch=4,
        batch_size=8,
        rates_of=lambda epoch: np.full(5, 0.1),
        size_of_epoch=lambda epoch: 32 if epoch < 2 else 64,
    )
    bar.prepare()
    bar.begin(0, 0)
    (compiling,) = activity._screen.activities
    assert compiling.text == "epoch 1/4 0/4  compiling the training step at 32 px"
    bar.on_train_batch_end(0, LOGS)
    clock["now"] += 10
    bar.on_train_batch_end(1, LOGS)
    (training,) = activity._screen.activities
    assert training.text.endswith("left 0:20, run 6:20")  # 2 steps, and 36 more
    bar.end()
    bar.prepare()
    bar.begin(2, 0)
    (compiling,) = activity._screen.activities
    assert compiling.text == "epoch 3/4 0/4  compiling the training step at 64 px"
    bar.close()
