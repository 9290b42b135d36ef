"""Folds batch normalisation into the layers before it, for inference.

In inference, batch normalisation multiplies each channel by a constant and adds another. Where a
convolution or a dense layer feeds nothing else, the product goes into its kernel and the sum into
its bias (conv -> BN). Behind anything else, such as the sum at the beginning of a pre-activation
block, it stays one multiply-add with constants. The ReLU that follows there keeps it out of the
next convolution. The normalisation of the pixels stays too: the first convolution pads its result
with zeros, which stand for the mean and not for black.

A pooling of one pixel before a 1x1 convolution, which keeps every second row and column, becomes
the stride of that convolution. `parts.conv` splits the two for the sake of the gradient alone.

The folded model computes the same function. Its logits differ in the last bits, so `evaluate` and
`fit` score files as they are, and no folded model is written to a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from keras_imnet64.core.types import Tensor, Variable
from keras_imnet64.models.keras_private import (
    Call,
    Graph,
    calls_of,
    graph_of,
    producer,
    run_graph,
)

FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)  # not their subclasses
EPSILON = 1e-3  # of TensorFlow's kernel: cuDNN refuses less than 1e-5


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Returns a model for inference in which batch normalisation is folded.

    Args:
        model: of any kind. Models inside a functional or sequential one are folded too; others,
            and models in which nothing can be folded, are returned as they are.

    Returns:
        keras.Model: shares all layers with `model` but those that are folded. It follows neither
        later changes of the folded weights nor `training=True`.
    """
    graph = graph_of(model)
    if graph is None:
        return model
    replacements = _replacements(graph)
    if not replacements:
        return model
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in graph.inputs
    ]
    outputs = run_graph(graph, inputs, lambda op: replacements.get(id(op), op))
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=model.name)


def _replacements(graph: Graph) -> dict[int, Callable[..., Tensor]]:
    """Returns {id of a layer: what is called instead of it}."""
    calls = calls_of(graph)
    consumers = _consumers(graph, calls)
    makers = {id(tensor): call for call in calls for tensor in call.outputs}
    once = _called_once(calls)
    found: dict[int, Callable[..., Tensor]] = {}
    for call in calls:
        layer, norm, subsampling = call.operation, None, None
        if id(layer) in once and (inner := graph_of(layer)) and _replacements(inner):
            found[id(layer)] = fold_batch_norm(layer)
        if id(layer) in once and _is_foldable(layer):
            norm = _only_batch_norm(consumers[id(call.outputs[0])], once)
            subsampling = _subsampling_before(call, makers, consumers, once)
        absorbed = [part for part in (norm, subsampling) if part is not None]
        if absorbed and (folded := _fold(layer, norm, subsampling)):
            found |= {id(layer): folded, **{id(part): _keep for part in absorbed}}
    for call in calls:
        layer = call.operation
        if id(layer) in once and id(layer) not in found and _is_constant_norm(call):
            found[id(layer)] = ScaleShift.of(layer)
    return found


def _consumers(graph: Graph, calls: list[Call]) -> dict[int, list[Call | None]]:
    """Returns {id of a tensor: calls that take it}; None stands for the output of the graph."""
    found: dict[int, list[Call | None]] = {
        id(tensor): [] for call in calls for tensor in call.outputs
    }
    for call in calls:
        for tensor in call.inputs:
            found.setdefault(id(tensor), []).append(call)
    for tensor in graph.outputs:
        found.setdefault(id(tensor), []).append(None)
    return found


def _called_once(calls: list[Call]) -> set[int]:
    """Returns the ids of the layers that are called once in a graph."""
    ids = [id(call.operation) for call in calls]
    return {operation for operation in ids if ids.count(operation) == 1}


# --------------------------------------------------------------------------- what can be folded


def _is_foldable(layer: keras.Operation) -> bool:
    return (
        type(layer) in FOLDABLE
        and layer.activation is keras.activations.linear
        and layer.compute_dtype == "float32"
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
    )


def _only_batch_norm(
    consumers: list[Call | None], once: set[int]
) -> keras.layers.BatchNormalization | None:
    """Returns the normalisation that alone takes a tensor, over its channels; None if none does."""
    call = consumers[0] if len(consumers) == 1 else None
    if call is None or id(call.operation) not in once or not _is_constant_norm(call):
        return None
    norm, tensor = call.operation, call.inputs[0]
    channels_first = getattr(producer(tensor), "data_format", None) == "channels_first"
    channels = 1 if channels_first else len(tensor.shape) - 1
    return norm if norm.axis % len(tensor.shape) == channels else None


