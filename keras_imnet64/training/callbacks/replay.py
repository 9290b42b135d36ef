"""Checks the state before each step while steps are repeated, to find the first bad step."""

from typing import TYPE_CHECKING

from keras_imnet64.training.finite import NotFinite, find_not_finite
from keras_imnet64.training.state import Arrays

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class Replay:
    """Keeps the last finite state, and makes Keras leave the epoch when a state is not finite.

    Args:
        failure: the error whose first bad step is to be found.

    Attributes:
        before: (epoch, step) of the last finite state; None if no state was checked yet.
        arrays: that state.
        found: the error of the first bad step, or None.
    """

    def __init__(self, trainer: "Trainer", failure: NotFinite) -> None:
        self.trainer = trainer
        self.epoch, self.first_step = failure.epoch, max(1, failure.finite_until)
        self.before: tuple[int, int] | None = None
        self.arrays: Arrays = {}
        self.found: NotFinite | None = None

    def before_step(self) -> None:
        position = self.trainer.position
        step = position.num_steps_before
        if position.epoch != self.epoch or step < self.first_step or self.found:
            return
        arrays = self.trainer.checkpoints.read()
        what = find_not_finite(arrays)
        if what:
            self.found = NotFinite(what, self.epoch, step, step - 1)
            self.trainer.model.stop_training = True
        else:
            self.before, self.arrays = (self.epoch, step), arrays
