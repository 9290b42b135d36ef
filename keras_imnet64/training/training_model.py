"""The model that trains under TensorFlow: a plain model's layers, called through fast kernels."""

from collections.abc import Callable, Iterator

import keras

from keras_imnet64.core.types import Logs, Tensor
from keras_imnet64.models.keras_private import (
    call_graph,
    graph_of,
    has_mask,
    step_function,
    with_training,
)
from keras_imnet64.training.kernels import KERNELS
from keras_imnet64.training.saved_as_plain import SavedAsPlain


class TrainingModel(SavedAsPlain):
    """A functional model of the same layers, and so of the same variables, as another.

    In inference it calls the layers themselves. On several devices with accumulation it has two
    training steps: one sums the gradients of a part of a batch on each device, the other, for the
    last part, sums them over the devices and updates the weights.
    """

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Returns what the plain model would, up to the rounding of sums."""
        if training:
            return call_graph(self, inputs, fast_function)
        return super().call(inputs, training, mask)

    def make_train_function(self, force: bool = False) -> None:
        """Makes the training step; Keras calls this when `fit` begins.

        Where several devices sum the gradients of the parts of a batch, there are two: one for the
        parts that are gathered, and one for the last part, which updates the weights.
        """
        if not getattr(self.optimizer, "sums_on_devices", False):  # it may be another than ours
            super().make_train_function(force)
            return
        steps = None if force else self.train_function
        self.train_function: PartSteps = steps or PartSteps(self)
        self.train_function.restart()  # a checkpoint may have been restored


class PartSteps:
    """The training step of a model whose optimizer `sums_on_devices`: takes an iterator."""

    def __init__(self, model: keras.Model) -> None:
        self.optimizer = model.optimizer
        self.gather, self.update = step_function(model), step_function(model)
        self.restart()

    def restart(self) -> None:
        """Makes the next call read from the optimizer which part it is; later calls count."""
        self.num_done: int | None = None

    def __call__(self, iterator: Iterator[Tensor]) -> Logs:
        if self.num_done is None:
            self.num_done = self.optimizer.num_parts_done
        self.optimizer.prepare_part(self.num_done)
        logs: Logs = (self.gather if self.optimizer.gathers else self.update)(iterator)
        self.num_done += 1
        return logs


def fast_function(operation: keras.Operation) -> Callable[..., Tensor]:
    """Returns what a training step calls in place of a layer or an operation of a graph."""
    graph = graph_of(operation)
    if graph is not None:
        return lambda inputs, **_: call_graph(graph, inputs, fast_function)
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
