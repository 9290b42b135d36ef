"""Writes best.keras, the model of the best epoch so far, if the recipe selects a best epoch."""

from collections.abc import Callable
from dataclasses import replace

from keras_imnet64.records import BestEpoch, EpochRow, RunState


class BestModel:
    """Writes best.keras after each epoch that has a higher validation accuracy than all before.

    On few images, several epochs have the same: of these, the one with the lowest loss is the best.

    Args:
        is_enabled: whether the recipe selects a best epoch.
        ship: writes best.keras with the weights of an epoch, counted from 1.
    """

    def __init__(self, is_enabled: bool, ship: Callable[[int], None]) -> None:
        self.is_enabled, self.ship = is_enabled, ship

    def choose(self, state: RunState) -> RunState:
        """Returns the state with the best epoch, after its model is shipped."""
        row = state.history[-1]
        if not self.is_enabled or row.val_top1 is None:
            return state
        best = state.best and next(r for r in state.history if r.epoch == state.best.epoch)
        if best and _rank(row) <= _rank(best):
            return state
        self.ship(row.epoch)
        return replace(state, best=BestEpoch(row.epoch, row.val_top1))


def _rank(row: EpochRow) -> tuple[float, float]:
    """Returns what is greater for a better epoch that was scored."""
    assert row.val_top1 is not None and row.val_loss is not None
    return row.val_top1, -row.val_loss
