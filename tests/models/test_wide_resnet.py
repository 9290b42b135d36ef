"""WRN-N-k against the paper's script: counts, structure, initial weights, refusals."""

import keras
import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.init import initialize
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.macs import count_parameters

# Trainable parameters by (image size, width), arXiv:1707.08819: its figures where it
# prints them (37.6M, 6.2M, 37.1M, 1.6M) and the formula of its architecture for all.
TRAINABLE = {
    (64, 0.5): 438_744,
    (64, 1): 1_615_224,
    (64, 2): 6_185_784,
    (64, 5): 37_638_264,
    (64, 10): 149_195_064,
    (32, 0.5): 126_936,
    (32, 1): 434_552,
    (32, 2): 1_596_216,
    (32, 5): 9_452_664,
    (32, 10): 37_118_264,
    (16, 0.5): 40_664,
    (16, 1): 122_744,
    (16, 2): 415_544,
    (16, 5): 2_323_064,
    (16, 10): 8_932_664,
}
MOVING = {  # moving means and variances by image size, for width 1
    64: 3_872,
    32: 1_824,
    16: 800,
}
STEM = [0.08100057393312454, -0.006196255795657635, -0.2956011891365051]
STEM_SUM = 98.89404296875
DEPTH = {64: 36, 32: 28, 16: 20}


def wrn(image_size=16, width=0.5, depth=None, num_classes=10, **options):
    depth = depth or DEPTH[image_size]
    return build_model(
        "wide_resnet",
        image_size=image_size,
        num_classes=num_classes,
        depth=depth,
        width=width,
        **options,
    )


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.parametrize(("image_size", "width"), TRAINABLE)
def test_parameters_are_the_papers(image_size, width):
    with without_weights():
        model = wrn(image_size, width, num_classes=1000)
    assert count(model.trainable_variables) == TRAINABLE[image_size, width]
    if width == 1:
        assert count(model.non_trainable_variables) == MOVING[image_size]


@pytest.mark.parametrize(("num_classes", "published"), [(10, 36_479_194), (100, 36_536_884)])
@pytest.mark.parametrize("image_size", [32, 64])
def test_three_stages_have_the_parameters_of_the_first_paper(num_classes, published, image_size):
    """WRN-28-10 of arXiv:1605.07146, whose convolutions have no biases."""
    with without_weights():
        model = wrn(image_size, 10, depth=28, num_classes=num_classes, stages=3)
    biases = 4 * (160 + 320 + 640)  # of the second convolutions
    assert count(model.trainable_variables) == published + biases
    assert count_parameters(model) == published + biases
    assert model.get_layer("features").output.shape[1:] == (image_size // 4, image_size // 4, 640)


@pytest.mark.parametrize(
    ("size", "stages", "last"), [(24, 3, 6), (7, 2, 4), (1, 1, 1), (64, 1, 64)]
)
def test_a_number_of_stages_fits_any_size(size, stages, last):
    with without_weights():
        model = wrn(size, 1, depth=4 + 2 * stages, stages=stages)
    assert model.get_layer("features").output.shape[1:] == (last, last, 16 * 2 ** (stages - 1))


def test_the_number_of_stages_that_a_size_has_changes_nothing():
    with without_weights():
        auto, given = wrn(32, 1, depth=10), wrn(32, 1, depth=10, stages=3)
    assert [v.path for v in auto.variables] == [v.path for v in given.variables]
    assert [tuple(v.shape) for v in auto.variables] == [tuple(v.shape) for v in given.variables]


def test_biases_are_the_second_convolutions_and_the_dense_layers():
    biased = [layer.name for layer in wrn().layers if getattr(layer, "use_bias", False)]
    assert biased == [f"stage{s}_block{b}_conv2" for s in (1, 2) for b in (1, 2, 3, 4)] + ["logits"]


def test_projections_take_the_raw_block_input():
    model = wrn()
    first = model.get_layer("stage1_block1_shortcut").input._keras_history[0]
    second = model.get_layer("stage2_block1_shortcut_pick").input._keras_history[0]
    assert first.name == "stem_relu"
    assert second.name == "stage1_block4_add"


def test_maps_halve_down_to_eight_and_named_layers_exist():
    model = wrn(32)
    shapes = {name: model.get_layer(name).output.shape for name in ("features", "pool", "logits")}
    assert shapes == {"features": (None, 8, 8, 32), "pool": (None, 32), "logits": (None, 10)}
    assert model.input.dtype == "float32"


def test_strided_convolutions_pad_on_both_sides():
    """At the first output a stride-2 kernel of ones sees 2x2 pixels; with "same" it sees 3x3."""
    from keras_imnet64.models.wide_resnet import conv3x3

    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, conv3x3(inputs, 1, stride=2, name="c"))
    model.get_layer("c").set_weights([np.ones((3, 3, 1, 1), "float32")])
    out = model.predict(np.ones((1, 4, 4, 1), "float32"), verbose=0)[0, :, :, 0]
    assert out.tolist() == [[4, 6], [6, 9]]


