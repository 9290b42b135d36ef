"""Networks from `.keras` files: the same weights, another head, and the files that are refused."""

import hashlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.from_file import build_from_file, replace_head
from keras_imnet64.models.init import initialize
from keras_imnet64.models.keras_private import all_layers
from keras_imnet64.models.load import load_model
from keras_imnet64.models.options import FileOptions
from keras_imnet64.models.paths import by_path
from keras_imnet64.models.ship import fill, float32_copy, ship
from keras_imnet64.records import ModelInfo

WNIDS = tuple(f"n{number:08}" for number in range(6))
NETWORKS = {
    "wide_resnet": {"depth": 6, "stages": 1, "width": 0.5, "whitening": {"size": 2}},
    "resnet18": {},
    "davit_tiny": {"stem": "small"},
    "tiny_cnn1": {},
}


def from_file(path, num_classes=6, image_size=16, **options):
    file = FileOptions(name="file", path=str(path), sha256=options.pop("sha256", None))
    return build_from_file(file, image_size=image_size, num_classes=num_classes, **options)


def arrays(model):
    return {path: keras.ops.convert_to_numpy(v) for path, v in by_path(model).items()}


def shipped(folder, name="wide_resnet", image_size=16, **info):
    model = build_model(name, image_size=image_size, num_classes=6, **NETWORKS[name])
    initialize(model, seed=3)
    ship(model, folder / "model.keras", ModelInfo(**info))
    return model


@pytest.mark.backend
def test_every_weight_but_those_of_another_head_is_that_of_the_file(tmp_path):
    source = arrays(shipped(tmp_path, wnids=WNIDS))
    network = from_file(tmp_path / "model.keras", num_classes=4)
    assert network.output_shape == (None, 4)
    drawn = replace_head(network, str(tmp_path / "model.keras"), WNIDS[:4], seed=7)
    assert drawn == [f"logits/{name}: the file has other classes" for name in ("kernel", "bias")]
    found = arrays(network)
    assert found.keys() == source.keys()
    for path in found.keys() - {"logits/kernel", "logits/bias"}:
        assert np.array_equal(found[path], source[path]), path
    other = build_model("wide_resnet", image_size=16, num_classes=4, **NETWORKS["wide_resnet"])
    initialize(other, seed=7)  # the numbers of a fresh network with the run's seed
    assert np.array_equal(found["logits/kernel"], arrays(other)["logits/kernel"])


@pytest.mark.parametrize(
    ("info", "wnids", "problem"),
    [
        ({"wnids": WNIDS}, WNIDS, None),
        ({"wnids": WNIDS}, WNIDS[::-1], "has other classes"),
        ({}, WNIDS, "does not name its classes"),
    ],
)
def test_a_head_is_kept_for_the_same_classes_in_the_same_order_alone(
    info, wnids, problem, tmp_path
):
    source = arrays(shipped(tmp_path, **info))
    network = from_file(tmp_path / "model.keras")
    drawn = replace_head(network, str(tmp_path / "model.keras"), wnids, seed=0)
    assert [text.split(": the file ")[1] for text in drawn] == [problem] * 2 * bool(problem)
    same = np.array_equal(arrays(network)["logits/kernel"], source["logits/kernel"])
    assert same == (problem is None)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_compute_in_the_types_of_a_network_of_the_table(name, tmp_path, slimmer):
    size = 64 if name == "tiny_cnn1" else 16
    model = build_model(name, image_size=size, num_classes=6, **NETWORKS[name])
    ship(model, tmp_path / "model.keras", ModelInfo())
    mixed = build_model(
        name, image_size=size, num_classes=6, dtype="mixed_bfloat16", **NETWORKS[name]
    )
    network = from_file(tmp_path / "model.keras", image_size=size, dtype="mixed_bfloat16")

    def types(model):
        return {each.name: each.compute_dtype for each in all_layers(model) if each.weights}

    assert types(network) == types(mixed)
    pixels = np.zeros((2, size, size, 3), "uint8")
    assert keras.backend.standardize_dtype(network(pixels).dtype) == "float32"


