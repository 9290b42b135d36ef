"""Ends a run whose validation accuracy has not improved for some epochs."""

from dataclasses import replace

from keras_imnet64.core.console import say
from keras_imnet64.records import RunState


class EarlyStopping:
    """Stops after `patience` epochs without a better one, see `BestModel`; 0 never stops."""

    def __init__(self, patience: int, num_epochs: int) -> None:
        self.patience, self.num_epochs = patience, num_epochs

    def decide(self, state: RunState) -> RunState:
        """Returns the state, marked as stopped if the best epoch is too long ago."""
        epoch = state.history[-1].epoch
        if not (self.patience and state.best) or epoch == self.num_epochs:
            return state
        return replace(state, stopped_early=epoch - state.best.epoch >= self.patience)

    def say(self) -> None:
        """Says why the run ends; after the line of its epoch."""
        say(f"stopping early: no better epoch for {self.patience} epochs")
