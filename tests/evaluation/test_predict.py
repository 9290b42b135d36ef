"""Predictions for images of all sizes: the numbers that Keras gives for the same pixels.

Models here are a global pooling and a Dense layer, so that logits can be worked by hand.
"""

import csv
import io
import json
import os

import keras
import numpy as np
import pytest
from conftest import ON_MACOS
from PIL import Image

from keras_imnet64 import predict
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View
from keras_imnet64.evaluation import image_files
from keras_imnet64.evaluation import predict as module
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import write_model_file

SIZE, CLASSES = 8, 7
INFO = {
    "wnids": [f"n{label}" for label in range(CLASSES)],
    "class_names": [f"name {label}" for label in range(CLASSES)],
    "image_size": SIZE,
    "resize_filter": "box",
    "verified": True,
}


def write_model(path, info=INFO, shape=(SIZE, SIZE, 3), classes=CLASSES, weights=None):
    """Writes a model from mean colour to logits; kernel and bias are given or random.

    Random logits are small, as their absolute rounding is the relative one of probabilities.
    """
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    outputs = keras.layers.Dense(classes, name="logits")(x)
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    weights = weights or [rng.normal(0, 3, (shape[-1], classes)), np.zeros(classes)]
    model.get_layer("logits").set_weights([np.array(array) for array in weights])
    write_model_file(model, path, info)
    return path


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.keras")


