"""Multiply-accumulates of every kind of layer by hand; test_counts has published networks."""

import keras
import pytest
from keras import layers, ops

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.macs import count_macs, count_parameters


def macs_of(shape, *steps):
    """Counts a chain of layers or functions on an input of this shape, without its batch axis."""
    x = inputs = keras.Input(shape)
    for step in steps:
        x = step(x)
    return count_macs(keras.Model(inputs, x))


def twice(function):
    """Turns a function of two tensors into one of a single tensor, as in self-attention."""
    return lambda x: function(x, x)


@pytest.mark.parametrize(
    ("shape", "layer", "macs"),
    [
        # outputs H x W x F, each of kH x kW x C products
        ((6, 6, 3), layers.Conv2D(4, 3, padding="same"), 6 * 6 * 4 * 3 * 3 * 3),
        ((6, 6, 3), layers.Conv2D(4, 3), 4 * 4 * 4 * 3 * 3 * 3),
        ((7, 6, 3), layers.Conv2D(4, (3, 1), strides=(2, 1)), 3 * 6 * 4 * 3 * 3),
        ((7, 7, 3), layers.Conv2D(4, 3, strides=2, padding="same"), 4 * 4 * 4 * 27),
        ((7, 7, 3), layers.Conv2D(4, 3, dilation_rate=2), 3 * 3 * 4 * 27),
        ((6, 6, 4), layers.Conv2D(8, 3, groups=2, padding="same"), 6 * 6 * 8 * 3 * 3 * 2),
        ((6, 6, 3), layers.Conv2D(4, 1, use_bias=False), 6 * 6 * 4 * 3),
        ((5, 3), layers.Conv1D(2, 3, padding="valid"), 3 * 2 * 3 * 3),
        ((6, 6, 4), layers.DepthwiseConv2D(3, padding="same"), 6 * 6 * 4 * 9),
        ((6, 6, 4), layers.DepthwiseConv2D(3, depth_multiplier=2), 4 * 4 * 8 * 9),
        ((7, 7, 4), layers.DepthwiseConv2D(3, strides=2), 3 * 3 * 4 * 9),
        # depthwise: 4 x 4 x 6 outputs of 9; pointwise: 4 x 4 x 5 outputs of 6
        ((6, 6, 3), layers.SeparableConv2D(5, 3, depth_multiplier=2), 16 * 6 * 9 + 16 * 5 * 6),
        ((10,), layers.Dense(3), 30),
        ((7, 10), layers.Dense(3, use_bias=False), 7 * 30),
        ((2, 7, 10), layers.Dense(3), 2 * 7 * 30),
        ((7, 10), layers.EinsumDense("btf,fhd->bthd", (None, 2, 4)), 7 * 10 * 2 * 4),
        ((8, 8, 3), layers.BatchNormalization(), 0),
        ((8, 8, 3), layers.LayerNormalization(axis=(1, 2, 3)), 0),
        ((8, 8, 3), layers.AveragePooling2D(2), 0),
        ((8, 8, 3), layers.Activation("gelu"), 0),
    ],
)
def test_a_layer(shape, layer, macs):
    assert macs_of(shape, layer) == macs


@pytest.mark.parametrize(
    ("shape", "function", "macs"),
    [
        ((5, 4), lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), 5 * 5 * 4),
        ((2, 5, 4), lambda x: x @ ops.ones((4, 3)), 2 * 5 * 4 * 3),
        ((5, 4), twice(lambda q, k: ops.einsum("btd,bsd->bts", q, k)), 5 * 5 * 4),
        ((6, 5, 4), twice(lambda q, k: ops.einsum("b...td,b...sd->b...ts", q, k)), 6 * 5 * 5 * 4),
        ((6, 5, 4), lambda x: ops.einsum("...d,dk->...k", x, ops.ones((4, 3))), 6 * 5 * 4 * 3),
        # scores and weighted sum: 2 heads x 5 x 5 tokens x 4 channels, twice
        ((5, 2, 4), lambda x: ops.dot_product_attention(x, x, x), 2 * 2 * 5 * 5 * 4),
        ((5, 4), lambda x: ops.softmax(x * 2 + 1), 0),
    ],
)
def test_an_operation(shape, function, macs):
    assert macs_of(shape, function) == macs


