"""Averages the weights that a run has after each of its last epochs (`train.average_last`).

The means are variables beside the model's, so that checkpoints hold them. Statistics of batch
normalisation are averaged as the weights are, not measured anew.
"""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.types import Variable
from keras_imnet64.models.paths import SEED_STATE, by_path


class LastEpochs:
    """Keeps the means of a model's weights over the last epochs of a run.

    Args:
        model: the model that is trained.
        num_epochs: of the whole run.
        num_averaged: of its last epochs; 0 keeps no means.

    Attributes:
        state: {"last_epochs/<path>": mean}, which belongs to a checkpoint.
    """

    def __init__(self, model: keras.Model, num_epochs: int, num_averaged: int) -> None:
        self.num_before = num_epochs - num_averaged
        weights = by_path(model) if num_averaged else {}
        self.weights = {
            path: variable
            for path, variable in weights.items()
            if variable.name != SEED_STATE and "float" in variable.dtype
        }
        self._means = {path: _zeros_like(variable) for path, variable in self.weights.items()}
        self.state = {f"last_epochs/{path}": mean for path, mean in self._means.items()}

    def add(self, num_epochs: int, slow_weights: Mapping[str, Variable]) -> None:
        """Takes the weights after an epoch into the means, if it is one of the last.

        Under JAX call `model.jax_state_sync()` before.

        Args:
            num_epochs: the epochs that are done; each is taken once.
            slow_weights: Lookahead's {path: variable}, which take the place of the weights.
        """
        count = num_epochs - self.num_before
        if count < 1:
            return
        for path, mean in self._means.items():
            before = ops.convert_to_numpy(mean)
            weights = ops.convert_to_numpy(slow_weights.get(path, self.weights[path]))
            mean.assign(before + (weights - before) / np.float32(count))

    def means(self, num_epochs: int) -> dict[str, Variable]:
        """Returns {path: mean} after so many epochs; empty before the first that is averaged."""
        return self._means if num_epochs > self.num_before else {}


def _zeros_like(variable: Variable) -> Variable:
    return keras.Variable(
        np.zeros(variable.shape, variable.dtype),
        dtype=variable.dtype,
        trainable=False,
        name=f"{variable.path.replace('/', '_')}_mean",
    )
