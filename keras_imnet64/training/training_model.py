"""The model that trains under TensorFlow: a plain model's layers, called through fast kernels."""

from collections.abc import Callable

import keras

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.keras_private import (
    Graph,
    graph_inputs,
    graph_of,
    run_graph,
    with_training,
)
from keras_imnet64.training.kernels import KERNELS


class TrainingModel(keras.Model):
    """A functional model of the same layers, and so of the same variables, as another.

    In inference it calls the layers themselves.

    Args:
        model: a functional or sequential model of one input and one output. It can be used, saved
            and cloned as before, and holds the trained weights at any time.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model.inputs[0], model.outputs[0], name=model.name)

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
    make_kernel = KERNELS.get(type(operation))
    kernel = make_kernel(operation) if make_kernel else None
    if kernel is not None:
        return lambda inputs, **_: kernel(inputs)
    return with_training(operation, True)


def _train(graph: Graph, inputs: Tensor) -> Tensor:
    outputs = run_graph(graph, graph_inputs(graph, inputs), fast_function)
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs
