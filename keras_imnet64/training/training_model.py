"""The model that trains under TensorFlow: the plain model's layers, called through fast kernels."""

import inspect
from collections.abc import Callable

import keras

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.keras_private import Graph, graph_of, run_graph
from keras_imnet64.training.kernels import KERNELS


class TrainingModel(keras.Model):
    """A functional model of the same layers, and so of the same variables, as another.

    Args:
        model: a functional or sequential model. It can be used, saved and cloned as before, and
            has the trained weights at any time.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model.inputs, model.outputs, name=model.name)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Returns what the plain model would, up to the rounding of sums."""
        return run(self, inputs, bool(training))


def run(graph: Graph, inputs: Tensor, training: bool) -> Tensor:
    """Calls the operations of a graph, by their kernels where there are any."""

    def function_of(operation: keras.Operation) -> Callable[..., Tensor]:
        inner = graph_of(operation)
        if inner is not None:
            return lambda x, **_: run(inner, x, training)
        make_kernel = KERNELS.get(type(operation))
        kernel = make_kernel(operation) if make_kernel else None
        if kernel is not None:
            return lambda x, **_: kernel(x, training)
        if "training" in inspect.signature(operation.call).parameters:
            return lambda *args, **settings: operation(*args, **settings | {"training": training})
        return operation

    outputs = run_graph(graph, [inputs], function_of)
    return outputs[0] if isinstance(outputs, list) else outputs
