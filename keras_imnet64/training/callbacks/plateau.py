"""The plateau schedule: lowers the learning rate when the validation loss stops falling."""

from dataclasses import replace

import keras

from keras_imnet64.models.keras_private import learning_rate_schedule
from keras_imnet64.records import RunState


class PlateauSchedule:
    """Multiplies the rate by `factor` after `patience` epochs without a gain of `min_delta`."""

    def __init__(self, is_enabled: bool, optimizer: keras.optimizers.Optimizer) -> None:
        self.is_enabled, self.optimizer = is_enabled, optimizer

    def update(self, state: RunState) -> RunState:
        """Counts the last epoch in, and lowers the rate if due; returns the new state."""
        if not self.is_enabled:
            return state
        options = learning_rate_schedule(self.optimizer).options
        plateau, val_loss = state.plateau, state.history[-1].val_loss
        assert val_loss is not None  # `Recipe.check` requires scores of each epoch
        if plateau.best is None or val_loss < plateau.best - options["min_delta"]:
            plateau = replace(plateau, best=val_loss, wait=0)
        else:
            plateau = replace(plateau, wait=plateau.wait + 1)
        if plateau.wait >= options["patience"]:
            plateau = replace(plateau, scale=plateau.scale * options["factor"], wait=0)
            self.optimizer.learning_rate_scale.assign(plateau.scale)
        return replace(state, plateau=plateau)
