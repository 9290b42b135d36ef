"""Files of predictions: what `evaluate` writes, what is read back, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from class_folders import write_folders
from conftest import WNIDS
from pyarrow import parquet

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.datasets import open_dataset, prepare
from keras_imnet64.data.selection import select
from keras_imnet64.evaluation.prediction_files import read_predictions, write_predictions
from keras_imnet64.evaluation.top_predictions import TopPredictions, top_of
from keras_imnet64.models import build_model
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo
from keras_imnet64.report.pictures import caption

FIRST_COLUMNS = ["dataset", "split", "image", "file", "label", "label_name", "label_probability"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose classes are in another order than those of the data."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    network = build_model(
        "wide_resnet", image_size=16, num_classes=10, depth=6, width=0.5, stages=1
    )
    ship(network, path, ModelInfo(wnids=tuple(sorted(WNIDS)), dataset="imagenet_resized/16x16"))
    return path


@pytest.fixture
def validation(data_dir):
    return select(open_dataset("imagenet_resized/16x16", "validation", data_dir=data_dir))


def top(selection, seed=0):
    size = len(selection), selection.num_classes
    logits = np.random.default_rng(seed).normal(size=size).astype("float32")
    labels = selection.look_up(np.arange(len(selection)))[1]
    return TopPredictions(np.arange(len(selection)), *top_of(logits, labels))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_evaluate_writes_what_is_predicted(suffix, model, data_dir, validation, run, tmp_path):
    file = tmp_path / f"found.{suffix}"
    where = ("--data-dir", data_dir, "--predictions", file, "--json")
    status, text, errors = run("evaluate", model, *where)
    assert status == 0, errors
    result = json.loads(text)
    assert result["predictions"] == str(file)
    if suffix == "csv":
        rows = list(csv.DictReader(file.open(newline="")))
    else:
        rows = parquet.read_table(file).to_pylist()
    assert list(rows[0])[:7] == FIRST_COLUMNS and len(rows[0]) == 7 + 15
    store = validation.store
    logits = load_model(model).predict(store.images, verbose=0)
    ids = sorted(WNIDS)
    assert [int(row["image"]) for row in rows] == list(range(40))
    assert [row["label"] for row in rows] == [store.wnids[label] for label in store.labels]
    assert [row["class_1"] for row in rows] == [ids[label] for label in logits.argmax(axis=1)]
    hits = [row["label"] == row["class_1"] for row in rows]
    assert 100 * np.mean(hits) == pytest.approx(result["top1"])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    largest = powers.max(axis=1) / powers.sum(axis=1)
    assert [float(row["probability_1"]) for row in rows] == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("name", ["found.parquet", "found.csv"])
def test_what_is_written_is_read_back(name, validation, tmp_path):
    written = top(validation)
    write_predictions(tmp_path / name, written, validation)
    found = read_predictions(tmp_path / name)
    assert (found.dataset, found.split) == ("imagenet_resized/16x16", "validation")
    assert set(found.wnids) == set(WNIDS)
    assert found.class_names[0] == validation.class_names[validation.wnids.index(found.wnids[0])]
    ids = np.array(found.wnids)
    wnids = np.array(validation.wnids)
    assert (ids[found.top.classes] == wnids[written.classes]).all()
    assert (ids[found.top.labels] == wnids[written.labels]).all()
    assert found.top.probabilities == pytest.approx(written.probabilities, rel=1e-6)
    assert found.top.label_probability == pytest.approx(written.label_probability, rel=1e-6)


def test_images_are_named_by_their_files_though_the_store_has_converted_them(tmp_path):
    """In the file of predictions with their path, below the pictures of a page in short."""
    root = write_folders(tmp_path / "pictures", suffix=".gif")
    store = prepare("image_folder/toy", source=root, data_dir=tmp_path / "data")["train"]
    assert store.num_converted == len(store) > 3
    images = select(store)
    write_predictions(tmp_path / "found.csv", top(images), images)
    rows = list(csv.DictReader((tmp_path / "found.csv").open(newline="")))
    files = [Path(row["file"]) for row in rows]
    assert all(file.is_file() for file in files)
    assert [file.parent.name for file in files] == [row["label"] for row in rows]
    shown = [caption(top(images), number, store.class_names, store)[-1] for number in range(4)]
    assert shown == [str(file.relative_to(root)) for file in files[:4]]


def test_other_files_are_refused(validation, tmp_path):
    def refused(sentence, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_predictions(tmp_path / name)

    what = "is not a file that `evaluate --predictions` has written"
    refused(what, "text.parquet", b"hello")
    refused(f"{what}.*no column dataset", "other.csv", b"a,b\n1,2\n")
    refused(what, "empty.csv", b"")
    write_predictions(tmp_path / "good.csv", top(validation), validation)
    lines = (tmp_path / "good.csv").read_bytes().splitlines(keepends=True)
    refused("it has no rows", "none.csv", lines[0])
    refused("several data sets", "two.csv", b"".join(lines) + lines[1].replace(b"/16x16", b"/8x8"))
    refused(what, "cut.csv", b"".join(lines)[:-40])
    with pytest.raises(UserError, match=r"absent.csv does not exist; `evaluate --predictions"):
        read_predictions(tmp_path / "absent.csv")
