"""Computes one training step of a compiled model tensor by tensor.

Each part is what the training step computes, reached without a loop of our own: activations are
outputs of a model on the same layers and kernels; gradients are those that Keras' own step hands to
an optimizer, here one that stores them; updates are those of the recipe's optimizer.

A ReLU passes a gradient on where its input is above zero, a max pool to the largest of its inputs.
At such a kink, outputs that agree to rounding can have gradients that do not. `Reader` therefore
computes gradients with given inputs of these calls, too: the same on all sides.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_imnet64.backend.devices import Devices
from keras_imnet64.compare.records import MAX_ELEMENTS, Arrays, LayerCall, positions
from keras_imnet64.core.types import Logs, Tensor, Variable
from keras_imnet64.models.keras_private import (
    CallbacksBesideSteps,
    Graph,
    LeakyRelu,
    MaxPool,
    Relu,
    Relu6,
    call_graph,
    calls_of,
    graph_of,
)
from keras_imnet64.training.remat import function_of

Batch = tuple[np.ndarray, np.ndarray]  # images uint8 [B, H, W, 3], labels

# Their derivative jumps. Layers with an activation of their own hide the place where it does.
KINKED = (
    keras.layers.GlobalMaxPooling2D,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.PReLU,
    keras.layers.ReLU,
    LeakyRelu,
    MaxPool,
    Relu,
    Relu6,
)
KINKED_FUNCTIONS = (
    keras.activations.leaky_relu,
    keras.activations.relu,
    keras.activations.relu6,
)


@dataclass(frozen=True)
class Activations:
    """The calls of a network's graph, in topological order.

    Attributes:
        outputs: numbers of the output of each call, float32 [B, M] each.
        kinked: the whole input of each call with a kink, float32 [B, ...] each.
    """

    outputs: tuple[np.ndarray, ...]
    kinked: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Gradients:
    """What a step hands to its optimizer, and its loss."""

    loss: float
    arrays: Arrays  # by the path of a trainable variable


def network_calls(network: keras.Model) -> list[LayerCall]:
    """Returns the calls of a network's graph, in topological order."""
    return [
        LayerCall(
            call.operation.name,
            type(call.operation).__name__,
            tuple(v.path for v in getattr(call.operation, "trainable_variables", ())),
        )
        for call in calls_of(_graph(network))
    ]


def activations(
    trained: keras.Model, network: keras.Model, images: np.ndarray, devices: Devices
) -> Activations:
    """Returns what the calls of a network put out in training.

    The statistics of batch normalisation and the seeds of dropout move on, as in a step.

    Args:
        trained: the model that trains, whose class calls the layers or faster kernels.
        network: its graph for images of this size.
        images: uint8 [B, H, W, 3].
    """
    graph_calls = calls_of(_graph(network))
    outputs = [tensor for call in graph_calls for tensor in call.outputs[:1]]
    kinked = [call.inputs[0] for call in graph_calls if has_kink(call.operation)]
    calls = network_calls(network)
    shapes = [tuple(spec.shape) for spec in _shapes(network, outputs, images.shape)]
    kept = [
        kept_positions(f"{index} {call.name}", shape)
        for index, (call, shape) in enumerate(zip(calls, shapes, strict=True))
    ]

    class InTraining(type(trained)):  # type: ignore[misc]  # of Keras, or its TensorFlow subclass
        def call(
            self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
        ) -> list[Tensor]:
            found = super().call(inputs, training=True)
            found = found if isinstance(found, list | tuple) else [found]
            taken = [_take(tensor, where) for tensor, where in zip(found, kept, strict=False)]
            return taken + [ops.cast(tensor, "float32") for tensor in found[len(kept) :]]

    with devices.scope():
        model = InTraining(network.inputs[0], outputs + kinked, name="activations")
        model.compile(jit_compile=trained.jit_compile)
        batches = tf.data.Dataset.from_tensors(images)
        found = model.predict(batches, steps=1, verbose=0)
    arrays = tuple(np.asarray(array).astype("float32") for array in found)
    return Activations(arrays[: len(kept)], arrays[len(kept) :])


