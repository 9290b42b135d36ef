"""Decides when to check whether the state is finite, and which step a failure reports."""

import keras

from keras_imnet64.training.callbacks.position import Position
from keras_imnet64.training.finite import FiniteCheck, NotFinite, find_not_finite
from keras_imnet64.training.state import Variables, read_variables

STEPS_BETWEEN_CHECKS = 50  # of the whole state; the progress bar sees the loss of every step


class Finiteness:
    """Checks the state every `STEPS_BETWEEN_CHECKS` steps and at the end of an epoch.

    Attributes:
        finite_until: the last step of the epoch after which the state was found finite.
        found: the error of the first check that failed in this epoch, or None.
    """

    def __init__(self, model: keras.Model, variables: Variables, position: Position) -> None:
        self.model, self.variables, self.position = model, variables, position
        self.is_state_finite = FiniteCheck(model, variables)
        self.finite_until = 0
        self.found: NotFinite | None = None

    def begin_epoch(self) -> None:
        self.finite_until = self.position.step  # the run resumes from a finite state
        self.found = None

    def before_step(self) -> None:
        """Makes Keras leave the epoch after this step if the state before it is not finite."""
        step = self.position.num_steps_before
        if not step or step % STEPS_BETWEEN_CHECKS:
            return
        if self.is_state_finite():
            self.finite_until = step
        elif self.found is None:
            self.found = self.error(self._find() or "a weight", step)
            self.model.stop_training = True

    def check_epoch(self, bad_step: int | None) -> None:
        """Raises NotFinite unless all of the state is finite.

        Args:
            bad_step: the first step whose loss is not finite, counted from 1.
        """
        if bad_step and (self.found is None or bad_step <= self.found.step):
            raise self.error("the loss", bad_step)
        if self.found:
            raise self.found
        what = self._find()
        if what:
            raise self.error(what, self.position.step)

    def error(self, what: str, step: int | None = None) -> NotFinite:
        """Returns the error for what is not finite after a step, the current one by default."""
        step = self.position.step if step is None else step
        return NotFinite(what, self.position.epoch, step, self.finite_until)

    def _find(self) -> str | None:
        return find_not_finite(read_variables(self.model, self.variables))
