"""Checks the state before each step while steps are repeated, to find the first bad step."""

import keras

from keras_imnet64.training.callbacks.position import Position
from keras_imnet64.training.checkpoints import Checkpoints
from keras_imnet64.training.finite import NotFinite, find_not_finite
from keras_imnet64.training.state import Arrays


class Replay:
    """Keeps the last finite state, and makes Keras leave the epoch when a state is not finite.

    Args:
        failure: the error whose first bad step is to be found.

    Attributes:
        before: (epoch, step) of the last finite state; None if no state was checked yet.
        arrays: that state.
        found: the error of the first bad step, or None.
    """

    def __init__(
        self,
        failure: NotFinite,
        model: keras.Model,
        position: Position,
        checkpoints: Checkpoints,
    ) -> None:
        self.model, self.position, self.checkpoints = model, position, checkpoints
        self.epoch, self.first_step = failure.epoch, max(1, failure.finite_until)
        self.before: tuple[int, int] | None = None
        self.arrays: Arrays = {}
        self.found: NotFinite | None = None

    def before_step(self) -> None:
        step = self.position.num_steps_before
        if self.position.epoch != self.epoch or step < self.first_step or self.found:
            return
        arrays = self.checkpoints.read()
        what = find_not_finite(arrays)
        if what:
            self.found = NotFinite(what, self.epoch, step, step - 1)
            self.model.stop_training = True
        else:
            self.before, self.arrays = (self.epoch, step), arrays
