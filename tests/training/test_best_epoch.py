"""The best epoch: the highest validation accuracy, then the lowest loss."""

import pytest

from keras_imnet64.records import EpochRow, RunState
from keras_imnet64.training.callbacks.best import BestModel
from keras_imnet64.training.callbacks.early_stopping import EarlyStopping


def states_after(rows, patience=0):
    """The state after each epoch of these (val_top1, val_loss), and the shipped epochs."""
    shipped, states, state = [], [], RunState(0, 0)
    best, stopping = BestModel(True, shipped.append), EarlyStopping(patience, 100)
    for epoch, (top1, loss) in enumerate(rows, start=1):
        row = EpochRow(epoch, epoch, 0.1, 1.0, 50.0, 50.0, loss, top1, top1, None, 1.0)
        state = RunState(epoch, 0, (*state.history, row), state.best)
        state = stopping.decide(best.choose(state))
        states.append(state)
    return states, shipped


@pytest.mark.parametrize(
    ("rows", "shipped"),
    [
        ([(50.0, 2.0), (60.0, 3.0), (55.0, 1.0)], [1, 2]),
        ([(100.0, 0.35), (100.0, 0.01), (100.0, 0.02)], [1, 2]),
        ([(50.0, 2.0), (50.0, 2.0)], [1]),
        ([(None, None), (50.0, 2.0), (None, None), (50.0, 1.0)], [2, 4]),
    ],
)
def test_of_equal_epochs_the_one_with_the_lowest_loss_is_the_best(rows, shipped):
    states, found = states_after(rows)
    assert found == shipped
    assert states[-1].best.epoch == shipped[-1]


def test_a_lower_loss_with_the_same_accuracy_goes_on():
    states, _ = states_after([(100.0, 0.4), (100.0, 0.3), (100.0, 0.2), (100.0, 0.3)], patience=1)
    assert [state.stopped_early for state in states] == [False, False, False, True]
