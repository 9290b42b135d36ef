"""Folded models compute what the unfolded ones do, and what cannot be folded stays as it is."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from keras_imnet64 import predict
from keras_imnet64.backend.devices import take_devices
from keras_imnet64.evaluation.forward import compile_forward
from keras_imnet64.models import build_model, vgg
from keras_imnet64.models.fold import ScaleShift, fold_batch_norm
from keras_imnet64.models.init import initialize
from keras_imnet64.models.ship import write_model_file

NETWORKS = {  # name: image size, options, normalisations that stay as a multiply-add
    "wide_resnet": (16, {"depth": 8, "width": 0.5}, 2),
    "resnet18": (16, {"stem": "small"}, 0),
    "tiny_cnn1": (16, {}, 1),
    "vgg16_bn": (32, {}, 0),
}


def randomize(model):
    """Draws biases, means, variances, gammas and betas."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1 and "float" in str(variable.dtype):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def chain(*parts, shape=(6, 6, 3)):
    x = inputs = keras.Input(shape)
    for part in parts:
        x = part(x)
    return randomize(keras.Model(inputs, x))


def check_same(model, folded, tolerance=1e-4):
    """Compares outputs for random pixels; returns the unfolded ones."""
    shape = (4, *model.input.shape[1:])
    pixels = np.random.default_rng(1).integers(0, 256, shape, "uint8")
    if model.layers[1].name != "normalization":
        pixels = (pixels / 255).astype("float32")
    expected, found = (keras.ops.convert_to_numpy(each(pixels)) for each in (model, folded))
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-5)
    assert np.ptp(expected) > 0.01
    return expected


@pytest.fixture
def network(slim, undrawn, monkeypatch):
    """network(name, num_classes) -> a narrow one with random weights."""
    monkeypatch.setattr(vgg, "STAGES", tuple((filters, 1) for filters in (16, 16, 24, 24, 32)))

    def make(name, num_classes):
        size, options, _ = NETWORKS[name]
        model = build_model(name, image_size=size, num_classes=num_classes, **options)
        initialize(model, 0)
        return randomize(model)

    return make


@pytest.mark.parametrize(
    "name",  # the first keeps a `ScaleShift`, which has no other network under JAX
    [pytest.param(n, marks=[pytest.mark.backend] if n == "wide_resnet" else []) for n in NETWORKS],
)
def test_networks_give_the_same_logits(name, network):
    size, _, num_left = NETWORKS[name]
    model = network(name, 7)
    folded = fold_batch_norm(model)
    assert not norms(folded)
    assert not [layer for layer in folded.layers if layer.name.endswith("_pick")]
    assert sum(isinstance(layer, ScaleShift) for layer in folded.layers) == num_left
    expected = check_same(model, folded)
    pixels = np.random.default_rng(1).integers(0, 256, (4, size, size, 3), "uint8")
    logits = compile_forward(folded, take_devices())(pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(5, 3, strides=2, padding="same", use_bias=False),
        layers.Conv2D(6, 3, groups=3),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.Dense(4),
    ],
    ids=["strided", "grouped", "depthwise", "dense"],
)
@pytest.mark.parametrize("options", [{}, {"center": False, "scale": False}])
def test_kinds_of_layers(layer, options):
    layer = type(layer).from_config(layer.get_config())
    model = chain(layer, layers.BatchNormalization(**options))
    folded = fold_batch_norm(model)
    assert len(folded.layers) == 2
    check_same(model, folded, 1e-5)


@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "not normalised"])
@pytest.mark.parametrize("size", [6, 7])
def test_a_pooling_of_one_pixel_becomes_a_stride(norm, size):
    """The network's shortcuts; odd maps keep their last row and column."""
    after = [layers.BatchNormalization()] if norm else []
    pick = layers.AveragePooling2D(1, 2)
    model = chain(pick, layers.Conv2D(5, 1, use_bias=False), *after, shape=(size, size, 3))
    folded = fold_batch_norm(model)
    assert [type(layer) for layer in folded.layers[1:]] == [layers.Conv2D]
    check_same(model, folded, 1e-5)


@pytest.mark.parametrize(
    "parts",
    [
        [layers.AveragePooling2D(2, 2), layers.Conv2D(5, 1)],
        [layers.AveragePooling2D(1, 2), layers.Conv2D(5, 3)],
        [layers.AveragePooling2D(1, 2), layers.Conv2D(5, 1, strides=2)],
        [layers.AveragePooling2D(1, (1, 2)), layers.Conv2D(5, 1)],
        [layers.AveragePooling2D(1, 2), layers.Conv2D(5, 1, dilation_rate=2)],
    ],
    ids=["two pixels", "3x3", "strided", "columns alone", "dilated"],
)
def test_other_poolings_stay(parts):
    model = chain(*[type(part).from_config(part.get_config()) for part in parts])
    assert fold_batch_norm(model) is model


def test_a_pooling_that_is_taken_twice_stays():
    inputs = keras.Input((6, 6, 3))
    x = layers.AveragePooling2D(1, 2)(inputs)
    x = layers.Add()([layers.BatchNormalization()(layers.Conv2D(3, 1)(x)), x])
    model = randomize(keras.Model(inputs, x))
    folded = fold_batch_norm(model)
    assert not norms(folded)
    assert sum(isinstance(layer, layers.AveragePooling2D) for layer in folded.layers) == 1
    check_same(model, folded, 1e-5)


