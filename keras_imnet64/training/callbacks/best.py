"""Ships the best epoch so far, where images were kept aside to choose by."""

from dataclasses import replace
from typing import TYPE_CHECKING

from keras_imnet64.records import BestEpoch, RunState

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class BestModel:
    """Writes best.keras after each epoch that has a higher validation accuracy than all before."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.chooses = trainer.recipe.selection != "none"

    def choose(self, state: RunState) -> RunState:
        """Returns the state with the best epoch; the float32 copy has the weights of the last."""
        row = state.history[-1]
        if not self.chooses or (state.best and row.val_top1 <= state.best.val_top1):
            return state
        self.trainer.ship_copy(self.trainer.run.best, row.epoch)
        return replace(state, best=BestEpoch(row.epoch, row.val_top1))
