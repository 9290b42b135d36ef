"""Writes best.keras, the model of the best epoch so far, if the recipe selects a best epoch."""

from collections.abc import Callable
from dataclasses import replace

from keras_imnet64.records import BestEpoch, RunState


class BestModel:
    """Writes best.keras after each epoch that has a higher validation accuracy than all before.

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
        if state.best and row.val_top1 <= state.best.val_top1:
            return state
        self.ship(row.epoch)
        return replace(state, best=BestEpoch(row.epoch, row.val_top1))
