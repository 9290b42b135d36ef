"""Finds numbers of the training state that are infinite or NaN, on the device and on the host.

`callbacks` decides when to look, and `recovery` what happens then.
"""

import keras
import numpy as np
from keras import ops


def what_is_not_finite(state):
    """Returns "the loss", else the path of a variable that is not finite, or None if all are.

    Args:
        state: {path: array}, as `state.read_state` returns it.
    """
    paths = [path for path, array in state.items() if not np.isfinite(array).all()]
    if any(path.startswith("metrics/") for path in paths):
        return "the loss"
    return paths[0] if paths else None


class FiniteCheck:
    """Tells whether all of the state is finite, without copying it from the device.

    The check is one compiled function, which is compiled when it is first called.

    Args:
        model: the model that is trained.
        variables: {path: variable} of all state.
    """

    def __init__(self, model, variables):
        self.model = model
        self.variables = [v for v in variables.values() if "float" in v.dtype]
        self._check = None

    def __call__(self):
        """Returns whether the state between two steps is finite; call it from the main thread."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        if self._check is None:
            self._check = _compile(self.variables)
        return bool(self._check())


def _compile(variables):
    """Returns a function of no arguments: whether the variables are finite, a boolean scalar."""

    def read():
        return [v.value for v in variables]

    if keras.backend.backend() == "jax":
        import jax

        check = jax.jit(_all_finite)
        return lambda: check(read())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: _all_finite(read()), autograph=False)
    return lambda: _all_finite(read())


def _all_finite(arrays):
    return ops.all(ops.stack([ops.all(ops.isfinite(array)) for array in arrays]))
