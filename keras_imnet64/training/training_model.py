"""The model that trains under TensorFlow: a plain model's layers, called through fast kernels."""

from collections.abc import Callable

import keras

from keras_imnet64.core.types import StrPath, Tensor
from keras_imnet64.models.keras_private import (
    Graph,
    graph_inputs,
    graph_of,
    has_mask,
    run_graph,
    with_training,
)
from keras_imnet64.training.kernels import KERNELS


class TrainingModel(keras.Model):
    """A functional model of the same layers, and so of the same variables, as another.

    In inference it calls the layers themselves.

    `TrainingModel(model.inputs[0], model.outputs[0])` leaves `model` usable as before, with the
    trained weights at any time. Files of both are the same.
    """

    def save(self, filepath: StrPath, **options: object) -> None:
        """Saves the plain model: a user's callback may be what calls."""
        keras.Model(self.inputs[0], self.outputs[0], name=self.name).save(filepath, **options)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Returns what the plain model would, up to the rounding of sums."""
        return _train(self, inputs) if training else super().call(inputs, training, mask)


def fast_function(operation: keras.Operation) -> Callable[..., Tensor]:
    """Returns what a training step calls in place of a layer or an operation of a graph."""
    graph = graph_of(operation)
    if graph is not None:
        return lambda inputs, **_: _train(graph, inputs)
    plain = with_training(operation, True)
    make_kernel = KERNELS.get(type(operation))
    kernel = make_kernel(operation) if make_kernel else None
    if kernel is None or operation.activity_regularizer is not None:
        return plain

    def call(inputs: Tensor, mask: Tensor | None = None, **options: object) -> Tensor:
        if mask is not None or has_mask(inputs):
            return plain(inputs, mask=mask, **options)
        return kernel(inputs)

    return call


def _train(graph: Graph, inputs: Tensor) -> Tensor:
    outputs = run_graph(graph, graph_inputs(graph, inputs), fast_function)
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs
