"""Ends a run whose validation accuracy has not improved for some epochs."""

from dataclasses import replace

from keras_imnet64.core.console import say
from keras_imnet64.records import RunState


class EarlyStopping:
    """Stops after `patience` epochs without a better val_top1; 0 never stops."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def decide(self, state: RunState) -> RunState:
        """Returns the state, marked as stopped if the best epoch is too long ago."""
        if not (self.patience and state.best):
            return state
        if state.history[-1].epoch - state.best.epoch < self.patience:
            return state
        say(f"stopping early: no better val_top1 for {self.patience} epochs")
        return replace(state, stopped_early=True)
