"""When a checkpoint within an epoch is due, by a clock that only moves where a test moves it.

Also that no state is written which is not finite.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from keras_imnet64.records import RunState
from keras_imnet64.training import checkpoints as module
from keras_imnet64.training.state import list_checkpoints


@pytest.fixture
def hands(monkeypatch):
    """The fake clock; `hands.now` is what it shows."""
    hands = SimpleNamespace(now=5000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


@pytest.fixture
def make(hands, tmp_path):
    """make("10 min") -> what decides about a run's checkpoints; it has no model to read."""
    made = []

    def make(every):
        made.append(module.Checkpoints(tmp_path, None, {}, every))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_minutes_are_those_since_the_newest_checkpoint(make, hands):
    checkpoints = make("10 min")
    hands.now += 599
    assert not checkpoints.is_due(1)
    hands.now += 1
    assert checkpoints.is_due(1)
    checkpoints.restart_interval(1)
    assert not checkpoints.is_due(10**6)
    hands.now += 600
    assert checkpoints.is_due(2)


def test_an_interval_in_minutes_grows_until_writing_takes_a_hundredth_of_it(make, hands):
    checkpoints = make("10 min")
    checkpoints.write_seconds = 30
    hands.now += 2999
    assert not checkpoints.is_due(1)
    hands.now += 1
    assert checkpoints.is_due(1)


def test_steps_are_counted_from_the_newest_checkpoint(make, hands):
    checkpoints = make("500 steps")
    checkpoints.write_seconds = 30  # which matters for minutes alone
    hands.now += 10**6
    assert not checkpoints.is_due(499)
    assert checkpoints.is_due(500)
    checkpoints.restart_interval(500)
    assert not checkpoints.is_due(999)
    assert checkpoints.is_due(1000)


def test_by_epoch_none_is_due_within(make, hands):
    checkpoints = make("epoch")
    hands.now += 10**6
    assert not checkpoints.is_due(10**6)


def test_what_is_not_finite_is_named_and_nothing_is_written(make, tmp_path, monkeypatch):
    checkpoints = make("epoch")
    arrays = {"model/kernel": np.ones(2), "optimizer/momentum": np.array([1.0, np.nan])}
    monkeypatch.setattr(checkpoints, "read", lambda: arrays)
    assert checkpoints.save(RunState(1, 0)) == "optimizer/momentum"
    assert list_checkpoints(tmp_path) == []
    arrays["optimizer/momentum"] = np.zeros(2)
    assert checkpoints.save(RunState(1, 0)) is None
    assert len(list_checkpoints(tmp_path)) == 1
