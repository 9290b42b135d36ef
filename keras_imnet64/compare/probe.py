"""Computes one training step of a compiled model tensor by tensor.

Each part is what the training step computes, reached without a loop of our own: activations are
outputs of a model on the same layers and kernels; gradients are those that Keras' own step hands to
an optimizer, here one that stores them; updates are those of the recipe's optimizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_imnet64.backend.devices import Devices
from keras_imnet64.compare.records import MAX_ELEMENTS, Arrays, LayerCall, positions
from keras_imnet64.core.types import Logs, Tensor, Variable
from keras_imnet64.models.keras_private import CallbacksBesideSteps, calls_of, graph_of

Batch = tuple[np.ndarray, np.ndarray]  # images uint8 [B, H, W, 3], labels


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
) -> list[np.ndarray]:
    """Returns numbers of the output of each call of a network in training, float32 [B, M] each.

    The statistics of batch normalisation and the seeds of dropout move on, as in a step.

    Args:
        trained: the model that trains, whose class calls the layers or faster kernels.
        network: its graph for images of this size.
        images: uint8 [B, H, W, 3].
    """
    outputs = [tensor for call in calls_of(_graph(network)) for tensor in call.outputs[:1]]
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
            return [_take(tensor, where) for tensor, where in zip(found, kept, strict=True)]

    with devices.scope():
        model = InTraining(network.inputs[0], outputs, name="activations")
        model.compile(jit_compile=trained.jit_compile)
        batches = tf.data.Dataset.from_tensors(images)
        found = model.predict(batches, steps=1, verbose=0)
    return [np.asarray(array).astype("float32") for array in found]


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


def gradients(model: keras.Model, batch: Batch, devices: Devices) -> Gradients:
    """Returns the gradients of one training step of a model, whose weights then have moved.

    The step is the model's own, on all devices, but for its optimizer: the velocity of SGD, after
    one step from zero at the rate 1, is minus the gradient to the bit.
    """
    with devices.scope():
        keeper = keras.optimizers.SGD(learning_rate=1.0, momentum=0.5, name="gradients")
        keeper.build(model.trainable_variables)
    optimizer, model.optimizer = model.optimizer, keeper
    model.train_function = None  # that of the other optimizer
    try:
        logs = one_step(model, batch)
        velocities = [-np.array(ops.convert_to_numpy(v), "float32") for v in keeper.momentums]
    finally:
        model.optimizer, model.train_function = optimizer, None
    paths = [variable.path for variable in model.trainable_variables]
    return Gradients(float(logs["loss"]), dict(zip(paths, velocities, strict=True)))


def one_step(model: keras.Model, batch: Batch) -> Logs:
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
        devices.strategy.run(tf.function(apply, autograph=False))
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
