"""Ends a run whose validation accuracy has not improved for some epochs."""

from dataclasses import replace
from typing import TYPE_CHECKING

from keras_imnet64.core.console import say
from keras_imnet64.records import RunState

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class EarlyStopping:
    """Stops after `train.early_stopping` epochs without a better val_top1; 0 never stops."""

    def __init__(self, trainer: "Trainer") -> None:
        self.patience = trainer.recipe.train.early_stopping

    def decide(self, state: RunState) -> RunState:
        """Returns the state, marked as stopped if the best epoch is too long ago."""
        if not (self.patience and state.best):
            return state
        if state.history[-1].epoch - state.best.epoch < self.patience:
            return state
        say(f"stopping early: no better val_top1 for {self.patience} epochs")
        return replace(state, stopped_early=True)
