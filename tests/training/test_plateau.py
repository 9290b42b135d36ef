"""The plateau schedule, epoch by epoch: which losses count as gains, and what they do to the rate.

`test_fit` has a whole run, `test_interruption` one that is killed.
"""

from dataclasses import replace

import pytest

from keras_imnet64.records import EpochRow, Plateau, RunState
from keras_imnet64.training import optim
from keras_imnet64.training.callbacks.plateau import PlateauSchedule

ROW = EpochRow(1, 6, 0.1, 2.0, 10.0, 50.0, 0.0, 10.0, 50.0, 100.0, 1.0)


def scheduled(is_enabled=True, **options):
    rates = optim.make_schedule(
        "plateau", learning_rate=0.1, steps_per_epoch=1, num_epochs=9, **options
    )
    optimizer = optim.make_optimizer("sgd", rates)
    return PlateauSchedule(is_enabled, optimizer), optimizer


def after_each(losses, plateau, state):
    """(state of the schedule, factor on the rate) after each validation loss."""
    schedule, optimizer = plateau
    for loss in losses:
        state = replace(state, history=(*state.history, replace(ROW, val_loss=loss)))
        state = schedule.update(state)
        yield state.plateau, float(optimizer.learning_rate_scale)


def test_two_epochs_without_a_gain_of_a_tenth_halve_the_rate():
    plateau = scheduled(patience=2, factor=0.5, min_delta=0.1)
    losses = [3.0, 2.95, 2.8, 2.75, 2.8, 2.79, 2.69, 2.69, 2.69]
    found = list(after_each(losses, plateau, RunState(0, 0)))
    # 2.95 is too small a gain; so is 2.75, and 2.8 the second epoch without one. Then 2.69 is one.
    assert [state.wait for state, _ in found] == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert [state.best for state, _ in found] == [3.0, 3.0, *[2.8] * 4, *[2.69] * 3]
    assert [scale for _, scale in found] == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25])
    assert [state.scale for state, _ in found] == [scale for _, scale in found]


def test_a_loss_that_stands_still_is_no_gain():
    plateau = scheduled(patience=2, factor=0.5)
    found = list(after_each([2.0, 2.0, 2.0, 2.0], plateau, RunState(0, 0)))
    assert [state.wait for state, _ in found] == [0, 1, 0, 1]
    assert [scale for _, scale in found] == [1, 1, 0.5, 0.5]


def test_a_rate_that_a_rollback_lowered_is_lowered_further():
    plateau = scheduled(patience=1, factor=0.5)
    state = RunState(0, 0, plateau=Plateau(best=1.0, wait=0, scale=0.25))
    assert list(after_each([2.0], plateau, state)) == [(Plateau(1.0, 0, 0.125), 0.125)]


def test_under_other_schedules_nothing_is_counted():
    plateau = scheduled(is_enabled=False, patience=1)
    found = list(after_each([1.0, 2.0, 3.0], plateau, RunState(0, 0)))
    assert found == [(Plateau(), 1.0)] * 3
