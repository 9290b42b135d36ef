"""Counts what a network costs: its trainable parameters and the multiply-accumulates of one image.

One multiply-add is 1 MAC (papers often call it a FLOP). Convolutions, dense layers, matrix products
and attention are counted; biases, norms, activations, pooling and sums are not. Products with the
zeros of padding are counted, as is usual.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence

import keras
from keras import layers

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Tensor
from keras_imnet64.models import keras_private
from keras_imnet64.models.keras_private import Graph, graph_of, run_graph

Shape = Sequence[int]


def known_macs(model: keras.Model, image_size: int | None) -> int | None:
    """Returns the multiply-accumulates of one image, None if those of a layer are not known."""
    try:
        return count_macs(model, image_size)
    except UserError:
        return None


def count_parameters(model: keras.Model) -> int:
    """Counts trainable parameters: neither frozen ones nor the statistics of normalisation."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def count_macs(model: keras.Model, image_size: int | None = None) -> int:
    """Counts the multiply-accumulates of one forward pass of one image.

    Args:
        model: a functional or sequential model; models inside it, and layers that are called
            several times, are counted at each call.
        image_size: pixels per side, for a model that takes images of any size.

    Raises:
        UserError: the image size does not fit the model, or the MACs of a layer are not known.
    """
    graph = graph_of(model)
    if graph is None:
        raise UserError(
            "multiply-accumulates are counted in functional and sequential models; "
            f"received a {type(model).__name__}"
        )
    inputs = [keras.KerasTensor(_one_image(x.shape, image_size), x.dtype) for x in graph.inputs]
    macs, _ = _count_calls(graph, inputs)
    return macs


def _one_image(shape: Sequence[int | None], image_size: int | None) -> tuple[int, ...]:
    """Returns the shape of an input that holds one image: [1, H, W, 3]."""
    filled = [1, *shape[1:]]
    for axis in (1, 2) if len(shape) == 4 else ():
        if filled[axis] is None:
            filled[axis] = image_size
        elif image_size not in (None, filled[axis]):
            raise UserError(
                f"the model takes {filled[axis]} pixels per side; received image size "
                f"{image_size}; build the model for that size"
            )
    sizes = tuple(size for size in filled if size is not None)
    if len(sizes) < len(filled):
        raise UserError(f"the model's input {list(shape)} has no fixed size: give an image size")
    return sizes


def _count_calls(graph: Graph, inputs: Sequence[Tensor]) -> tuple[int, Tensor]:
    """Returns the MACs of all calls in a graph, and its outputs as KerasTensors.

    The shapes recorded in the graph are not enough: where windows or heads are folded into the
    batch axis, they do not tell how many belong to one image.
    """
    counts = []

    def counting(operation: keras.Operation) -> Callable[..., Tensor]:
        def call(*args: Tensor, **kwargs: object) -> Tensor:
            inner = graph_of(operation)
            if inner is not None:
                macs, outputs = _count_calls(inner, args[0])
            else:
                outputs = operation.compute_output_spec(*args, **kwargs)
                macs = _macs_of_call(operation, outputs, args, kwargs)
            counts.append(macs)
            return outputs

        return call

    outputs = run_graph(graph, inputs, counting)
    return sum(counts), outputs


def _macs_of_call(
    operation: keras.Operation,
    outputs: Tensor,
    args: Sequence[Tensor],
    kwargs: Mapping[str, object],
) -> int:
    """Counts one call of a layer or an operation of keras.ops."""
    for kinds, count in COUNTED.items():
        if isinstance(operation, kinds):
            return count(operation, outputs, *args, **kwargs)
    matrices = [w for w in getattr(operation, "weights", ()) if len(w.shape) > 1]
    if isinstance(operation, UNKNOWN) or (matrices and not isinstance(operation, FREE)):
        raise UserError(
            f'the multiply-accumulates of layer "{operation.name}", a {type(operation).__name__}, '
            "are not known; its class needs a row in models/macs.py"
        )
    return 0


# --------------------------------------------------------------------------------- kinds of layers


def _size(x: Tensor) -> int:
    return math.prod(x.shape)


def _convolution(layer: keras.Layer, outputs: Tensor, inputs: Tensor) -> int:
    """Each output number sums over the kernel: height x width x input channels of its group."""
    return _size(outputs) * math.prod(layer.kernel.shape[:-1])


