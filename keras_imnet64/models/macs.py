"""What a network costs: its trainable parameters and the multiply-accumulates of one image.

One multiply-add is 1 MAC (papers often call it a FLOP). Convolutions, dense layers, matrix products
and attention are counted; biases, norms, activations, pooling and sums are not. Products with the
zeros of padding count, as is usual.
"""

import inspect
import math
from contextlib import contextmanager

import keras
from keras import layers

# The operations of a graph, as kinds to be told apart, have no public names; nor have these scopes.
from keras.src.backend import StatelessScope
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.ops import nn, numpy
from keras.src.ops.function import Function

from keras_imnet64.core.errors import UserError


@contextmanager
def without_weights():
    """What is built within has shapes and no numbers: 1.4 billion parameters take no memory."""
    waiting = list(get_global_attribute("uninitialized_variables", []))
    try:
        with StatelessScope(initialize_variables=False):
            yield
    finally:
        set_global_attribute("uninitialized_variables", waiting)  # else the next scope makes them


def count_parameters(model):
    """Trainable parameters; frozen ones and the statistics of normalisation are left out."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def count_macs(model, image_size=None):
    """Multiply-accumulates of one forward pass of one image.

    Args:
        model: a functional or sequential keras.Model; models inside it, and layers that are called
            several times, are counted at each call.
        image_size: pixels per side, for a model whose input leaves them open.

    Returns:
        int

    Raises:
        UserError: the image size does not fit the model, or the cost of a layer is not known.
    """
    graph = _graph_of(model)
    if graph is None:
        raise UserError(
            "multiply-accumulates are counted in functional and sequential models; "
            f"received a {type(model).__name__}"
        )
    shapes = [_shape_of_one(x.shape, image_size) for x in graph.inputs]
    macs, _ = _walk(
        graph, [keras.KerasTensor(s, x.dtype) for s, x in zip(shapes, graph.inputs, strict=True)]
    )
    return macs


def _graph_of(operation):
    """The graph inside a model, which can be walked; None for what is no such model."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, Function) else None


def _shape_of_one(shape, image_size):
    """The shape of an input that holds one image: [1, H, W, 3]."""
    filled = [1, *shape[1:]]
    for axis in (1, 2) if len(shape) == 4 else ():
        if filled[axis] is None:
            filled[axis] = image_size
        elif image_size not in (None, filled[axis]):
            raise UserError(
                f"the model takes {filled[axis]} pixels per side: build it anew for another size; "
                f"received image size {image_size}"
            )
    if None in filled:
        raise UserError(f"the model's input {list(shape)} is open: give an image size")
    return tuple(filled)


def _walk(graph, inputs):
    """MACs of all calls in a graph, and its outputs as KerasTensors.

    The shapes that the graph remembers will not do: where windows or heads are folded into the
    batch axis, it has lost how many there are to an image.
    """
    counted = []

    def counting(operation):
        def call(*args, **kwargs):
            inner = _graph_of(operation)
            if inner is not None:
                macs, outputs = _walk(inner, args[0])
            else:
                outputs = operation.compute_output_spec(*args, **kwargs)
                macs = _macs(operation, outputs, args, kwargs)
            counted.append(macs)
            return outputs

        return call

    outputs = graph._run_through_graph(inputs, counting)
    return sum(counted), outputs


def _macs(operation, outputs, args, kwargs):
    """MACs of one call of a layer or an operation of keras.ops."""
    for kinds, count in COUNTED.items():
        if isinstance(operation, kinds):
            return count(operation, outputs, *args, **kwargs)
    matrices = [w for w in getattr(operation, "weights", ()) if len(w.shape) > 1]
    if isinstance(operation, UNKNOWN) or (matrices and not isinstance(operation, FREE)):
        raise UserError(
            f'the multiply-accumulates of layer "{operation.name}", a {type(operation).__name__}, '
            "are not known: its kind needs a row in models/macs.py"
        )
    return 0


