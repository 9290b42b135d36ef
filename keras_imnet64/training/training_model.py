"""The model that trains under TensorFlow: a plain model's layers, called through fast kernels."""

from collections.abc import Callable
from functools import partial

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

    Args:
        model: a functional or sequential model. It can be used, saved and cloned as before, and
            holds the trained weights at any time.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model.inputs, model.outputs, name=model.name)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Returns what the plain model would, up to the rounding of sums."""
        return _run(self, inputs, bool(training))


def fast_function(operation: keras.Operation, training: bool) -> Callable[..., Tensor]:
    """Returns what a training model calls in place of a layer or an operation of its graph."""
    graph = graph_of(operation)
    if graph is not None:
        return lambda inputs, **_: _run(graph, inputs, training)
    make_kernel = KERNELS.get(type(operation))
    kernel = make_kernel(operation) if make_kernel else None
    if kernel is not None:
        return lambda inputs, **_: kernel(inputs, training)
    return with_training(operation, training)


def _run(graph: Graph, inputs: Tensor, training: bool) -> Tensor:
    replace = partial(fast_function, training=training)
    outputs = run_graph(graph, graph_inputs(graph, inputs), replace)
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs
