"""What all networks of the table have in common: sizes, layer names, dtypes, files, weights.

Most are built without weights here; `test_golden` compares the numbers that they compute.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import MODELS, build_model, davit, resnet
from keras_imnet64.models import alexnet as alexnet_module
from keras_imnet64.models import vgg as vgg_module
from keras_imnet64.models.init import initialize
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.load import load_model
from keras_imnet64.models.parts import drop_path
from keras_imnet64.models.ship import fill, float32_copy, ship
from keras_imnet64.records import ModelInfo

OPTIONS = {
    "wide_resnet": {"depth": 8, "width": 0.5},
    "spectral": {"factor": 2, "band": 1, "base": {"name": "resnet18"}},
}
SIZES = (16, 32, 56, 64, 112, 128, 224)
REFUSED = {  # sizes that cannot work
    "wide_resnet": (56, 112, 224),
    "alexnet": (16,),
    "vgg16": (16,),
    "vgg16_bn": (16,),
    "tiny_cnn2": (16,),
}
MAPS = {  # side of the last map, by SIZES that work
    "resnet18": (2, 4, 7, 8, 4, 4, 7),  # a stem for up to 64 pixels, another above
    "small_resnet": (1, 2, 4, 4, 7, 8, 14),
    "davit_tiny": (1, 2, 4, 4, 4, 4, 7),
    "alexnet": (1, 2, 3, 2, 3, 6),
    "vgg16": (1, 1, 2, 3, 4, 7),
    "tiny_cnn1": (2, 3, 5, 5, 8, 9, 15),
    "tiny_cnn2": (1, 1, 2, 3, 4, 7),
}
# One network of each kind, small enough to run.
RUN = {
    "wide_resnet": (16, {"depth": 8, "width": 0.5}),
    "resnet18": (16, {"stem": "small", "drop_path_rate": 0.2, "anti_aliasing": True}),
    "resnet50": (16, {"stem": "small_pool", "zero_init": True}),
    "small_resnet": (16, {"widths": [16, 24], "blocks": [1, 2], "drop_path_rate": 0.2}),
    "davit_tiny": (16, {"window": 3, "drop_path_rate": 0.1}),
    "alexnet": (32, {}),
    "vgg16_bn": (32, {}),
    "tiny_cnn1": (16, {}),
    "tiny_cnn2": (32, {}),
}
INITIAL_SUMS = {  # of the absolute values of all trainable weights, seed 7
    "wide_resnet": 803.579302297614,
    "resnet18": 103168.63524385133,
    "resnet50": 223317.84782633831,
    "small_resnet": 2212.996999709636,
    "davit_tiny": 43457.06967964148,
    "alexnet": 26578.791639033174,
    "vgg16_bn": 264119.4946633071,
    "tiny_cnn1": 26255.33652997128,
    "tiny_cnn2": 16622.719968126188,
}


@pytest.fixture
def shallow(monkeypatch):
    """DaViTs and ResNets with one block per stage, whose maps are those of the whole networks."""
    for family, field in ((davit, "pairs"), (resnet, "blocks")):
        for name, variant in family.VARIANTS.items():
            one_each = replace(variant, **{field: (1, 1, 1, 1)})
            monkeypatch.setitem(family.VARIANTS, name, one_each)


def logits_of(model, pixels):
    """Those of one batch, for which TensorFlow is faster uncompiled."""
    predict = model.predict_on_batch if keras.backend.backend() == "jax" else model
    return keras.ops.convert_to_numpy(predict(pixels))


def network(name, image_size, num_classes=7, **options):
    options = OPTIONS.get(name, {}) | options
    return build_model(name, image_size=image_size, num_classes=num_classes, **options)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_work_or_are_refused_in_a_sentence(name, shallow):
    sides = []
    if name in MAPS or name == "wide_resnet":
        sizes = SIZES
    else:  # a relative of those
        sizes = (16, 64) if name in REFUSED else (16,)
    for size in sizes:
        depth = {"depth": 4 + 2 * round(np.log2(size / 4))} if name == "wide_resnet" else {}
        with without_weights():
            if size in REFUSED.get(name, ()):
                with pytest.raises(UserError, match=f"received image size {size}"):
                    network(name, size, **depth)
                continue
            model = network(name, size, **depth)
        assert model.name == name
        assert model.input.shape == (None, size, size, 3)
        assert (model.output.shape, model.output.dtype) == ((None, 7), "float32")
        assert len(model.get_layer("pool").output.shape) == 2
        assert model.layers[-1].name == "logits"
        sides.append(model.get_layer("features").output.shape[1])
    if name in MAPS:
        assert tuple(sides) == MAPS[name]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.backend] if name == "tiny_cnn1" else [])
        for name in RUN
    ],
)
def test_a_file_gives_the_same_logits_and_bfloat16_nearly(name, tmp_path, slimmer):
    size, options = RUN[name]
    model = network(name, size, **options)
    initialize(model, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), "uint8")
    logits = logits_of(model, pixels)
    assert np.isfinite(logits).all() and logits.dtype == "float32"
    scale = abs(logits).max()

    plain = float32_copy(model)
    fill(plain, model)
    ship(plain, tmp_path / "model.keras", ModelInfo())
    loaded = logits_of(load_model(tmp_path / "model.keras"), pixels)
    np.testing.assert_allclose(loaded, logits, rtol=0, atol=1e-5 * scale)

    mixed = network(name, size, dtype="mixed_bfloat16", **options)
    fill(mixed, model)
    rounded = logits_of(mixed, pixels)
    assert rounded.dtype == "float32"
    assert 0 < abs(rounded - logits).max() < 0.1 * scale
    twin = float32_copy(mixed)
    assert {layer.compute_dtype for layer in twin.layers} == {"float32"}


@pytest.mark.parametrize(
    "name",  # a network of convolutions, and one that has dense and depthwise layers too
    [
        pytest.param(n, marks=[pytest.mark.backend] if n in ("wide_resnet", "davit_tiny") else [])
        for n in RUN
    ],
)
def test_initial_weights_are_the_same_on_every_backend(name, slim, undrawn):
    """Frozen: the sums were printed by this test under TensorFlow."""
    size, options = RUN[name]
    model = network(name, size, **options)
    initialize(model, 7)
    weights = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert float(sum(abs(w).sum(dtype="float64") for w in weights)) == pytest.approx(
        INITIAL_SUMS[name], rel=1e-9
    )


@pytest.mark.parametrize("name", RUN)
def test_initial_weights_are_drawn_by_name_and_repeat(name, slim, undrawn):
    size, options = RUN[name]
    model = network(name, size, **options)
    initialize(model, 1)
    first = {v.path: v.numpy() for v in model.trainable_variables}
    initialize(model, 1)
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), first[variable.path])
    initialize(model, 2)
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    assert kernels
    assert not any(np.allclose(v.numpy(), first[v.path]) for v in kernels)


def test_initial_weights_have_the_references_distributions(undrawn, shallow, monkeypatch):
    """torchvision's and timm's own initialisation, taken from their sources."""
    for family in (vgg_module, alexnet_module):
        monkeypatch.setattr(family, "DENSE_WIDTH", 512)
    resnet = network("resnet50", 16)
    initialize(resnet, 0)
    deviation = resnet.get_layer("stage2_block1_conv2").kernel.numpy().std()
    assert deviation == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.01)  # He, fan out
    for variable in resnet.get_layer("logits").weights:
        assert abs(variable.numpy()).max() <= 1 / np.sqrt(2048)
    assert abs(resnet.get_layer("logits").bias.numpy()).max() > 0

    vgg = network("vgg16", 32)
    initialize(vgg, 0)
    assert vgg.get_layer("dense2").kernel.numpy().std() == pytest.approx(0.01, rel=0.01)
    assert not vgg.get_layer("stage1_conv1").bias.numpy().any()

    davit = network("davit_tiny", 16)
    initialize(davit, 0)
    dense = davit.get_layer("stage3_block1_channel_mlp1").kernel.numpy()
    assert dense.std() == pytest.approx(0.02, rel=0.01)
    assert abs(dense).max() > 0.07  # not cut at two deviations
    for variable in davit.get_layer("stage1_block1_window_position1").weights:
        assert 0.3 < abs(variable.numpy()).max() <= 1 / 3  # 9 weights to an output
    assert not davit.get_layer("stage1_block1_window_qkv").bias.numpy().any()

    alexnet = network("alexnet", 32)
    initialize(alexnet, 0)
    for variable in alexnet.get_layer("conv3").weights:
        assert abs(variable.numpy()).max() == pytest.approx(1 / np.sqrt(9 * 192), rel=0.02)


def test_blocks_with_a_zero_last_gamma_compute_their_shortcuts(undrawn):
    model = network("resnet50", 16, stem="small", zero_init=True)
    gammas = {v.path: v.numpy() for v in model.trainable_variables if v.name == "gamma"}
    zero = {path for path, gamma in gammas.items() if not gamma.any()}
    assert zero == {path for path in gammas if "_bn3" in path}
    assert len(zero) == 16


def test_basic_blocks_can_start_as_their_shortcuts_too(undrawn):
    model = network("resnet18", 16, stem="small", zero_init=True)
    assert not model.get_layer("stage4_block2_bn2").gamma.numpy().any()
    assert model.get_layer("stage4_block2_bn1").gamma.numpy().all()


def test_drop_path_of_a_resnet_grows_from_block_to_block(undrawn):
    model = network("resnet18", 16, drop_path_rate=0.7)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    np.testing.assert_allclose(rates, np.linspace(0.1, 0.7, 7))  # the first of 8 blocks has none


def test_drop_path_drops_whole_images_and_grows_with_depth(undrawn):
    model = network("davit_tiny", 16, drop_path_rate=0.1)
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    # 12 blocks; the first has rate 0 and none, each other has one for attention and one for its MLP
    expected = np.repeat(np.linspace(0, 0.1, 12)[1:], 2)
    np.testing.assert_allclose([layer.rate for layer in dropouts], expected)
    assert dropouts[0].name == "stage1_block1_channel_drop_path1"

    inputs = keras.Input((2, 2, 3))
    dropping = keras.Model(inputs, drop_path(inputs, 0.5, "d"))
    out = np.asarray(dropping(np.ones((64, 2, 2, 3), "float32"), training=True))
    kept = out.reshape(64, -1)
    assert set(kept.min(1)) == set(kept.max(1)) == {0.0, 2.0}  # all or nothing, rescaled
    assert (kept.min(1) == kept.max(1)).all()


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "alexnet"])
@pytest.mark.parametrize(("options", "rate"), [({}, 0.5), ({"dropout": 0.2}, 0.2)])
def test_dropout_of_dense_layers_has_its_rate_or_is_left_out(name, options, rate):
    with without_weights():
        model, plain = network(name, 64, **options), network(name, 64, dropout=0.0)
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert {layer.name: layer.rate for layer in dropouts} == {"dropout1": rate, "dropout2": rate}
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in plain.layers)


def test_the_blur_is_one_two_one():
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, resnet.blur(inputs, "b"))
    image = np.zeros((1, 4, 4, 1), "float32")
    image[0, 2, 2] = 16
    out = model.predict(image, verbose=0)[0, :, :, 0]
    # rows 0 and 2 see [1, 0, 1] reflected and [1, 2, 3]; the point is the middle of the latter
    assert out.tolist() == [[0, 0], [0, 4]]
    image = np.zeros((1, 4, 4, 1), "float32")
    image[0, 1, 1] = 16
    assert model.predict(image, verbose=0)[0, :, :, 0].tolist() == [[4, 2], [2, 1]]


def test_tokens_of_padding_take_part_in_the_attention():
    """A 2x2 map in one 3x3 window: with keys of zero the average is over all nine tokens."""
    inputs = keras.Input((2, 2, 32))
    model = keras.Model(inputs, davit.window_block(inputs, 3, name="w"))
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(np.zeros(variable.shape))
    value, project = np.zeros((32, 96)), np.eye(32)
    value[:, 64:] = np.eye(32)
    model.get_layer("w_qkv").set_weights([value, np.zeros(96)])
    model.get_layer("w_project").set_weights([project, np.zeros(32)])
    model.get_layer("w_norm1").set_weights([np.zeros(32), np.full(32, 9.0)])  # every token is 9
    out = model.predict(np.zeros((1, 2, 2, 32), "float32"), verbose=0)
    np.testing.assert_allclose(out, 9 * 4 / 9, rtol=1e-6)


def test_windows_fit_the_map_unless_a_number_is_given(slim):
    def windows(size, **options):
        with without_weights():
            model = network("davit_tiny", size, **options)
        tokens = [
            model.get_layer(f"stage{stage}_block1_window_windows").output.shape[2]
            for stage in (1, 2, 3, 4)
        ]
        return [round(np.sqrt(n)) for n in tokens]

    assert windows(64) == [8, 8, 8, 4]
    assert windows(32) == [8, 8, 4, 2]
    assert windows(224) == [7, 7, 7, 7]
    assert windows(112) == [7, 7, 7, 4]
    assert windows(128) == [8, 8, 8, 4]
    assert windows(64, stem="imagenet", window=7) == [7, 7, 7, 7]
    assert windows(64, stem="full_15x15") == [7, 7, 7, 7]


def test_layers_of_the_small_networks_are_in_the_briefs_order():
    def kinds(name):
        return " ".join(
            type(layer).__name__.removesuffix("2D").replace("BatchNormalization", "BN")
            for layer in network(name, 64).layers[2:]
        )

    block = "Conv BN ReLU MaxPooling "
    assert kinds("tiny_cnn1") == (
        block * 3
        + "ZeroPadding "
        + block
        + "Conv BN ReLU Identity Flatten Dense ReLU BN Dropout Dense"
    )
    assert kinds("tiny_cnn2") == block * 5 + "Flatten Dense Softmax BN Dropout Dense"


@pytest.mark.parametrize(
    ("name", "size", "options", "sentence"),
    [
        ("resnet18", 64, {"stem": "smal"}, 'model.stem must be one of "auto", "imagenet", "small"'),
        ("resnet18", 64, {"zero_init": 1}, "model.zero_init must be true or false; received 1"),
        ("resnet18", 64, {"drop_path_rate": 1.0}, "drop_path_rate must be a number of at least 0"),
        (
            "resnet18",
            16,
            {"anti_aliasing": True, "stem": "imagenet"},
            "needs maps of at least 2 pixels",
        ),
        ("resnet18", 64, {"window": 8}, 'model.window is not an option of "resnet18"'),
        ("davit_tiny", 64, {"window": 0}, 'a whole number from 1 to 64 or "auto"'),
        ("davit_tiny", 64, {"window": 2.5}, "a whole number from 1 to 64"),
        ("davit_tiny", 64, {"window": float("nan")}, "a whole number from 1 to 64"),
        ("davit_tiny", 64, {"window": "all"}, 'or "auto"; received'),
        ("davit_tiny", 64, {"window": True}, "received true"),
        ("alexnet", 56, {"stem": "imagenet"}, "needs at least 63 pixels per side"),
        ("vgg16", 31, {}, "needs at least 32 pixels per side"),
        ("tiny_cnn2", 64, {"dropout": -0.1}, "dropout must be a number of at least 0 and below 1"),
        ("tiny_cnn2", 64, {"dropout": "half"}, "dropout must be a number"),
        ("davit_tiny", 8, {"stem": "full_15x15"}, "needs at least 9 pixels"),
    ],
)
def test_wrong_options_are_refused(name, size, options, sentence):
    with pytest.raises(UserError, match=sentence):
        network(name, size, **options)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image_size": "64"}, "image_size must be a whole number from 1 to 4,096; received '64'"),
        ({"image_size": (32, 48)}, r"image_size must be .* received \(32, 48\)"),
        ({"image_size": 0}, "image_size must be a whole number from 1"),
        ({"image_size": True}, "image_size must be .* received True"),
        ({"num_classes": 1}, "num_classes must be a whole number from 2 to 100,000; received 1"),
        ({"num_classes": 10.5}, "num_classes must be a whole number"),
        ({"normalization": "dataset"}, 'normalization must be "imagenet" or'),
        ({"normalization": {"mean": 0.5}}, "normalization must be"),
        ({"normalization": {"mean": [0.5, 0.5], "std": 1}}, "normalization must be"),
        ({"normalization": {"mean": 0.5, "std": 0}}, "std at least 1e-06"),
        ({"normalization": {"mean": float("nan"), "std": 1}}, "normalization must be"),
        ({"normalization": {"mean": [123.7, 116.3, 103.5], "std": 58}}, "divide both by 255"),
        ({"normalization": {"mean": np.zeros((8, 8, 3)), "std": 1}}, r"an array \[32, 32, 3\]"),
        ({"dtype": "float33"}, "dtype must be the name of a Keras policy; received 'float33'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    before = keras.config.dtype_policy()
    with pytest.raises(UserError, match=sentence):
        build_model("resnet18", **({"image_size": 32, "num_classes": 10} | arguments))
    assert keras.config.dtype_policy() == before


@pytest.mark.parametrize("name", RUN)
def test_keras_own_initial_weights_differ_everywhere(name, slim):
    """No initialiser is shared: two weights of one shape, or of two networks, differ."""
    size, options = RUN[name]
    drawn = [
        variable.numpy().ravel()
        for _ in range(2)
        for variable in network(name, size, **options).trainable_variables
        if np.std(variable.numpy())
    ]
    first_numbers = {tuple(array[:8] / abs(array[:8]).max()) for array in drawn}
    assert len(first_numbers) == len(drawn)


@pytest.mark.parametrize("name", RUN)
def test_layers_have_the_same_names_each_time(name, slim):
    size, options = RUN[name]
    with without_weights():
        first, second = (network(name, size, **options) for _ in range(2))
    names = [layer.name for layer in first.layers]
    assert names == [layer.name for layer in second.layers]
    assert len(set(names)) == len(names)


def test_the_smallest_sizes_that_sentences_name_do_work():
    for name, size, options in [
        ("alexnet", 63, {"stem": "imagenet"}),
        ("alexnet", 29, {}),
        ("vgg16", 32, {}),
        ("tiny_cnn1", 8, {}),
        ("tiny_cnn2", 32, {}),
        ("davit_tiny", 9, {"stem": "full_15x15"}),
        ("davit_tiny", 1, {}),
        ("resnet18", 1, {}),
    ]:
        with without_weights():
            network(name, size, **options)