def _depthwise(layer: keras.Layer, outputs: Tensor, inputs: Tensor) -> int:
    return _size(outputs) * math.prod(layer.kernel_size)


def _separable(layer: keras.Layer, outputs: Tensor, inputs: Tensor) -> int:
    """Both parts compute one product per weight and position of the output.

    The depthwise kernel is [kH, kW, C, M], the pointwise kernel [1, 1, C * M, filters].
    """
    positions = _size(outputs) // layer.filters
    return positions * (_size(layer.depthwise_kernel) + _size(layer.pointwise_kernel))


def _dense(layer: keras.Layer, outputs: Tensor, inputs: Tensor) -> int:
    return _size(outputs) * layer.kernel.shape[0]


def _einsum_dense(layer: keras.Layer, outputs: Tensor, inputs: Tensor) -> int:
    return _contraction(layer.equation, [inputs.shape, layer.kernel.shape])


def _multi_head_attention(
    layer: keras.layers.MultiHeadAttention,
    outputs: Tensor,
    *args: Tensor,
    **kwargs: object,
) -> int:
    """Three projections, scores, weighted sum, projection; F features, T and S tokens."""
    call = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    query, value = call["query"], call["value"]  # [B, T, F], [B, S, F]
    num_query, num_value = (_size(x) // x.shape[-1] for x in (query, value))
    num_attended = math.prod(value.shape[axis] for axis in layer.attention_axes)  # per query token
    gate = keras_private.attention_gate(layer)
    per_query = _size(layer.query_dense.kernel) + _size(layer.output_dense.kernel)
    per_query += 0 if gate is None else _size(gate)
    per_value = _size(layer.key_dense.kernel) + _size(layer.value_dense.kernel)
    attention = num_query * num_attended * layer.num_heads * (layer.key_dim + layer.value_dim)
    return num_query * per_query + num_value * per_value + attention


def _matmul(operation: keras.Operation, outputs: Tensor, a: Tensor, b: Tensor) -> int:
    return _size(outputs) * a.shape[-1]


def _einsum(operation: keras.Operation, outputs: Tensor, *operands: Tensor) -> int:
    return _contraction(operation.subscripts, [x.shape for x in operands])


def _dot_product_attention(
    operation: keras.Operation,
    outputs: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    **_: object,
) -> int:
    """Scores and weighted sum over S tokens; query and outputs are [B, T, heads, D]."""
    return (_size(query) + _size(outputs)) * key.shape[1]


def _contraction(equation: str, shapes: Sequence[Shape]) -> int:
    """Counts an einsum of two operands: the product of the extents of all its indices."""
    if len(shapes) != 2:
        raise UserError(
            f'the einsum "{equation}" of {len(shapes)} operands is not counted: its cost depends '
            "on their order; write it as einsums of two operands"
        )
    extents: dict[str | int, int] = {}
    for indices, shape in zip(equation.split("->")[0].split(","), shapes, strict=True):
        before, _, after = indices.partition("...")
        hidden = range(len(shape) - len(before) - len(after), 0, -1)  # aligned at the right
        for index, extent in zip([*before, *hidden, *after], shape, strict=True):
            extents[index] = max(extent, extents.get(index, 1))
    return math.prod(extents.values())


COUNTED: dict[type | tuple[type, ...], Callable[..., int]] = {
    (layers.Conv1D, layers.Conv2D, layers.Conv3D): _convolution,
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D): _depthwise,
    (layers.SeparableConv1D, layers.SeparableConv2D): _separable,
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.MultiHeadAttention: _multi_head_attention,
    keras_private.Matmul: _matmul,
    keras_private.Einsum: _einsum,
    keras_private.DotProductAttention: _dot_product_attention,
}
# Layers with weights of several axes that are looked up, or multiplied element by element.
FREE = (layers.Embedding, layers.LayerNormalization, layers.Normalization)
# Layers and operations that multiply matrices, or may do so, without such weights.
UNKNOWN = (
    layers.Attention,
    layers.AdditiveAttention,
    layers.Dot,
    layers.Lambda,
    keras_private.Dot,
    keras_private.Tensordot,
    keras_private.Inner,
    keras_private.Conv,
    keras_private.DepthwiseConv,
    keras_private.SeparableConv,
    keras_private.ConvTranspose,
)