def _subsampling_before(
    call: Call,
    makers: dict[int, Call],
    consumers: dict[int, list[Call | None]],
    once: set[int],
) -> layers.AveragePooling2D | None:
    """Returns the pooling of one pixel that feeds a 1x1 convolution alone; None if none does."""
    conv, tensor = call.operation, call.inputs[0]
    if id(tensor) not in makers:
        return None
    pool = makers[id(tensor)].operation
    if (
        type(conv) is layers.Conv2D
        and conv.kernel_size == conv.strides == conv.dilation_rate == (1, 1)
        and type(pool) is layers.AveragePooling2D
        and pool.pool_size == (1, 1)
        and pool.strides[0] == pool.strides[1]  # TensorFlow's convolution takes no others
        and pool.data_format == conv.data_format
        and pool.compute_dtype == "float32"
        and id(pool) in once
        and len(consumers[id(tensor)]) == 1
    ):
        return pool
    return None


def _is_constant_norm(call: Call) -> bool:
    """Whether a call is batch normalisation by moving statistics, in float32."""
    layer = call.operation
    return (
        type(layer) is layers.BatchNormalization
        and layer.compute_dtype == "float32"
        and not call.options.get("training")
        and call.options.get("mask") is None
    )


# --------------------------------------------------------------------------------------- folding


@dataclass(frozen=True)
class Affine:
    """Batch normalisation in inference: x * scale + shift, float64 [C] each."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, norm: keras.layers.BatchNormalization) -> Affine:
        scale = 1 / np.sqrt(_float64(norm.moving_variance) + norm.epsilon)
        if norm.scale:
            scale = scale * _float64(norm.gamma)
        shift = -_float64(norm.moving_mean) * scale
        return cls(scale, shift + _float64(norm.beta) if norm.center else shift)


def _fold(
    layer: keras.Layer,
    norm: keras.layers.BatchNormalization | None,
    subsampling: layers.AveragePooling2D | None,
) -> Callable[..., Tensor] | None:
    """Returns the layer with the normalisation in its kernel and bias, and the pooling's strides.

    The product is taken in float64 and rounded once. None if it leaves the range of float32, where
    the two layers one after the other may stay within it.
    """
    changed: dict[str, object] = {}
    if subsampling is not None:
        changed["strides"] = subsampling.strides
    if norm is None:
        weights = layer.get_weights()
    else:
        changed["use_bias"] = True
        weights = _folded_weights(layer, Affine.of(norm))
        if not all(np.isfinite(array).all() for array in weights):
            return None
    folded = type(layer).from_config({**layer.get_config(), **changed})

    def call(x: Tensor, **_: object) -> Tensor:
        outputs = folded(x)  # creates the variables
        folded.set_weights(weights)
        return outputs

    return call


def _folded_weights(layer: keras.Layer, affine: Affine) -> list[np.ndarray]:
    """Returns kernel and bias, float32; infinite where the product leaves that range."""
    kernel, scale = _float64(layer.kernel), affine.scale
    if isinstance(layer, layers.DepthwiseConv2D):
        scale = scale.reshape(kernel.shape[2:])  # [C, multiplier]
    bias = _float64(layer.bias) if layer.use_bias else 0.0
    with np.errstate(over="ignore"):
        return [
            array.astype("float32")
            for array in (kernel * scale, bias * affine.scale + affine.shift)
        ]


def _keep(x: Tensor, **_: object) -> Tensor:
    """Called instead of a layer that is folded into another."""
    return x


class ScaleShift(layers.Layer):
    """x * scale + shift with constants, along one axis; never written to a file."""

    def __init__(self, affine: Affine, axis: int, name: str) -> None:
        super().__init__(dtype="float32", name=name)
        self.affine, self.axis = affine, axis

    @classmethod
    def of(cls, norm: keras.layers.BatchNormalization) -> ScaleShift:
        return cls(Affine.of(norm), norm.axis, norm.name)

    def call(self, x: Tensor, mask: None = None) -> Tensor:
        rank = len(x.shape)
        is_map = rank == 4 and self.axis % rank == rank - 1
        if is_map and keras.config.backend() == "tensorflow":
            return self._in_one_pass(x)
        shape = [1] * rank
        shape[self.axis] = -1
        scale, shift = (
            ops.convert_to_tensor(array.astype("float32").reshape(shape))
            for array in (self.affine.scale, self.affine.shift)
        )
        return x * scale + shift

    def _in_one_pass(self, x: Tensor) -> Tensor:
        """Calls TensorFlow's kernel, which reads the map once, and its ReLU where one follows."""
        import tensorflow as tf

        scale, shift = self.affine.scale * np.sqrt(1 + EPSILON), self.affine.shift
        zeros, ones = np.zeros(len(scale), "float32"), np.ones(len(scale), "float32")
        return tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=scale.astype("float32"),
            offset=shift.astype("float32"),
            mean=zeros,
            variance=ones,
            epsilon=EPSILON,
            is_training=False,
        ).y

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return shape


def _float64(variable: Variable) -> np.ndarray:
    return ops.convert_to_numpy(variable).astype("float64")