# --------------------------------------------------------------------------------- kinds of layers


def _size(x):
    return math.prod(x.shape)


def _convolution(layer, outputs, inputs):
    """Each output number sums over the kernel: height x width x input channels of its group."""
    return _size(outputs) * math.prod(layer.kernel.shape[:-1])


def _depthwise(layer, outputs, inputs):
    return _size(outputs) * math.prod(layer.kernel_size)


def _separable(layer, outputs, inputs):
    """The depthwise part has the positions of the output and makes what the pointwise part takes.

    Its kernel is [kH, kW, C, M], one product per weight and position.
    """
    positions = _size(outputs) // layer.filters
    return positions * (_size(layer.depthwise_kernel) + _size(layer.pointwise_kernel))


def _dense(layer, outputs, inputs):
    return _size(outputs) * layer.kernel.shape[0]


def _einsum_dense(layer, outputs, inputs):
    return _contraction(layer.equation, [inputs.shape, layer.kernel.shape])


def _multi_head_attention(layer, outputs, *args, **kwargs):
    """Three projections, scores, weighted sum, projection; F features, T and S tokens."""
    call = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    query, value = call["query"], call["value"]  # [B, T, F], [B, S, F]
    num_query, num_value = (_size(x) // x.shape[-1] for x in (query, value))
    seen = math.prod(value.shape[axis] for axis in layer.attention_axes)  # by each query token
    gate = _size(layer._gate_dense.kernel) if layer._use_gate else 0
    per_query = _size(layer.query_dense.kernel) + _size(layer.output_dense.kernel) + gate
    per_value = _size(layer.key_dense.kernel) + _size(layer.value_dense.kernel)
    attention = num_query * seen * layer.num_heads * (layer.key_dim + layer.value_dim)
    return num_query * per_query + num_value * per_value + attention


def _matmul(operation, outputs, a, b):
    return _size(outputs) * a.shape[-1]


def _einsum(operation, outputs, *operands):
    return _contraction(operation.subscripts, [x.shape for x in operands])


def _dot_product_attention(operation, outputs, query, key, value, **_):
    """Scores and weighted sum over S tokens; query and outputs are [B, T, heads, D]."""
    return (_size(query) + _size(outputs)) * key.shape[1]


def _contraction(equation, shapes):
    """MACs of an einsum of two operands: the product of the extents of all its indices."""
    if len(shapes) != 2:
        raise UserError(
            f'the einsum "{equation}" of {len(shapes)} operands is not counted: its cost depends '
            "on their order, write it as einsums of two"
        )
    extents = {}
    for indices, shape in zip(equation.split("->")[0].split(","), shapes, strict=True):
        before, _, after = indices.partition("...")
        hidden = range(len(shape) - len(before) - len(after), 0, -1)  # aligned at the right
        for index, extent in zip([*before, *hidden, *after], shape, strict=True):
            extents[index] = max(extent, extents.get(index, 1))
    return math.prod(extents.values())


COUNTED = {
    (layers.Conv1D, layers.Conv2D, layers.Conv3D): _convolution,
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D): _depthwise,
    (layers.SeparableConv1D, layers.SeparableConv2D): _separable,
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.MultiHeadAttention: _multi_head_attention,
    numpy.Matmul: _matmul,
    numpy.Einsum: _einsum,
    nn.DotProductAttention: _dot_product_attention,
}
# Kinds with weights of several axes that multiply nothing, or only number by number.
FREE = (layers.Embedding, layers.LayerNormalization, layers.Normalization)
# Kinds that multiply, or may, and show no such weights.
UNKNOWN = (
    layers.Attention,
    layers.AdditiveAttention,
    layers.Dot,
    layers.Lambda,
    numpy.Dot,
    numpy.Tensordot,
    numpy.Inner,
    nn.Conv,
    nn.DepthwiseConv,
    nn.SeparableConv,
    nn.ConvTranspose,
)