def drawn_images(count, size):
    """Smooth colours, edges and texture: images that networks tell apart, unlike noise."""
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[:size, :size] / size
    images = []
    for _ in range(count):
        angle, phase, waves = rng.uniform(0, 6.3), rng.uniform(0, 6.3), rng.uniform(1, 9)
        along = np.cos(angle) * rows + np.sin(angle) * columns
        stripes = np.sin(6.3 * waves * along + phase)[..., None]
        disc = np.hypot(rows - rng.uniform(), columns - rng.uniform()) < rng.uniform(0.1, 0.5)
        image = rng.uniform(60, 200, 3) + stripes * rng.uniform(-60, 60, 3)
        image = np.where(disc[..., None], rng.uniform(0, 255, 3), image)
        images.append(image + rng.normal(0, 6, (size, size, 1)))
    return np.stack(images).clip(0, 255).astype("uint8")


@pytest.mark.parametrize(
    "name",  # logits of all are compared above
    [pytest.param(n, marks=[pytest.mark.slow] if n != "wide_resnet" else []) for n in NETWORKS],
)
def test_predict_names_the_same_five_classes(name, network, tmp_path):
    """Of 64 drawn images, with probabilities that agree."""
    size, model = NETWORKS[name][0], network(name, 30)
    images = drawn_images(64, size)
    kernel, bias = model.get_layer("logits").get_weights()
    bias -= model.predict(images, verbose=0).mean(axis=0)  # else it alone would decide
    model.get_layer("logits").set_weights([kernel, bias])
    path = tmp_path / "model.keras"
    write_model_file(model, path, {"image_size": size})
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    files = sorted(tmp_path.glob("*.png"))
    folded, unfolded = (
        [
            {entry["class_name"]: entry["probability"] for entry in image["top"]}
            for image in predict(path, files, top=30, fold=fold)["images"]
        ]
        for fold in (True, False)
    )
    chosen, expected = ([tuple(image)[:5] for image in images] for images in (folded, unfolded))
    num_equal = sum(map(tuple.__eq__, chosen, expected))
    assert num_equal >= 60, num_equal  # the others have classes that are as likely, to rounding
    assert len(set(chosen)) > 3
    for one, other, classes in zip(folded, unfolded, chosen, strict=True):
        best = sorted(other.values(), reverse=True)[:5]
        for found in (one, other):
            np.testing.assert_allclose([found[c] for c in classes], best, atol=1e-5, rtol=1e-3)


def test_a_kernel_by_hand():
    """Mean 2, deviation 2, gamma 6, beta 5 after 3 x + 1: (3 x + 1 - 2) / 2 * 6 + 5."""
    norm = layers.BatchNormalization(epsilon=0.5)
    model = chain(layers.Dense(1, name="dense"), norm, shape=(1,))
    model.get_layer("dense").set_weights([np.array([[3.0]]), np.array([1.0])])
    norm.set_weights([np.array([value]) for value in (6.0, 5.0, 2.0, 3.5)])
    kernel, bias = fold_batch_norm(model).get_layer("dense").get_weights()
    assert (kernel.tolist(), bias.tolist()) == ([[9.0]], [2.0])


def test_what_must_not_be_folded():
    shared, taken_twice = layers.Conv2D(3, 1), layers.Conv2D(3, 1)
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization()(shared(shared(inputs)))
    x = taken_twice(x)
    x = layers.Add()([layers.BatchNormalization()(x), x])
    x = layers.Conv2D(3, 1, activation="relu")(x)
    model = randomize(keras.Model(inputs, layers.BatchNormalization()(x)))
    folded = fold_batch_norm(model)
    assert shared in folded.layers
    assert taken_twice in folded.layers
    assert sum(isinstance(layer, ScaleShift) for layer in folded.layers) == 3
    check_same(model, folded)


def test_statistics_of_the_batch_and_other_axes_stay():
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(name="of_batch")(layers.Conv2D(3, 1)(inputs), training=True)
    model = randomize(keras.Model(inputs, x))
    assert fold_batch_norm(model) is model
    rows = chain(layers.Conv2D(3, 1), layers.BatchNormalization(axis=1))
    check_same(rows, fold_batch_norm(rows))


@pytest.mark.backend
def test_a_product_beyond_float32_is_not_folded():
    model = chain(layers.Dense(1, name="dense"), layers.BatchNormalization(), shape=(1,))
    model.get_layer("dense").set_weights([np.array([[1e30]]), np.zeros(1)])
    model.layers[2].set_weights([np.array([value]) for value in (1e10, 0.0, 0.0, 1.0)])
    folded = fold_batch_norm(model)
    assert folded.get_layer("dense").get_weights()[0] == np.float32(1e30)
    assert folded.predict(np.array([[1e-35]], "float32"), verbose=0) == pytest.approx(1e5, rel=1e-3)


def test_models_inside_models_and_others():
    inner = chain(layers.Conv2D(3, 1), layers.BatchNormalization())
    model = chain(inner, layers.Flatten())
    check_same(model, fold_batch_norm(model))
    assert not norms(fold_batch_norm(model).layers[1])
    plain = chain(layers.Conv2D(3, 1))
    assert fold_batch_norm(plain) is plain


@pytest.mark.backend
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_logits_may_have_fewer_bits(dtype):
    """Files of others may end in half precision."""
    inputs = keras.Input((4, 4, 3))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(3, dtype=dtype)(x))
    pixels = np.random.default_rng(2).integers(0, 256, (2, 4, 4, 3), "uint8")
    logits = compile_forward(model, take_devices())(pixels)
    expected = np.asarray(model(pixels)).astype("float32")
    np.testing.assert_allclose(logits.astype("float32"), expected, atol=0.05)
