"""Features in files, and scores by neighbours: against Keras' own numbers and votes by hand."""

import csv
import json
import tracemalloc
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from class_folders import drawn, indexed
from keras import layers

from keras_imnet64 import embed, evaluate_neighbours
from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View
from keras_imnet64.evaluation import features as module
from keras_imnet64.evaluation import neighbours
from keras_imnet64.evaluation.neighbours import neighbour_ranks, unit_vectors
from keras_imnet64.models import build_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo

SIZE = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of three classes, pictures of many sizes, and a data set of other classes."""
    folder = tmp_path_factory.mktemp("features")
    model = build_model("wide_resnet", image_size=SIZE, num_classes=3, depth=6, stages=1, width=0.5)
    ship(model, folder / "model.keras", ModelInfo(image_size=SIZE, resize_filter="bilinear"))
    (folder / "holiday").mkdir()
    for number in range(5):
        drawn(20 + number, 30, number).save(folder / "holiday" / f"{number}.png")
    indexed(folder)
    return folder


def features_by_keras(folder, files):
    model = keras.saving.load_model(folder / "model.keras")
    pool = keras.Model(model.inputs, model.get_layer("pool").output)
    pixels = np.stack([read_image(file, View(SIZE, "bilinear")) for file in files])
    return keras.ops.convert_to_numpy(pool(pixels))


@pytest.mark.parametrize(
    "suffix", [".parquet", ".csv", pytest.param(".npz", marks=pytest.mark.backend)]
)
def test_a_file_has_the_output_of_the_pool_beside_each_path(suffix, place, tmp_path):
    files = sorted((place / "holiday").iterdir())
    result = embed(place / "model.keras", place / "holiday", tmp_path / f"out{suffix}")
    assert (result["images"], result["features"], result["skipped"]) == (5, 8, [])
    names, found = read(tmp_path / f"out{suffix}")
    assert names == [str(file) for file in files]
    assert found.shape == (5, 8) and found.dtype == "float32"
    np.testing.assert_allclose(found, features_by_keras(place, files), rtol=1e-4, atol=1e-5)


def read(path):
    """(paths, features float32 [N, D]) of a file, by the library that people read it with."""
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        features = table["features"].combine_chunks()
        return table["file"].to_pylist(), np.array(features.to_pylist(), "float32")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["files"].tolist(), arrays["features"]
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == ["file", *(f"feature{number}" for number in range(8))]
    return [row[0] for row in rows[1:]], np.array([row[1:] for row in rows[1:]], "float32")


def test_the_three_files_hold_the_same_bits(place, tmp_path):
    pytest.importorskip("pyarrow")
    found = []
    for suffix in module.WRITERS:
        embed(place / "model.keras", place / "holiday", tmp_path / f"out{suffix}")
        found.append(read(tmp_path / f"out{suffix}")[1])
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_the_command_writes_the_file_and_names_what_it_skips(place, tmp_path, run):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bad.png").write_bytes(b"no image")
    out = tmp_path / "features.npz"
    command = ("embed", place / "model.keras", place / "holiday", tmp_path / "more", "--out", out)
    status, printed, err = run(*command, "--skip-corrupt")
    assert status == 0 and "bad.png" in err and "images         5" in printed
    status, printed, _ = run(*command, "--skip-corrupt", "--json")
    result = json.loads(printed)
    assert result["features"] == 8 and len(result["skipped"]) == 1
    status, _, err = run(*command)
    assert status == 2 and "bad.png" in err


def head_only(*last):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D(name="average")(inputs)
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


def test_features_of_a_model_without_a_pool_are_what_its_head_takes():
    model = head_only(layers.Dense(2, activation="softmax", name="predictions"))
    found = module.feature_model(model, "m")
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype("uint8")
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found(pixels)), pixels.mean((1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_features_are_what_the_logits_are_computed_from(name, slim):
    """And not the flattened map, which is called `pool` in these networks too."""
    model = build_model(name, image_size=64, num_classes=3)
    features = module.feature_model(model, name)
    assert features.output_shape == (None, 64)


def test_a_map_that_is_called_pool_does_not_matter():
    inputs = keras.Input((16, 16, 3))
    x = layers.MaxPooling2D(name="pool")(layers.Conv2D(5, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    assert module.feature_model(model, "m").output_shape == (None, 5)


def test_a_model_without_features_is_refused():
    model = head_only(layers.Dense(2, name="logits"), layers.Rescaling(2.0, name="scaled"))
    with pytest.raises(UserError, match=r'no layer "pool" .* ends in the layer "scaled" \(Resc'):
        module.feature_model(model, "m")
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Dense(2)(layers.AveragePooling2D(2, name="pool")(inputs))
    with pytest.raises(UserError, match="must be vectors"):
        module.feature_model(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)), "m")


def test_a_file_without_pyarrow_says_what_else_there_is(place, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the package pyarrow: .* or write a \.csv or \.npz"):
        embed(place / "model.keras", place / "holiday", tmp_path / "out.parquet")


# --------------------------------------------------------------------------------------- neighbours


def test_votes_by_hand():
    """Cosines 1, 0.8 and 0.6 to the image; exp(s / 0.07) lets the nearest beat the other two."""
    bank = np.array([[1, 0], [8, 6], [3, 4], [0, 1], [-1, 0]], "float32")
    labels = np.array([2, 1, 1, 0, 0])
    image = np.array([[5, 0]], "float32")

    def ranks(k):
        tiled = np.repeat(unit_vectors(image), 3, axis=0)
        return neighbour_ranks(unit_vectors(bank), labels, tiled, np.arange(3), k, 3).tolist()

    assert ranks(1) == [1, 2, 0]  # classes without a vote rank by position
    assert np.exp(1 / 0.07) > np.exp(0.8 / 0.07) + np.exp(0.6 / 0.07)
    assert ranks(3) == [2, 1, 0]
    near = np.array([[9, 5]], "float32")  # the second is nearest, and votes with the third
    vectors = unit_vectors(bank), labels, unit_vectors(near)
    assert neighbour_ranks(*vectors, np.array([1]), 3, 3).tolist() == [0]


def test_many_images_are_compared_part_by_part(monkeypatch):
    rng = np.random.default_rng(0)
    bank, features = (unit_vectors(rng.normal(size=(count, 4))) for count in (50, 30))
    labels, truth = rng.integers(0, 5, 50), rng.integers(0, 5, 30)
    whole = neighbour_ranks(bank, labels, features, truth, 7, 5)
    monkeypatch.setattr(neighbours, "MAX_SIMILARITIES", 120)
    assert np.array_equal(whole, neighbour_ranks(bank, labels, features, truth, 7, 5))
    for row, label, rank in zip(features, truth, whole, strict=True):
        cosines = bank @ row
        votes = np.zeros(5)
        for place in np.argsort(-cosines)[:7]:
            votes[labels[place]] += np.exp(cosines[place] / 0.07)
        assert rank == (votes > votes[label]).sum() + (votes[:label] == votes[label]).sum()


class Images:
    """A selection of images whose pixels `evaluation_batches` is replaced for."""

    store = SimpleNamespace(dataset="toy", split="train")

    def __len__(self):
        return 4096


def test_features_are_held_once(monkeypatch):
    """The largest array is that of the features, [N, D] float32; all else is small beside it."""
    length, batch_size = 256, 64
    batches = SimpleNamespace(
        as_numpy_iterator=lambda: (
            (np.full((batch_size, 1), 1 + start), np.zeros(batch_size), np.ones(batch_size))
            for start in range(0, len(Images()), batch_size)
        )
    )
    monkeypatch.setattr(neighbours, "evaluation_batches", lambda *_: batches)
    monkeypatch.setattr(neighbours, "MAX_SIMILARITIES", 2**14)

    def forward(pixels):
        return np.repeat(pixels, length, axis=1)

    tracemalloc.start()
    try:
        bank, labels = neighbours.features_of(forward, Images(), batch_size, None, "m")
        neighbour_ranks(bank, labels, bank[:64], labels[:64], 5, 2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bank.nbytes <= peak < 1.5 * bank.nbytes
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, rtol=1e-5)


def test_a_model_is_scored_on_classes_that_it_does_not_know(place, run):
    """By all training images of ants, bees and cats, against votes worked out image by image."""
    result = evaluate_neighbours(
        place / "model.keras", 3, dataset="image_folder/toy", data_dir=place / "data"
    )
    store = {
        split: open_dataset("image_folder/toy", split, data_dir=place / "data")
        for split in ("train", "validation")
    }
    assert (result["classes"], result["neighbours"], result["features"]) == (3, 3, 8)
    assert result["bank"] == len(store["train"]) and result["count"] == len(store["validation"])

    def features(split):
        names = np.load(place / "data/packed/image_folder_toy" / split / "files.npy")
        files = [place / "pictures" / name.decode() for name in names]
        return unit_vectors(features_by_keras(place, files)), store[split].labels

    ranks = neighbour_ranks(*features("train"), *features("validation"), 3, 3)
    assert result["top1"] == pytest.approx(100 * (ranks == 0).mean())
    status, printed, err = run(
        *("evaluate", place / "model.keras", "--knn", 3, "--dataset", "image_folder/toy"),
        *("--data-dir", place / "data", "--json"),
    )
    assert status == 0, err
    assert json.loads(printed) == result


def test_classes_that_the_model_knows_limit_both_splits(tmp_path, data_dir):
    store = open_dataset("imagenet_resized/16x16", "train", data_dir=data_dir)
    known = tuple(store.wnids[:4])
    model = build_model("wide_resnet", image_size=SIZE, num_classes=4, depth=6, stages=1, width=0.5)
    ship(model, tmp_path / "model.keras", ModelInfo(wnids=known, dataset=store.dataset))
    result = evaluate_neighbours(tmp_path / "model.keras", 5, data_dir=data_dir)
    assert result["classes"] == 4 and result["count"] == 16 and result["bank"] < 50


def test_a_split_without_images_of_the_models_classes_is_refused(tmp_path):
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        drawn(20, 20, 0).save(tmp_path / "pictures" / name / "1.png")
    datasets.prepare("image_folder/toy", source=tmp_path / "pictures", data_dir=tmp_path)
    model = build_model("wide_resnet", image_size=16, num_classes=2, depth=6, stages=1, width=0.5)
    ship(model, tmp_path / "m.keras", ModelInfo(wnids=("b", "c"), dataset="image_folder/toy"))
    with pytest.raises(
        UserError, match="toy validation has no image of the classes that the model"
    ):
        evaluate_neighbours(tmp_path / "m.keras", 1, data_dir=tmp_path)


def test_a_model_whose_images_are_not_square_is_refused(place, tmp_path):
    """Its features would be those of images of another shape than it was trained on."""
    inputs = keras.Input((16, 24, 3))
    keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs))).save(tmp_path / "wide.keras")
    with pytest.raises(UserError, match="takes images of 16 x 24; square ones are needed"):
        evaluate_neighbours(
            tmp_path / "wide.keras", 2, dataset="image_folder/toy", data_dir=place / "data"
        )


@pytest.mark.parametrize("k", [0, -1, 10_000])
def test_more_neighbours_than_images_are_refused(k, place):
    with pytest.raises(UserError, match=r"--knn must be a number of neighbours from 1 to \d+,"):
        evaluate_neighbours(
            place / "model.keras", k, dataset="image_folder/toy", data_dir=place / "data"
        )