def test_windows_folded_into_the_batch_axis_count_for_their_image():
    def attend(x):
        windows = ops.reshape(x, (-1, 4, 3))  # [B * 16, 4, 3]
        return ops.matmul(windows, ops.transpose(windows, (0, 2, 1)))

    assert macs_of((8, 8, 3), attend) == 16 * 4 * 4 * 3


def test_attention_is_projections_scores_and_weighted_sum():
    # 7 tokens of 6 features; 2 heads of 4 for queries and keys, of 5 for values
    project = 7 * 6 * 2 * (4 + 4 + 5) + 7 * 2 * 5 * 6
    attend = 2 * 7 * 7 * (4 + 5)
    layer = layers.MultiHeadAttention(2, 4, value_dim=5)
    assert macs_of((7, 6), twice(layer)) == project + attend


def test_attention_to_other_tokens_and_along_one_axis():
    query, value = keras.Input((7, 6)), keras.Input((3, 5))
    attended = layers.MultiHeadAttention(2, 4)(query, value)
    macs = 7 * 8 * (6 + 6) + 3 * 8 * (5 + 5) + 2 * 7 * 3 * (4 + 4)
    assert count_macs(keras.Model([query, value], attended)) == macs
    columns = layers.MultiHeadAttention(2, 4, attention_axes=2)  # 3 rows of 7 tokens
    assert macs_of((3, 7, 6), twice(columns)) == 3 * (7 * 8 * 6 * 4 + 2 * 7 * 7 * (4 + 4))


def test_a_shared_layer_and_a_model_inside_count_at_each_call():
    shared = layers.Conv2D(3, 3, padding="same")
    once = 8 * 8 * 3 * 27
    assert macs_of((8, 8, 3), shared, shared) == 2 * once
    inner = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(3, 3, padding="same")])
    halved = layers.AveragePooling2D(2)
    assert macs_of((8, 8, 3), inner, halved, inner) == once + once // 4
    inputs = keras.Input((8, 8, 3))
    functional = keras.Model(inputs, shared(inputs))  # only its own call of the shared layer
    assert macs_of((8, 8, 3), functional, shared) == 2 * once
    assert count_macs(functional) == count_macs(inner, 8) == once


def test_the_image_size_of_an_open_model():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 3, padding="same")(inputs))
    assert count_macs(model, 8) == 8 * 8 * 4 * 27
    with pytest.raises(UserError, match="give an image size"):
        count_macs(model)


def test_another_image_size_than_the_models_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2)])
    assert count_macs(model, 8) == 8 * 8 * 3 * 2
    with pytest.raises(UserError, match=r"8 pixels per side.*received image size 16"):
        count_macs(model, 16)


@pytest.mark.parametrize(
    ("shape", "step", "named"),
    [
        ((5, 4), layers.LSTM(3, name="memory"), '"memory", a LSTM'),
        ((5, 4), layers.Lambda(lambda x: x, name="any"), '"any", a Lambda'),
        ((5, 4), lambda x: ops.tensordot(x, ops.ones((4, 2)), 1), "a Tensordot"),
        ((5, 4), lambda x: ops.einsum("bij,bij,bij->b", x, x, x), '"bij,bij,bij->b" of 3'),
    ],
)
def test_a_layer_of_unknown_cost_is_refused_by_name(shape, step, named):
    with pytest.raises(UserError, match=named):
        macs_of(shape, step)


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        pass

    with pytest.raises(UserError, match="received a Own"):
        count_macs(Own())


def test_counting_leaves_the_model_as_it_was():
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=12, width=1)
    nodes = [len(operation._inbound_nodes) for operation in model.operations]
    count_macs(model)
    assert [len(operation._inbound_nodes) for operation in model.operations] == nodes


def test_frozen_parameters_are_not_counted():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    assert count_parameters(model) == 4 * 3 + 3 + 2 * 3
    model.layers[0].trainable = False
    assert count_parameters(model) == 2 * 3
