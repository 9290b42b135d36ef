"""Finds numbers of the training state that are infinite or NaN, on the device and on the host.

`callbacks.finiteness` decides when to check, and `nan_recovery` handles a failure.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.types import Tensor, Variable
from keras_imnet64.training.state import Arrays, Variables


class NotFinite(Exception):
    """A number of the state, the loss or the validation's loss is infinite or NaN.

    Attributes:
        what: "the loss", "the validation's loss", or the path of a variable.
        epoch: counted from 0.
        step: the step of the epoch, counted from 1, after which the number was found.
        finite_until: the last step of the epoch after which the whole state was found finite.
        first: the earliest step that can be the cause.
    """

    def __init__(self, what: str, epoch: int, step: int, finite_until: int) -> None:
        self.what, self.epoch, self.step, self.finite_until = what, epoch, step, finite_until
        self.first = step if what.endswith("loss") else finite_until + 1
        steps = f"step {step}" if self.first == step else f"one of the steps {self.first} to {step}"
        super().__init__(f"{what} is not finite at {steps} of epoch {epoch + 1}")


def find_not_finite(arrays: Arrays) -> str | None:
    """Returns "the loss", else the path of a variable that is not finite, or None if all are."""
    paths = [path for path, array in arrays.items() if not np.isfinite(array).all()]
    if any(path.startswith("metrics/") for path in paths):
        return "the loss"
    return paths[0] if paths else None


class FiniteCheck:
    """Checks whether all of the state is finite, without copying it from the device.

    The check is one compiled function, which is compiled when it is first called.

    Args:
        model: the model that is trained.
        variables: all of the run's variables.
    """

    def __init__(self, model: keras.Model, variables: Variables) -> None:
        self.model = model
        self.variables = [v for v in variables.values() if "float" in v.dtype]
        self._check: Callable[[], Tensor] | None = None

    def __call__(self) -> bool:
        """Returns whether the state between two steps is finite; call it from the main thread."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        if self._check is None:
            self._check = _compile(self.variables)
        return bool(self._check())


def _compile(variables: Sequence[Variable]) -> Callable[[], Tensor]:
    """Returns a function without arguments that returns whether the variables are finite."""

    def read() -> list[Tensor]:
        return [v.value for v in variables]

    if keras.backend.backend() == "jax":
        import jax

        check = jax.jit(_all_finite)
        return lambda: check(read())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled: Callable[[], Tensor] = tf.function(lambda: _all_finite(read()), autograph=False)
        return compiled
    return lambda: _all_finite(read())


def _all_finite(arrays: Sequence[Tensor]) -> Tensor:
    return ops.all(ops.stack([ops.all(ops.isfinite(array)) for array in arrays]))
