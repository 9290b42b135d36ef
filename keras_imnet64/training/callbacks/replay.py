"""Looks at the state before each step while steps are repeated, to find the first bad step."""

from typing import TYPE_CHECKING

from keras_imnet64.training.finite import NotFinite, find_not_finite
from keras_imnet64.training.state import Arrays

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class Replay:
    """Keeps the last finite state, and makes Keras leave the epoch when a state is not finite.

    Args:
        trouble: the error whose first step is looked for.

    Attributes:
        before: (epoch, step) of the last finite state, None before the first that is looked at.
        arrays: that state.
        found: the error of the step after it, or None.
    """

    def __init__(self, trainer: "Trainer", trouble: NotFinite) -> None:
        self.trainer = trainer
        self.epoch, self.first_step = trouble.epoch, max(1, trouble.finite_until)
        self.before: tuple[int, int] | None = None
        self.arrays: Arrays = {}
        self.found: NotFinite | None = None

    def before_step(self) -> None:
        position = self.trainer.position
        done = position.step - 1  # the step that begins is counted already
        if position.epoch != self.epoch or done < self.first_step or self.found:
            return
        arrays = self.trainer.checkpoints.read()
        what = find_not_finite(arrays)
        if what:
            self.found = NotFinite(what, self.epoch, done, done - 1)
            self.trainer.model.stop_training = True
        else:
            self.before, self.arrays = (self.epoch, done), arrays
