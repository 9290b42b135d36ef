"""Bands of images against SciPy's DCT, and their networks against the paper's counts."""

import keras
import numpy as np
import pytest
import scipy.fft

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model, spectral
from keras_imnet64.models.init import initialize
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.macs import count_macs, count_parameters
from keras_imnet64.models.parts import IMAGENET_MEAN, IMAGENET_STD

slow = pytest.mark.slow  # networks whose counts alone are in `test_counts` too
IDENTITY = {"mean": 0.0, "std": 1.0}


def network(size, factor, band, num_classes=7, normalization=IDENTITY, **base):
    return build_model(
        "spectral",
        image_size=size,
        num_classes=num_classes,
        normalization=normalization,
        factor=factor,
        band=band,
        base=base or {"name": "wide_resnet", "depth": 8, "width": 0.5},
    )


def random_images(size, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), "uint8")


def bands_by_scipy(images, factor):
    """[S^2, B, H / S, W / S, 3]: the authors' split, then SciPy's DCT across the parts."""
    parts = [images[:, r::factor, c::factor] for r in range(factor) for c in range(factor)]
    return scipy.fft.dct(np.stack(parts).astype("float64"), axis=0)


@pytest.mark.parametrize("factor", [2, pytest.param(4, marks=pytest.mark.backend), 6])
def test_bands_are_those_of_scipy(factor, undrawn):
    images = random_images(16 * factor)
    expected = bands_by_scipy(images, factor)
    for band in range(0, factor**2, 5):
        model = network(16 * factor, factor, band)
        layer = keras.Model(model.input, model.get_layer("band").output)
        scale = abs(expected[band]).max()
        found = keras.ops.convert_to_numpy(layer(images))
        np.testing.assert_allclose(found, expected[band], rtol=0, atol=1e-5 * scale)
        by_hand = spectral.band_of(images, factor, band)
        np.testing.assert_allclose(by_hand, expected[band], rtol=0, atol=1e-5 * scale)


def test_an_image_worked_by_hand():
    """2x2 pixels 1, 2 above 3, 4: the published basis [2, 2, 2, 2], [1.848, .765, -.765, -1.848],
    [1.414, -1.414, -1.414, 1.414], [.765, -1.848, 1.848, -.765]."""
    image = np.repeat(np.array([[1, 2], [3, 4]], "uint8")[None, :, :, None], 3, axis=3)
    bands = [spectral.band_of(image, 2, band)[0, 0, 0].tolist() for band in range(4)]
    for channel in range(3):
        assert [b[channel] for b in bands] == pytest.approx([20, -6.308644, 0, -0.448342], abs=1e-4)


def test_a_band_of_the_mirrored_image_is_not_the_mirrored_band():
    """This is why images are augmented before they are split."""
    images = random_images(8)
    of_mirrored = spectral.band_of(images[:, :, ::-1], 2, 1)
    assert not np.allclose(of_mirrored, spectral.band_of(images, 2, 1)[:, :, ::-1])


@pytest.mark.backend
def test_imagenet_normalization_is_that_of_the_pixels_before_the_split(undrawn):
    images = random_images(32)
    normalized = (images / 255 - IMAGENET_MEAN) / IMAGENET_STD
    expected = bands_by_scipy(normalized, 2)
    for band in (0, 1):
        model = network(32, 2, band, normalization="imagenet")
        layer = keras.Model(model.input, model.get_layer("normalization").output)
        found = layer.predict(images, verbose=0)
        np.testing.assert_allclose(found, expected[band], rtol=0, atol=2e-5)