def test_strided_projections_take_every_second_pixel_from_the_first():
    from keras_imnet64.models.wide_resnet import conv1x1

    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, conv1x1(inputs, 1, stride=2, name="c"))
    model.get_layer("c").set_weights([np.full((1, 1, 1, 1), 2, "float32")])
    out = model.predict(np.arange(16, dtype="float32").reshape(1, 4, 4, 1), verbose=0)[0, :, :, 0]
    assert out.tolist() == [[0, 4], [16, 20]]


def test_batch_norm_has_the_scripts_constants():
    norms = [v for v in wrn().layers if isinstance(v, keras.layers.BatchNormalization)]
    assert len(norms) == 17
    assert {(n.epsilon, n.momentum) for n in norms} == {(1e-4, 0.9)}


def test_initial_weights_have_the_scripts_distributions():
    model = wrn(32, 5)
    initialize(model, 0)
    kernel = keras.ops.convert_to_numpy(model.get_layer("stage2_block2_conv1").kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 160)), rel=0.01)  # He, fan in
    assert abs(kernel).max() > 3.5 * kernel.std()  # not truncated
    shortcut = keras.ops.convert_to_numpy(model.get_layer("stage2_block1_shortcut").kernel)
    assert abs(shortcut).max() == pytest.approx(np.sqrt(6 / (80 + 160)), rel=0.01)  # Glorot
    dense = keras.ops.convert_to_numpy(model.get_layer("logits").kernel)
    assert dense.std() == pytest.approx(np.sqrt(1 / 320), rel=0.05)


@pytest.mark.backend
def test_initial_weights_are_the_same_on_every_backend():
    """Frozen: the sums below were printed by this test under TensorFlow."""
    model = wrn()
    initialize(model, 7)
    stem = keras.ops.convert_to_numpy(model.get_layer("stem_conv").kernel)
    assert stem[0, 0, 0, :3].tolist() == pytest.approx(STEM, abs=0)
    assert float(np.abs(stem).sum()) == pytest.approx(STEM_SUM, rel=1e-6)
    initialize(model, 8)
    assert not np.allclose(keras.ops.convert_to_numpy(model.get_layer("stem_conv").kernel), stem)


@pytest.mark.backend
def test_pixels_are_normalised_inside_in_float32():
    image = np.arange(16 * 16 * 3).reshape(1, 16, 16, 3) % 256
    mean = np.full((16, 16, 3), 0.25)
    mean[0, 0] = [0.1, 0.2, 0.3]
    model = wrn(normalization={"mean": mean, "std": 1.0}, dtype="mixed_bfloat16")
    probe = keras.Model(model.input, model.get_layer("normalization").output)
    expected = image / 255 - mean
    for pixels in (image.astype("uint8"), image.astype("float32")):
        np.testing.assert_allclose(probe.predict(pixels, verbose=0), expected, atol=1e-6)
    assert model.get_layer("logits").compute_dtype == "float32"
    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"


def test_imagenet_normalization_is_per_channel():
    model = wrn()
    probe = keras.Model(model.input, model.get_layer("normalization").output)
    white = probe.predict(np.full((1, 16, 16, 3), 255, "uint8"), verbose=0)[0, 0, 0]
    np.testing.assert_allclose(white, [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-5)


def test_dropout_sits_between_the_convolutions_and_can_be_seeded():
    model = wrn(dropout=0.3)
    conv2 = model.get_layer("stage1_block1_conv2")
    assert conv2.input._keras_history[0].name == "stage1_block1_dropout"
    assert not any("dropout" in layer.name for layer in wrn().layers)
    assert count(model.trainable_variables) == count(wrn().trainable_variables)


@pytest.mark.parametrize(
    ("image_size", "depth", "message"),
    [
        (64, 37, "nearest that fits is 36"),
        (16, 5, "nearest that fits is 8"),
        (48, 28, "image size 48"),
    ],
)
def test_sizes_and_depths_that_do_not_fit_are_refused(image_size, depth, message):
    with pytest.raises(UserError, match=message):
        wrn(image_size, depth=depth)


def test_other_sizes_and_depths_that_fit_work():
    assert wrn(128, depth=14).get_layer("features").output.shape == (None, 8, 8, 128)
    assert wrn(8, depth=6).get_layer("features").output.shape == (None, 8, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 2, "depth": 20}, 'did you mean "width"'),
        ({"depth": 20}, "needs a value for width"),
        ({"depth": "20", "width": 1}, "depth must be a number"),
        ({"depth": 20, "width": 0.3}, "whole numbers of filters"),
        ({"depth": 20, "width": 1, "stages": 3}, r"4 \+ 6 x blocks with 3 stages .* fits is 22"),
        ({"depth": 20, "width": 1, "stages": 0}, 'stages must be a whole number .* or "auto"'),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options, message):
    with pytest.raises(UserError, match=message):
        build_model("wide_resnet", image_size=16, num_classes=10, **options)