@pytest.mark.backend
def test_a_model_of_anybody_is_taken(tmp_path):
    """A sequential one, of another number of pixels, whose softmax is a part of its last layer."""
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="average"),
            layers.Dense(3, activation="softmax", name="predictions"),
        ]
    )
    model.save(tmp_path / "model.keras")
    network = from_file(tmp_path / "model.keras", num_classes=3, image_size=12)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3)).astype("uint8")
    assert network(pixels).shape == (5, 3)  # and no list
    logits = keras.ops.convert_to_numpy(network(pixels))
    expected = keras.ops.convert_to_numpy(model(pixels))
    powers = np.exp(logits)
    np.testing.assert_allclose(powers / powers.sum(1, keepdims=True), expected, rtol=1e-5)
    assert network.layers[-1].name == "logits"
    assert network.layers[-1].activation is keras.activations.linear
    larger = from_file(tmp_path / "model.keras", num_classes=9, image_size=12)
    assert larger.output_shape == (None, 9)
    assert np.array_equal(
        arrays(larger)["conv/kernel"], arrays(load_model(tmp_path / "model.keras"))["conv/kernel"]
    )


def test_adapted_statistics_and_any_head_are_taken(tmp_path):
    """`Normalization` computes with copies of its weights, which are made when it is loaded."""
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3)).astype("float32")
    norm = layers.Normalization()
    norm.adapt(pixels)
    inputs = keras.Input((16, 16, 3))
    pool = layers.GlobalAveragePooling2D()(norm(inputs))
    x = layers.Dense(6, kernel_initializer="orthogonal", name="logits")(pool)
    model = keras.Model(inputs, layers.Activation("linear", dtype="float32")(x))
    model.save(tmp_path / "model.keras")
    network = from_file(tmp_path / "model.keras")
    np.testing.assert_allclose(network(pixels), model(pixels), rtol=1e-5, atol=1e-5)
    plain = float32_copy(model)
    fill(plain, model)
    np.testing.assert_allclose(plain(pixels), model(pixels), rtol=1e-5, atol=1e-5)
    drawn = from_file(tmp_path / "model.keras", num_classes=4)
    assert len(replace_head(drawn, str(tmp_path / "model.keras"), WNIDS[:4], seed=1)) == 2


def test_a_model_with_a_model_inside_is_taken(tmp_path):
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization()],
        name="inner",
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(inner(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    model.save(tmp_path / "model.keras")
    network = from_file(tmp_path / "model.keras", num_classes=5, image_size=8)
    assert np.array_equal(
        arrays(network)["conv/kernel"], arrays(load_model(tmp_path / "model.keras"))["conv/kernel"]
    )
    assert arrays(network)["logits/kernel"].shape == (4, 5)


def test_a_model_that_takes_images_of_any_size_is_taken(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3, name="conv")(inputs))
    keras.Model(inputs, layers.Dense(3, name="logits")(x)).save(tmp_path / "model.keras")
    network = from_file(tmp_path / "model.keras", num_classes=3, image_size=40)
    assert network.input_shape == (None, None, None, 3)


def saved(folder, *last, names=("logits",)):
    inputs = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(inputs)
    for name in names:
        x = layers.Dense(3, name=name)(x)
    for layer in last:
        x = layer(x)
    keras.Model(inputs, x).save(folder / "model.keras")


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda folder: None, "is not a file; a .keras file is needed"),
        (lambda folder: (folder / "model.keras").write_text("no"), "cannot be loaded .* not a zip"),
        (lambda folder: shipped(folder, image_size=32), "32 x 32, .* set data.image_size = 32"),
        (
            lambda folder: saved(folder, layers.Rescaling(2.0, name="scaled")),
            r'ends in the layer "scaled" \(Rescaling\); a head for other classes can replace a',
        ),
        (
            lambda folder: saved(folder, names=("logits", "again")),
            'has a layer "logits" and ends in another one, "again"',
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(write, sentence, tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=f"^model.path: .*{sentence}"):
        from_file(tmp_path / "model.keras", num_classes=3)


def test_another_file_than_the_recipe_records_is_refused(tmp_path):
    shipped(tmp_path)
    digest = hashlib.sha256((tmp_path / "model.keras").read_bytes()).hexdigest()
    file = FileOptions(name="file", path=str(tmp_path / "model.keras"))
    assert file.for_record(16).sha256 == digest
    from_file(tmp_path / "model.keras", sha256=digest)
    with pytest.raises(UserError, match=r"is not the file .* SHA-256 is 000000000000"):
        from_file(tmp_path / "model.keras", sha256="0" * 64)


def test_a_file_that_is_not_there_has_no_digest(tmp_path):
    file = FileOptions(name="file", path=str(tmp_path / "model.keras"))
    assert file.for_record(16).sha256 is None
