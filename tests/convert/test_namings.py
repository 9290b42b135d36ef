"""Layouts of PyTorch and Keras tensors, worked by hand; test_golden.py tests whole networks."""

import keras
import numpy as np
import pytest
from foreign_weights import shapes_of
from keras import layers

from keras_imnet64.convert.namings import NAMINGS, assign_weights, choose_naming, num_classes_of
from keras_imnet64.core.errors import UserError


def small_model(*inner, shape=(1, 2, 3)):
    """A model with an input [H, W, C], some layers and two logits."""
    inputs = keras.Input(shape)
    x = layers.Identity(name="features")(inputs)
    for layer in inner:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, use_bias=False, name="logits")(x))


def own_name(layer):
    return layer


def test_a_dense_layer_after_flatten_is_reordered_to_channels_last():
    """PyTorch flattens by channel: value c * 2 + w of a map of 1x2 pixels, C = 3."""
    model = small_model(layers.Flatten(), layers.Dropout(0.5))
    weight = np.array([[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]], "float32")
    for array in (weight, weight.reshape(2, 3, 1, 2)):  # timm has those of VGG as convolutions
        assign_weights(model, {"logits.weight": array}, own_name, "file")
        found = keras.ops.convert_to_numpy(model.get_layer("logits").kernel)
        np.testing.assert_array_equal(found[:, 0], [0, 2, 4, 1, 3, 5])
        np.testing.assert_array_equal(found[:, 1], [10, 12, 14, 11, 13, 15])


def test_a_convolution_kernel_is_transposed():
    """PyTorch has [O, I, h, w]; here output 1 and input 2 at row 0, column 1."""
    model = small_model(
        layers.Conv2D(2, (1, 2), use_bias=False, name="conv"), layers.GlobalAveragePooling2D()
    )
    kernel = np.zeros((2, 3, 1, 2), "float32")
    kernel[1, 2, 0, 1] = 5
    assign_weights(model, {"conv.weight": kernel, "logits.weight": np.eye(2)}, own_name, "file")
    pixels = np.array([[[[1, 2, 3], [4, 5, 6]]]], "float32")
    np.testing.assert_array_equal(model.predict(pixels, verbose=0), [[0, 30]])


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({}, r"lacks tensors of .*: logits.weight \[2, 6\]"),
        ({"logits.weight": np.ones((2, 6)), "b": np.ones(1)}, "does not have: b"),
        ({"logits.weight": np.ones((2, 1, 2, 3))}, r"is \[2, 1, 2, 3\], \[2, 6\] here"),
        ({"logits.weight": np.ones((2, 6), "int8")}, "holds logits.weight as int8"),
        ({"logits.weight": np.full((2, 6), 1e300)}, "numbers that are not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, sentence):
    with pytest.raises(UserError, match=sentence):
        assign_weights(small_model(layers.Flatten()), arrays, own_name, "file")


def test_variances_below_zero_are_refused():
    model = small_model(layers.BatchNormalization(name="bn"), layers.Flatten())
    arrays = {f"bn.{name}": np.ones(3) for name in ("weight", "bias", "running_mean")}
    arrays |= {"bn.running_var": np.array([1, -1, 1]) * 1.0, "logits.weight": np.ones((2, 6))}
    with pytest.raises(UserError, match=r"bn\.running_var has variances below 0"):
        assign_weights(model, arrays, own_name, "file")


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_the_naming_is_chosen_by_the_classifier_in_the_file(name):
    for naming in NAMINGS[name]:
        arrays = {f"{naming('logits')}.weight": np.zeros((7, 4096))}
        assert choose_naming(name, arrays) is naming
        assert num_classes_of(arrays, naming, "file") == 7


def test_names_are_those_of_torchvision():
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias"} < shapes_of(
        "resnet18"
    ).keys()
    assert shapes_of("alexnet", 1000)["classifier.1.weight"] == (4096, 9216)


def test_a_step_counter_of_an_unknown_layer_is_refused():
    model = small_model(layers.BatchNormalization(name="bn"), layers.Flatten())
    arrays = {f"bn.{name}": np.ones(3) for name in ("weight", "bias", "running_mean")}
    arrays |= {"bn.running_var": np.ones(3), "logits.weight": np.ones((2, 6))}
    arrays["bn.num_batches_tracked"] = np.array(3)
    assign_weights(model, arrays, own_name, "file")
    with pytest.raises(UserError, match=r"does not have: hidden\.num_batches_tracked"):
        assign_weights(model, arrays | {"hidden.num_batches_tracked": np.ones(4)}, own_name, "file")
