"""What training says of its first step, which compiles, and of the steps after it."""

import contextlib
import re

import numpy as np
import pytest
from log_stream import make_log

from keras_imnet64.core import activity
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
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
    assert capsys.readouterr().err == ""


def test_later_epochs_compile_nothing(bar, clock, capsys):
    bar.prepare()
    bar.begin(0, 0)
    bar.on_train_batch_end(0, LOGS)
    bar.end()
    bar.say_result("epoch 1/2  loss 2.500")
    bar.begin(1, 0)
    (training,) = activity._screen.activities
    assert training.text == "epoch 2/2 0/4"
    bar.end()
    bar.say_result("epoch 2/2  loss 2.500")
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
    bar.say_result("epoch 1/4  loss 2.500")
    bar.prepare()
    bar.begin(2, 0)
    (compiling,) = activity._screen.activities
    assert compiling.text == "epoch 3/4 0/4  compiling the training step at 64 px"
    bar.close()


# ------------------------------------------------------------------------------- an epoch in a log


@pytest.fixture
def stream(monkeypatch):
    return make_log(monkeypatch)


def train(bar, stream, seconds):
    """Does an epoch of four steps that takes so long; the first step takes no time."""
    bar.prepare()
    bar.begin(0, 0)
    bar.on_train_batch_end(0, LOGS)
    for step in (1, 2, 3):
        stream.wait(seconds / 3)
        bar.on_train_batch_end(step, LOGS)
    bar.end()


def say_result(bar, stream):
    with contextlib.redirect_stderr(stream):
        bar.say_result(RESULT)


RESULT = "epoch 1/2  loss 2.500  top1 25.0"


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (1.5, RESULT),
        (6, RESULT),  # without a dot
        (24, "epoch 1/2 .... loss 2.500  top1 25.0"),
        (54, "epoch 1/2 .......... loss 2.500  top1 25.0"),
    ],
)
def test_an_epoch_is_one_line(bar, stream, seconds, line):
    train(bar, stream, seconds)
    say_result(bar, stream)
    assert stream.getvalue() == f"{line}\n"


@pytest.mark.parametrize("size", [None, 48])
def test_an_epoch_that_compiles_is_one_line_too(stream, size):
    """With the seconds of its first step; the epoch after it compiles nothing."""
    bar = ProgressBar(
        epochs=2,
        steps_per_epoch=4,
        batch_size=8,
        rates_of=lambda epoch: np.full(5, 0.1),
        size_of_epoch=(lambda epoch: size) if size else None,
    )
    bar.prepare()
    stream.wait(1)
    bar.begin(0, 0)
    stream.wait(22)
    bar.on_train_batch_end(0, LOGS)
    for step in (1, 2, 3):
        stream.wait(4)
        bar.on_train_batch_end(step, LOGS)
    bar.end()
    with Activity("scoring shapes"):
        stream.wait(40)
    say_result(bar, stream)
    bar.begin(1, 0)
    bar.on_train_batch_end(0, LOGS)
    bar.end()
    with contextlib.redirect_stderr(stream):
        bar.say_result("epoch 2/2  loss 2.400")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"epoch 1/2 \.{14} loss 2\.500  top1 25\.0  first step 23 s", first)
    assert second == "epoch 2/2  loss 2.400"


def test_a_first_step_that_takes_minutes_is_said_to_compile(bar, stream):
    bar.prepare()
    bar.begin(0, 0)
    stream.wait(70)
    bar.on_train_batch_end(0, LOGS)
    bar.end()
    say_result(bar, stream)
    first, compiling, last = stream.getvalue().splitlines()
    assert first.startswith("epoch 1/2 ....")
    assert compiling.startswith("epoch 1/2 0/4  compiling the training step .")
    assert last == f"{RESULT}  first step 70 s"


def test_scoring_adds_to_the_dots_unless_it_takes_a_minute(bar, stream):
    train(bar, stream, 24)
    with Activity("scoring shapes"):
        stream.wait(55)
        assert stream.getvalue() == "epoch 1/2 ..............."
        stream.wait(20)
    say_result(bar, stream)
    first, *others = stream.getvalue().splitlines()
    assert first.startswith("epoch 1/2 ...............")
    assert others[0].startswith("scoring shapes ... 60 s")
    assert others[1:] == [RESULT]


def test_a_message_ends_the_dots(bar, stream):
    train(bar, stream, 24)
    with contextlib.redirect_stderr(stream):
        say("the disk is full")
    say_result(bar, stream)
    assert stream.getvalue().splitlines() == ["epoch 1/2 ....", "the disk is full", RESULT]


def test_a_long_epoch_has_figures_meanwhile_and_is_never_silent_for_ten_seconds(bar, stream):
    bar.prepare()
    bar.begin(0, 0)
    bar.on_train_batch_end(0, LOGS)
    written, silent, begun = "", 0.0, {}
    for second in range(3000):
        if second == 30:
            bar.on_train_batch_end(1, LOGS)
        stream.wait(1)
        silent = 0.0 if stream.getvalue() != written else silent + 1
        assert silent < 10
        written = stream.getvalue()
        begun.setdefault(written.count("\n"), second + 1)
    assert list(begun.values()) == [1, 60, 120, 240, 480, 960, 1560, 2160, 2760]
    bar.end()
    say_result(bar, stream)
    first, *figures, last = stream.getvalue().splitlines()
    assert (first, last) == ("epoch 1/2 ...........", RESULT)
    shown = r"epoch 1/2 2/4  loss 2\.500 top1 25\.0 .* left 1:00, run 3:00 \.+"
    assert all(re.fullmatch(shown, line) for line in figures)
