"""What `training_seconds` counts, by a clock that only moves where a test moves it."""

from types import SimpleNamespace

import keras
import pytest

from keras_imnet64.records import RunState
from keras_imnet64.training import clock as module
from keras_imnet64.training import fit as fit_module
from keras_imnet64.training.callbacks.validation import Validation
from keras_imnet64.training.clock import TrainingClock, in_tenths
from keras_imnet64.training.fit import fit
from keras_imnet64.training.state import list_checkpoints, load_checkpoint
from keras_imnet64.training.trainer import Trainer


@pytest.fixture
def hands(monkeypatch):
    """The fake clock; `hands.now` is what it shows."""
    hands = SimpleNamespace(now=5000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


class Passing(keras.callbacks.Callback):
    """Lets ten seconds pass with each step; fails in a step, counted from 1 over all epochs."""

    def __init__(self, hands, fails_at=None):
        super().__init__()
        self.hands, self.left = hands, fails_at

    def on_train_batch_begin(self, batch, logs=None):
        self.hands.now += 10
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def let_pass(monkeypatch, hands, owner, name, seconds):
    """Lets time pass in each call of a function."""
    function = getattr(owner, name)

    def slow(*arguments, **options):
        hands.now += seconds
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, slow)


def test_the_clock_runs_from_its_first_start_on(hands):
    clock = TrainingClock()
    assert clock.seconds is None
    clock.start(RunState(0, 0))
    hands.now += 7
    clock.start(RunState(1, 0, training_seconds=100.0))  # after a rollback: it runs already
    assert clock.seconds == 7


def test_a_process_adds_to_those_before_it(hands):
    clock = TrainingClock()
    clock.start(RunState(2, 3, training_seconds=100.0))
    hands.now += 7
    assert clock.seconds == 107


def test_the_total_is_unknown_if_an_earlier_process_did_not_count(hands):
    clock = TrainingClock()
    clock.start(RunState(2, 3))
    assert clock.seconds is None
    assert (in_tenths(None), in_tenths(1.26)) == (None, 1.3)


def test_scores_of_epochs_and_writing_the_model_count_and_final_scores_do_not(
    hands, small_recipe, data_dir, tmp_path, monkeypatch
):
    """Two epochs of 6 steps of 10 s and a score of 100 s; two files of 1,000 s, the best's too."""
    let_pass(monkeypatch, hands, Validation, "score", 100)
    let_pass(monkeypatch, hands, Trainer, "ship_copy", 1000)
    let_pass(monkeypatch, hands, fit_module, "build_setup", 1e5)
    let_pass(monkeypatch, hands, fit_module, "score_file", 1e6)
    recipe = small_recipe(train={"epochs": 2})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[Passing(hands)])
    assert [row["training_seconds"] for row in run.history] == ["160.0", "320.0"]
    assert run.metrics["training_seconds"] == 1320


def test_a_run_that_failed_and_goes_on_counts_both_processes(
    hands, small_recipe, data_dir, tmp_path
):
    """The first fails at its ninth step; its newest checkpoint is that before its eighth."""
    train = {"epochs": 2, "validate_every": 0, "checkpoint_every": "1 steps"}
    recipe = small_recipe(train=train)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[Passing(hands, 9)])
    (*_, newest) = list_checkpoints(tmp_path / "run" / "checkpoints")
    state = load_checkpoint(newest).run_state
    steps_done = 6 * state.epoch + state.step
    # A checkpoint within an epoch is written before the step's callbacks let time pass.
    assert 6 <= steps_done <= 8 and state.training_seconds == 10 * steps_done
    hands.now += 1e6  # until somebody starts it again
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[Passing(hands)])
    assert run.metrics["training_seconds"] == 10 * 12
    assert run.history[0]["training_seconds"] == "60.0"