def kept_positions(name: str, shape: Sequence[int]) -> np.ndarray:
    """Returns which positions of each row of a tensor are kept, the same in all rows: int64 [M].

    Args:
        shape: of the tensor [rows, ...] of the whole batch.
    """
    row = math.prod(shape[1:])
    return positions(name, row, max(1, MAX_ELEMENTS // max(1, shape[0])))


def _shapes(network: keras.Model, outputs: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
    """Returns the shapes of outputs for a whole batch, as KerasTensors."""
    inputs = network.inputs[0]
    specs = keras.Model(inputs, outputs).compute_output_spec(keras.KerasTensor(shape, inputs.dtype))
    return list(specs) if isinstance(specs, list | tuple) else [specs]


def _take(tensor: Tensor, where: np.ndarray) -> Tensor:
    rows = ops.reshape(tensor, (-1, math.prod(tensor.shape[1:])))
    return ops.cast(ops.take(rows, where, axis=1), "float32")


def _graph(network: keras.Model) -> keras.Model:
    graph = graph_of(network)
    assert graph is not None  # recipes' networks are functional models
    return graph


class Reader(keras.Model):
    """Computes the gradients of training steps of a model, whose weights then have moved.

    A step is Keras' own, of the same calls and the same loss, on all devices, but for its
    optimizer: the velocity of SGD, after one step from zero at the rate 1, is minus the gradient to
    the bit.

    It is a model of its own. If the optimizer of the trained model were exchanged, JAX could take
    the step that is compiled for the other optimizer, because it finds compiled steps by their
    model and the shapes of their arguments.
    """

    def __init__(self, trained: keras.Model, network: keras.Model) -> None:
        """Compiles the model; call this within the scope of the devices.

        Args:
            trained: the compiled model.
            network: its graph for the images that are to come.
        """
        super().__init__(name="reader", dtype="float32")  # the layers cast, each to its own dtype
        self.trained, self.network = trained, network
        self.built = True
        optimizer = keras.optimizers.SGD(learning_rate=1.0, momentum=0.5)
        self.compile(optimizer, trained.loss, jit_compile=trained.jit_compile)
        optimizer.build(self.trainable_variables)

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        """Returns the logits of images.

        Args:
            inputs: images [B, H, W, 3], then the inputs of all calls with a kink, or none.
        """
        images, *held = inputs
        if held and training:
            return run_held(_graph(self.network), images, held)
        return self.trained(images, training=training)

    def gradients(self, batch: Batch, held: Sequence[np.ndarray] = ()) -> Gradients:
        """Returns the gradients of a step.

        Args:
            held: what the calls with a kink are to take as their inputs, float32 [B, ...] each, see
                `activations`; if none are given, they take what the layers before them compute.
        """
        images, labels = batch
        for velocity in self.optimizer.momentums:
            velocity.assign(np.zeros(velocity.shape, "float32"))
        logs = one_step(self, ((images, *held), labels))
        velocities = [np.array(ops.convert_to_numpy(v)) for v in self.optimizer.momentums]
        paths = [variable.path for variable in self.trainable_variables]
        found = {path: -v for path, v in zip(paths, velocities, strict=True)}
        return Gradients(float(logs["loss"]), found)


def run_held(graph: Graph, images: Tensor, held: Sequence[Tensor]) -> Tensor:
    """Runs a graph as in a training step; each call with a kink takes a given input."""
    remaining = iter(held)

    def replace(operation: keras.Operation) -> Callable[..., Tensor]:
        function = function_of(operation)
        if not has_kink(operation):
            return function
        return lambda x, **options: function(hold(x, next(remaining)), **options)

    return call_graph(graph, images, replace)


def hold(x: Tensor, value: Tensor) -> Tensor:
    """Returns the value, to the bit, with the gradient of x."""
    return ops.stop_gradient(ops.cast(value, x.dtype)) + (x - ops.stop_gradient(x))


def has_kink(operation: keras.Operation) -> bool:
    """Returns whether the derivative of a call jumps."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in KINKED_FUNCTIONS
    return isinstance(operation, KINKED)


def one_step(model: keras.Model, batch: tuple[Tensor, np.ndarray]) -> Logs:
    """Makes one step of Keras' loop on a batch, and returns its logs."""
    found: list[Logs] = []
    reader = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: found.append(logs))
    model.fit(
        tf.data.Dataset.from_tensors(batch),
        steps_per_epoch=1,
        callbacks=CallbacksBesideSteps([reader], add_history=True, model=model, verbose=0),
        shuffle=False,
        verbose=0,
    )
    return found[0]


def apply_gradients(model: keras.Model, arrays: Arrays, devices: Devices) -> None:
    """Gives gradients to the model's own optimizer, which changes the weights.

    Under JAX and on several devices this is compiled, as a step is.
    """
    optimizer, variables = model.optimizer, model.trainable_variables
    share = devices.count if devices.backend == "tensorflow" else 1  # which its strategy sums
    gradients = [arrays[variable.path] / share for variable in variables]

    def apply() -> None:
        tensors = [
            ops.convert_to_tensor(gradient, variable.dtype)
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        optimizer.apply(tensors, variables)

    if devices.backend == "jax":
        _apply_under_jax(optimizer, gradients, variables)
    elif devices.strategy is not None:
        optimizer.prepare_part(optimizer.num_parts_done)
        devices.strategy.run(tf.function(apply, autograph=False))
    elif devices.backend == "torch":
        _apply_under_torch(apply)
    else:
        apply()


def _apply_under_jax(
    optimizer: keras.optimizers.Optimizer, gradients: list[np.ndarray], variables: list[Variable]
) -> None:
    """One operation after the other, it would not end on several devices."""
    import jax

    changed = [*variables, *optimizer.variables]
    state, weights = ([v.value for v in each] for each in (optimizer.variables, variables))
    new_weights, new_state = jax.jit(optimizer.stateless_apply)(state, gradients, weights)
    for variable, value in zip(changed, [*new_weights, *new_state], strict=True):
        variable.assign(value)


def _apply_under_torch(apply: Callable[[], None]) -> None:
    """As in a step: what changes the weights is not itself differentiated."""
    import torch

    with torch.no_grad():
        apply()