def write_images(folder, count, start=0):
    """Writes images of different sizes."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(start)
    for number in range(start, start + count):
        size = (*rng.integers(3, 20, 2), 3)
        pixels = rng.integers(0, 256, 3) + rng.integers(-9, 9, size)
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(folder / f"{number:04}.png")
    return sorted(folder.iterdir())


def ids(image):
    return [entry["class_id"] for entry in image["top"]]


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.backend
def test_top5_is_the_softmax_of_keras_predictions(model, tmp_path):
    files = write_images(tmp_path / "pictures", 12)
    result = predict(model, tmp_path / "pictures")
    pixels = np.stack([read_image(file, View(SIZE)) for file in files])
    expected = softmax(load_model(model).predict(pixels, verbose=0))
    assert [p["file"] for p in result["images"]] == [str(file) for file in files]
    for found, row in zip(result["images"], expected, strict=True):
        best = np.argsort(-row)[:5]
        assert ids(found) == [f"n{label}" for label in best]
        assert [entry["class_name"] for entry in found["top"]] == [f"name {b}" for b in best]
        probabilities = [entry["probability"] for entry in found["top"]]
        np.testing.assert_allclose(probabilities, row[best], rtol=1e-5)
    assert len({tuple(ids(p)) for p in result["images"]}) > 1
    assert (result["model"], result["verified"], result["skipped"]) == (str(model), True, [])
    assert json.loads(json.dumps(result)) == result


@pytest.mark.backend
def test_an_output_may_have_a_name(model, tmp_path):
    write_images(tmp_path / "pictures", 3)
    named = load_model(model)
    named = keras.Model(named.inputs[0], {"scores": named.outputs[0]})
    named.save(tmp_path / "named.keras")
    found = predict(tmp_path / "named.keras", tmp_path / "pictures")["images"]
    expected = predict(model, tmp_path / "pictures")["images"]
    for one, other in zip(found, expected, strict=True):
        probabilities = [[entry["probability"] for entry in each["top"]] for each in (one, other)]
        np.testing.assert_allclose(*probabilities, rtol=1e-5)


@pytest.mark.backend
def test_by_hand(tmp_path):
    """Logits are log 2 times red, green and blue; yellow is 1, 1, 0, which gives 2/5, 2/5, 1/5."""
    weights = [np.eye(3) * np.log(2), np.zeros(3)]
    path = write_model(tmp_path / "model.keras", info={}, classes=3, weights=weights)
    Image.new("RGB", (5, 9), (255, 255, 0)).save(tmp_path / "yellow.png")
    (found,) = predict(path, tmp_path / "yellow.png", top=9)["images"]
    assert [(e["class_id"], e["class_name"]) for e in found["top"]] == [
        (None, "class 0"),  # equal to class 1, and before it
        (None, "class 1"),
        (None, "class 2"),
    ]
    probabilities = [entry["probability"] for entry in found["top"]]
    np.testing.assert_allclose(probabilities, [0.4, 0.4, 0.2], rtol=1e-6)


@pytest.mark.backend
def test_300_images_in_batches_are_those_one_by_one(model, tmp_path):
    files = write_images(tmp_path / "pictures", 300)  # more than a batch of 256
    together = predict(model, tmp_path / "pictures")["images"]
    assert [p["file"] for p in together] == [str(file) for file in files]
    for number in (0, 1, 255, 256, 299):
        (alone,) = predict(model, files[number])["images"]
        assert ids(alone) == ids(together[number])
        assert [e["probability"] for e in alone["top"]] == pytest.approx(
            [e["probability"] for e in together[number]["top"]], rel=1e-5
        )


def test_files_and_folders_mixed(model, tmp_path):
    first, second = write_images(tmp_path / "a", 2)
    write_images(tmp_path / "b", 2, start=5)
    result = predict(model, [second, tmp_path / "b", str(first)], top=1)
    names = [os.path.relpath(p["file"], tmp_path) for p in result["images"]]
    assert names == ["a/0001.png", "b/0005.png", "b/0006.png", "a/0000.png"]
    assert all(len(p["top"]) == 1 for p in result["images"])


def test_files_that_cannot_be_read_are_refused_or_listed(model, tmp_path):
    folder = tmp_path / "pictures"
    write_images(folder, 3)
    (folder / "0001.png").write_text("no image")
    with pytest.raises(UserError, match=r"0001\.png is not an image .*; --skip-corrupt"):
        predict(model, folder)
    result = predict(model, folder, skip_corrupt=True)
    assert [p["file"][-8:] for p in result["images"]] == ["0000.png", "0002.png"]
    (skipped,) = result["skipped"]
    assert skipped["file"] == str(folder / "0001.png")
    assert "is not an image" in skipped["reason"]
    (alone,) = predict(model, folder / "0002.png")["images"]
    assert ids(result["images"][1]) == ids(alone)  # what follows a gap keeps its numbers
    with pytest.raises(UserError, match="none of 1 images could be read"):
        predict(model, folder / "0001.png", skip_corrupt=True)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (mixed / "b.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"HEIC .* or leave them out with --skip-corrupt"):
        predict(model, mixed)
    with pytest.raises(UserError, match=r"none of 1 images could be read: .*b\.jpg is not"):
        predict(model, mixed, skip_corrupt=True)


def test_a_batch_of_damaged_files_alone(model, tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "scoring_batch_size", lambda devices, image_size: 2)
    files = write_images(tmp_path / "pictures", 5)
    for file in files[2:4]:
        file.write_bytes(b"")
    result = predict(model, files, skip_corrupt=True)
    assert [p["file"] for p in result["images"]] == [str(files[n]) for n in (0, 1, 4)]
    assert [s["file"] for s in result["skipped"]] == [str(files[n]) for n in (2, 3)]


def test_memory_holds_the_pixels_of_two_batches_at_most(tmp_path, monkeypatch):
    files = write_images(tmp_path / "pictures", 40)
    read = []
    monkeypatch.setattr(
        image_files, "read_image", lambda file, *how: read.append(file) or read_image(file, *how)
    )
    taken = 0
    for batch in image_files.read_batches(files, 4, View(SIZE), skip_corrupt=False):
        taken += len(batch.files)
        assert len(read) <= taken + 4
    assert taken == 40


def test_images_are_resized_as_the_models_data_was(tmp_path):
    """One bright column: the mean sees it, and the nearest pixel does not."""
    pixels = np.zeros((8, 8, 3), "uint8")
    pixels[:, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    weights = [np.full((3, 2), 1 / 3) * [1, 0], [0, 0.1]]  # logits: brightness, 0.1
    first = {}
    for name in ("box", "nearest"):
        info = {"resize_filter": name, "wnids": ["bright", "dark"]}
        path = write_model(tmp_path / f"{name}.keras", info, (2, 2, 3), 2, weights)
        first[name] = ids(predict(path, tmp_path / "a.png")["images"][0])[0]
    assert first == {"box": "bright", "nearest": "dark"}


@pytest.mark.backend
def test_a_model_for_any_size_says_in_its_file_which_it_was_trained_on(tmp_path):
    write_images(tmp_path / "pictures", 2)
    sized = write_model(tmp_path / "a.keras", shape=(None, None, 3))
    fixed = write_model(tmp_path / "b.keras")
    assert (
        predict(sized, tmp_path / "pictures")["images"]
        == predict(fixed, tmp_path / "pictures")["images"]
    )
    silent = write_model(tmp_path / "c.keras", info={}, shape=(None, None, 3))
    with pytest.raises(UserError, match="does not state the size that it was trained on"):
        predict(silent, tmp_path / "pictures")


@pytest.mark.parametrize("top", [0, -1, 1.5, True, "5"])
def test_top_is_a_positive_whole_number(model, tmp_path, top):
    with pytest.raises(UserError, match="--top must be a positive whole number; received"):
        predict(model, write_images(tmp_path / "pictures", 1), top=top)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (SIZE, SIZE, 1)}, r"takes \[None, 8, 8, 1\]"),
        ({"shape": (SIZE, 6, 3)}, "takes images of 8 x 6; square"),
        ({"shape": (None, 8, 3)}, "takes images of None x 8; square"),
        ({"info": INFO | {"wnids": ["n1"]}}, "has 7 logits and states 1 class ids"),
        ({"info": INFO | {"resize_filter": "magic"}}, 'no resize filter "magic"'),
    ],
)
def test_models_that_take_no_images_are_refused(tmp_path, options, message):
    path = write_model(tmp_path / "model.keras", **options)
    with pytest.raises(UserError, match=message):
        predict(path, write_images(tmp_path / "pictures", 1))


def test_models_with_other_inputs_and_outputs_are_refused(tmp_path):
    files = write_images(tmp_path / "pictures", 1)
    one, two = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 3))
    vector, both = keras.layers.Flatten()(one), keras.layers.Add()([one, two])
    models = {
        r"gives \[None, 8, 8, 3\]": keras.Model(one, keras.layers.ReLU()(one)),
        r"gives \[None, 192\] and \[None, 192\]": keras.Model(one, [vector, vector]),
        r"takes \[None, 8, 8, 3\] and \[None, 8, 8, 3\]": keras.Model([one, two], both),
        "does not state the shapes": keras.Sequential([keras.layers.Dense(3)]),
    }
    for message, model in models.items():
        model.save(tmp_path / "model.keras")
        with pytest.raises(UserError, match=message):
            predict(tmp_path / "model.keras", files)


@pytest.mark.backend
def test_logits_that_are_not_finite_are_refused(tmp_path):
    weights = [np.zeros((3, 2)), [0, np.inf]]
    path = write_model(tmp_path / "model.keras", info={}, classes=2, weights=weights)
    with pytest.raises(RunFailed, match=r"not finite for .*0000\.png"):
        predict(path, write_images(tmp_path / "pictures", 2))


def test_csv_rows(model, tmp_path):
    """Commas, quotes and line breaks stay in their field; bytes that are no UTF-8 are escaped."""
    names = ["plain.png", 'a, "b".png', "line\nbreak\r.png"]
    names += [] if ON_MACOS else [os.fsdecode(b"caf\xe9.png")]
    for name in names:
        Image.new("RGB", (4, 4), "red").save(tmp_path / name, "png")
    result = predict(model, [tmp_path / name for name in names], top=2)
    json.dumps(result)
    rows = list(csv.DictReader(io.StringIO(module.as_csv(result), newline="")))
    read_back = [os.path.basename(row["file"]) for row in rows[::2]]
    assert read_back == [*names[:3], r"caf\udce9.png"][: len(names)]
    assert [row["rank"] for row in rows] == ["1", "2"] * len(names)
    best = result["images"][0]["top"][0]
    assert rows[0]["class_id"] == best["class_id"]
    assert rows[0]["class_name"] == best["class_name"]
    assert float(rows[0]["probability"]) == best["probability"]
    assert list(rows[0]) == list(module.COLUMNS)


@pytest.mark.backend
def test_a_model_may_end_in_a_softmax(tmp_path):
    """Probabilities are the same, whether a model ends in logits, a softmax or its layer."""
    pixels = keras.Input((SIZE, SIZE, 3))
    flat, dense = keras.layers.Flatten(), keras.layers.Dense(4)
    logits = dense(flat(keras.layers.Rescaling(1 / 255)(pixels)))
    inside = keras.layers.Dense(4, activation="softmax")
    probabilities = inside(flat(keras.layers.Rescaling(1 / 255)(pixels)))
    inside.set_weights(dense.get_weights())
    models = {
        "logits": keras.Model(pixels, logits),
        "layer": keras.Model(pixels, keras.layers.Softmax()(logits)),
        "activation": keras.Model(pixels, keras.layers.Activation("softmax")(logits)),
        "inside": keras.Model(pixels, probabilities),
    }
    files, found = write_images(tmp_path / "pictures", 3), {}
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
        result = predict(tmp_path / f"{name}.keras", files, top=4)
        found[name] = [guess["probability"] for p in result["images"] for guess in p["top"]]
    for name in models:
        np.testing.assert_allclose(found[name], found["logits"], rtol=1e-5)
    assert max(found["logits"]) > 0.3
