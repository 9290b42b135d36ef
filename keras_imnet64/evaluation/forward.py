"""Forward passes of a model over whole batches, compiled once.

`Model.predict` prepares an input pipeline at each call and reads every weight from a variable. On
one device a pass is a single compiled function here. Under TensorFlow the weights, up to
`MAX_CONSTANT_BYTES` of them, are constants of its graph: oneDNN then keeps each kernel in its own
order instead of ordering it anew at each call, and what depends on weights alone is computed once.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.types import Tensor

Forward: TypeAlias = Callable[[np.ndarray], np.ndarray]
MAX_CONSTANT_BYTES = 1 << 29  # a graph takes at most 2 GiB, and is copied while it is compiled


def compile_forward(model: keras.Model, devices: Devices) -> Forward:
    """Returns a function from uint8 pixels [B, H, W, 3] to logits [B, K], both NumPy arrays.

    The function is compiled for each new B, and keeps the weights that the model has now.
    """
    if devices.count == 1 and devices.backend == "jax":
        return _jax_forward(model)
    num_bytes = sum(4 * math.prod(variable.shape) for variable in model.variables)
    if devices.count == 1 and devices.backend == "tensorflow" and num_bytes <= MAX_CONSTANT_BYTES:
        return _tensorflow_forward(model, on_gpu=devices.kind == "gpu")
    return keras_forward(model)


def keras_forward(model: keras.Model) -> Forward:
    """Returns `Model.predict` from pixels to logits, see `predictor`."""
    predict = predictor(model)
    return lambda pixels: predict([pixels])[0]


def predictor(model: keras.Model) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Returns `Model.predict` for one batch: arrays of all inputs -> arrays of all outputs.

    All devices share a batch, whose size their number divides. (`predict_on_batch` gives each
    device of TensorFlow the whole batch, and returns the rows of all of them.) The model itself
    stays uncompiled.
    """
    compiled = keras.Model(model.inputs, model.outputs)
    compiled.compile(jit_compile=keras.config.backend() == "jax")

    def predict(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = compiled.predict(list(batch), batch_size=len(batch[0]), verbose=0)
        return list(map(np.asarray, found if isinstance(found, list) else [found]))

    return predict


def _tensorflow_forward(model: keras.Model, on_gpu: bool) -> Forward:
    import tensorflow as tf

    weights = _weights(model)

    @cache
    def compiled(shape: tuple[int, ...]) -> Callable[[tf.Tensor], tf.Tensor]:
        traced = tf.function(lambda pixels: _apply(model, weights, pixels), autograph=False)
        run = traced.get_concrete_function(tf.TensorSpec(shape, tf.uint8))
        if on_gpu:  # where nobody has measured the other way
            return run
        # The operation that a call of the function executes, without 60 us of checks in Python.
        constants = run.captured_inputs
        return lambda pixels: tf.raw_ops.PartitionedCall(
            args=[pixels, *constants], Tout=[run.outputs[0].dtype], f=run
        )[0]

    def forward(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(pixels.shape)(tf.constant(pixels)).numpy())

    return forward


def _jax_forward(model: keras.Model) -> Forward:
    """The weights are arguments: as constants they would slow compiling down."""
    import jax

    weights = jax.device_put(_weights(model))
    run = jax.jit(lambda weights, pixels: _apply(model, weights, pixels))

    def forward(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(run(weights, pixels))

    return forward


Weights: TypeAlias = tuple[list[np.ndarray], list[np.ndarray]]  # trainable ones and others


def _weights(model: keras.Model) -> Weights:
    trainable, others = (
        [keras.ops.convert_to_numpy(variable) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    return trainable, others


def _apply(model: keras.Model, weights: Weights, pixels: Tensor) -> Tensor:
    outputs, _ = model.stateless_call(*weights, pixels, training=False)
    return keras.tree.flatten(outputs)[0]  # a model may name its output
