"""The small residual network: its blocks and shortcuts by hand, and as plain PyTorch has them."""

import keras
import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.init import initialize
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.macs import count_macs, count_parameters
from keras_imnet64.models.small_resnet import average_and_project


def small_resnet(image_size=8, num_classes=3, **options):
    return build_model(
        "small_resnet", image_size=image_size, num_classes=num_classes, dtype="float32", **options
    )


def set_to_identity(layer):
    """Makes a 1x1 convolution pass its channels on."""
    kernel = np.zeros(layer.kernel.shape, "float32")
    for channel in range(min(kernel.shape[2:])):
        kernel[0, 0, channel, channel] = 1
    layer.kernel.assign(kernel)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("rows", "averages"),
    [
        ([[1, 3, 5, 7], [1, 3, 5, 7], [0, 0, 8, 8], [0, 0, 8, 8]], [[2, 6], [0, 8]]),
        ([[1, 3, 5], [1, 3, 7], [2, 4, 9]], [[2, 6], [3, 9]]),  # of the pixels that are there
        ([[4]], [[4]]),
    ],
)
def test_the_shortcut_averages_before_it_projects(rows, averages):
    image = np.array(rows, "float32")[None, :, :, None]
    inputs = keras.Input(image.shape[1:])
    model = keras.Model(inputs, average_and_project(inputs, 2, 2, "b"))
    set_to_identity(model.get_layer("b_shortcut_conv"))
    out = keras.ops.convert_to_numpy(model(image, training=False))
    np.testing.assert_allclose(out[0, :, :, 0], averages, rtol=1e-4)  # BN's epsilon is 1e-5
    assert not out[..., 1].any()


def test_the_shortcut_of_equal_shapes_is_the_input():
    inputs = keras.Input((4, 4, 8))
    assert average_and_project(inputs, 8, 1, "b") is inputs


def test_maps_halve_in_each_stage_but_the_first():
    with without_weights():
        model = small_resnet(64)
        shapes = [model.get_layer(f"stage{s}_block1_out").output.shape[1:] for s in (1, 2, 3, 4)]
        assert shapes == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]
        assert small_resnet(32, stem_stride=1).get_layer("features").output.shape[1] == 4
        assert small_resnet(1).get_layer("features").output.shape[1] == 1


def test_widths_and_blocks_give_these_parameters():
    """By hand: 3x3 kernels, 1x1 projections, two numbers of each normalised channel."""
    with without_weights():
        model = small_resnet(8, 3, widths=[4, 8], blocks=[2, 1])
    stem = 9 * 3 * 4 + 2 * 4
    first = 2 * (2 * (9 * 4 * 4 + 2 * 4))
    second = 9 * 4 * 8 + 9 * 8 * 8 + 2 * 2 * 8 + 4 * 8 + 2 * 8
    assert count_parameters(model) == stem + first + second + 8 * 3 + 3
    # maps of 4x4 pixels in the first stage, of 2x2 in the second
    macs = 16 * (9 * 3 * 4 + 4 * 9 * 4 * 4) + 4 * (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8) + 8 * 3
    assert count_macs(model) == macs


@pytest.mark.backend
def test_blocks_with_a_zero_last_gamma_compute_their_shortcuts():
    model = small_resnet(8, widths=[4, 4], zero_init=True, blocks=[1, 1])
    initialize(model, 0)
    block = keras.Model(model.input, model.get_layer("stage1_block1_out").output)
    stem = keras.Model(model.input, model.get_layer("stem_relu").output)
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), "uint8")
    expected, found = stem.predict(image, verbose=0), block.predict(image, verbose=0)
    np.testing.assert_array_equal(found, expected)
    assert expected.any()


def test_logits_are_those_of_plain_pytorch():
    """The definition written again with PyTorch's own functions, odd maps and random statistics."""
    torch = pytest.importorskip("torch")
    import torch.nn.functional as F

    model = small_resnet(13, widths=[4, 8, 12], blocks=[2, 1, 1])
    initialize(model, 1)
    rng = np.random.default_rng(2)
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))

    def tensor(variable):
        return torch.tensor(keras.ops.convert_to_numpy(variable), dtype=torch.float64)

    def conv(x, name, stride=1):
        kernel = tensor(model.get_layer(name).kernel).permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def bn(x, name):
        gamma, beta, mean, variance = map(tensor, model.get_layer(name).variables)
        return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-5)

    images = rng.integers(0, 256, (2, 13, 13, 3), "uint8")
    x = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = torch.from_numpy(x).permute(0, 3, 1, 2)
    x = bn(conv(x, "stem_conv", 2), "stem_bn").relu()
    for name, stride in [
        ("stage1_block1", 1),
        ("stage1_block2", 1),
        ("stage2_block1", 2),
        ("stage3_block1", 2),
    ]:
        y = bn(conv(x, f"{name}_conv1", stride), f"{name}_bn1").relu()
        y = bn(conv(y, f"{name}_conv2"), f"{name}_bn2")
        if stride == 2:
            x = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
            x = bn(conv(x, f"{name}_shortcut_conv"), f"{name}_shortcut_bn")
        x = (x + y).relu()
    head = model.get_layer("logits")
    expected = (x.mean((2, 3)) @ tensor(head.kernel) + tensor(head.bias)).numpy()
    found = model.predict(images, verbose=0)
    assert abs(found - expected).max() <= 2e-5 * abs(expected).max()


def test_drop_path_grows_from_block_to_block():
    with without_weights():
        model = small_resnet(blocks=[1, 2, 1, 1], drop_path_rate=0.4)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])  # the first block has none


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"widths": [8, 16]}, "needs as many blocks as widths, .*; received 4 and 2"),
        ({"widths": [8, "a"], "blocks": [1, 1]}, "model.widths.1 must be a whole number from 1"),
        ({"widths": 8}, "model.widths must be a list of 1 to 6 whole numbers, each from 1"),
        ({"blocks": [1, 1, 1, 0]}, "model.blocks.3 must be a whole number from 1 to 100"),
        ({"stem_stride": 3}, "model.stem_stride must be a whole number from 1 to 2; received 3"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        small_resnet(**options)