def test_mean_and_spread_are_measured_on_the_bands():
    images = random_images(12, count=40)
    expected = bands_by_scipy(images, 2)[3].reshape(-1, 3) / 255
    found = spectral.band_mean_and_std(np.array_split(images, 3), 2, 3)
    np.testing.assert_allclose(found["mean"], expected.mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["std"], expected.std(axis=0), rtol=1e-6)
    grey = np.full((2, 4, 4, 3), 7, "uint8")
    assert spectral.band_mean_and_std([grey], 2, 1)["std"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("base", "size", "factor", "num_classes", "parameters"),
    [
        ({"name": "resnet34", "stem": "small"}, 224, 4, 1000, 21_789_992),
        ({"name": "alexnet"}, 224, 2, 1000, 27_546_408),
        pytest.param({"name": "vgg16_bn"}, 224, 2, 1000, 54_479_912, marks=slow),  # 207.82 MB
        pytest.param({"name": "resnet34"}, 224, 2, 1000, 21_797_672, marks=slow),  # 83.15 MB
        pytest.param({"name": "resnet50"}, 224, 2, 1000, 25_557_032, marks=slow),
        pytest.param(
            {"name": "resnet50", "stem": "imagenet"}, 336, 6, 10_450, 44_920_082, marks=slow
        ),
        pytest.param(
            {"name": "resnet34", "stem": "imagenet"}, 336, 6, 10_450, 26_645_522, marks=slow
        ),
    ],
)
def test_parameters_are_those_of_the_published_sizes_that_can_be_confirmed(
    base, size, factor, num_classes, parameters
):
    with without_weights():
        model = network(size, factor, 1, num_classes, **base)
    assert count_parameters(model) == parameters


def test_a_branch_costs_its_network_and_the_band():
    """At 56 pixels a ResNet-34 without pool has the 3.55 GMAC of the published one."""
    base = {"name": "resnet34", "stem": "small"}
    with without_weights():
        alone = build_model(image_size=56, num_classes=1000, **base)
        model = network(224, 4, 3, 1000, **base)
    assert count_macs(model) == count_macs(alone) + 56 * 56 * 3 * 16
    assert round(count_macs(alone) / 1e9, 2) == 3.55


@pytest.mark.backend
def test_the_layers_of_a_network_keep_their_names_and_outputs(undrawn):
    model = network(32, 2, 2)
    names = [layer.name for layer in model.layers]
    assert names[:3] == ["pixels", "band", "normalization"] and names[-1] == "logits"
    assert model.get_layer("pool").output.shape == (None, 16)
    initialize(model, 0)
    drawn = keras.ops.convert_to_numpy(model.get_layer("band").kernel)
    np.testing.assert_allclose(drawn, spectral.kernel(2, 2), rtol=0, atol=1e-6)
    assert not model.get_layer("band").trainable_variables


def test_the_joined_model_computes_the_mean_of_its_branches():
    joined = network(32, 2, "all")
    images = random_images(32)
    logits = joined(images)
    branches = [joined.get_layer(f"branch-{band:02}") for band in range(4)]
    alone = [branch(images) for branch in branches]
    np.testing.assert_allclose(logits, np.mean(alone, axis=0), rtol=0, atol=1e-5)
    assert len({v.path for v in joined.variables}) == len(joined.variables)
    for band, branch in enumerate(branches):
        found = keras.ops.convert_to_numpy(branch.get_layer(f"{branch.name}_band").kernel)
        np.testing.assert_allclose(found, spectral.kernel(2, band), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 33}, "divisible by model.factor = 2; received 33, .* works is 32"),
        ({"band": 4}, 'model.band must be a whole number from 0 to 3, or "all".*received 4'),
        ({"band": -1}, "model.band must be a whole number from 0 to 255"),
        ({"factor": 1}, "model.factor must be a whole number from 2 to 16; received 1"),
        ({"base": "resnet34"}, "model.base must be a table such as"),
        ({"base": {}}, "model.base.name is missing"),
        ({"base": {"name": "resnet43"}}, 'model.base.name "resnet43".*did you mean "resnet34"'),
        ({"base": {"name": "resnet34", "stm": 1}}, 'model.base.stm .* did you mean "stem"'),
        ({"base": {"name": "spectral"}}, "must be an ordinary network"),
        ({"base": {"name": "vgg16"}}, "vgg16 needs at least 32 pixels.*received image size 16"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options, message):
    given = {"image_size": 32, "factor": 2, "band": 0, "base": {"name": "resnet18"}} | options
    with pytest.raises(UserError, match=message):
        build_model("spectral", num_classes=7, **given)
