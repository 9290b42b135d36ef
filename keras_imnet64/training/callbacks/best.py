"""Writes best.keras, the model of the best epoch so far, if the recipe selects a best epoch."""

from dataclasses import replace
from typing import TYPE_CHECKING

from keras_imnet64.records import BestEpoch, RunState

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class BestModel:
    """Writes best.keras after each epoch that has a higher validation accuracy than all before."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.is_enabled = trainer.recipe.selection != "none"

    def choose(self, state: RunState) -> RunState:
        """Returns the state with the best epoch; expects the last epoch's weights in the copy."""
        row = state.history[-1]
        if not self.is_enabled or (state.best and row.val_top1 <= state.best.val_top1):
            return state
        self.trainer.ship_copy(self.trainer.run.best, row.epoch)
        return replace(state, best=BestEpoch(row.epoch, row.val_top1))
