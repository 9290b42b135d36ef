"""Scores of each class: a confusion matrix worked by hand, and evaluations against NumPy."""

import csv
import json
import os
from dataclasses import astuple

import keras
import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.evaluation import per_class
from keras_imnet64.evaluation.evaluate import evaluate
from keras_imnet64.evaluation.metrics import in_top_k
from keras_imnet64.evaluation.per_class import ConfusionMatrix, largest
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo

pytestmark = pytest.mark.backend
DATASET = "imagenet_resized/16x16"
NAMES = (["n0", "n1", "n2", "n3"], ["cat", "dog", "eel", "fox"])
# Rows: the class; columns: taken for n0 ... n3, or for no class.
MATRIX = np.array([[3, 1, 0, 0, 0], [2, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 5, 5]])
TOP5 = np.array([4, 3, 0, 5])


def logits_for(matrix):
    """Returns (labels, logits) of images that give this matrix."""
    labels, predicted = np.nonzero(matrix)
    repeats = matrix[labels, predicted]
    labels, predicted = np.repeat(labels, repeats), np.repeat(predicted, repeats)
    logits = np.zeros((len(labels), matrix.shape[0]), "float32")
    for row, label in zip(logits, predicted, strict=True):
        row[min(label, len(row) - 1)] = np.nan if label == len(row) else 1.0
    return labels.astype("int32"), logits


def test_counts_by_hand():
    labels, logits = logits_for(MATRIX)
    metric = ConfusionMatrix(4)
    for half in (slice(0, 7), slice(7, None)):  # sums over batches
        metric.update_state(labels[half], logits[half])
    matrix, top5 = metric.counts()
    np.testing.assert_array_equal(matrix, MATRIX)
    np.testing.assert_array_equal(top5, [4, 4, 0, 5])  # all four are among five
    assert float(metric.result()) == MATRIX.sum()
    metric.reset_state()
    assert metric.counts()[0].sum() == 0


def test_a_table_of_too_many_classes_is_refused():
    with pytest.raises(UserError, match="at most 40,000 classes; received a model of 40,001"):
        ConfusionMatrix(40_001)


def test_padding_rows_of_a_batch_are_not_counted():
    metric = ConfusionMatrix(3)
    logits = np.eye(3, dtype="float32")[[0, 2, 2]]
    metric.update_state(np.array([0, 1, 1]), logits, sample_weight=np.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(metric.counts()[0], [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(metric.counts()[1], [1, 1, 0])  # all three are among five


def test_top5_counts_the_sixth_as_a_miss():
    metric = ConfusionMatrix(7)
    logits = np.tile(-np.arange(7, dtype="float32"), (7, 1))  # ranks are positions
    metric.update_state(np.arange(7), logits)
    assert metric.counts()[1].tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_the_largest_logit_agrees_with_in_top_1():
    """Ties, infinities and what is not a number, in every place."""
    values = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]
    logits = np.array([[a, b, c] for a in values for b in values for c in values], "float32")
    predicted = keras.ops.convert_to_numpy(largest(logits))
    for label in range(3):
        hits = in_top_k(np.full(len(logits), label), logits, 1)
        np.testing.assert_array_equal(predicted == label, keras.ops.convert_to_numpy(hits) == 1)
    np.testing.assert_array_equal(predicted == 3, np.isnan(logits).any(axis=1))


def test_rows_by_hand():
    rows = per_class.class_rows(MATRIX, TOP5, *NAMES)
    assert [astuple(row) for row in rows] == [
        ("n0", "cat", 4, 75.0, 100.0, "n1", "dog", 25.0),
        ("n1", "dog", 4, 0.0, 75.0, "n0", "cat", 50.0),  # as many as eel, and before it
        ("n2", "eel", 0, None, None, None, None, None),
        ("n3", "fox", 10, 50.0, 50.0, None, None, None),
    ]


def test_balanced_top1_is_the_mean_over_classes_that_have_images():
    assert per_class.balanced_top1(MATRIX) == pytest.approx((75 + 0 + 50) / 3)


def test_most_confused_pairs_by_hand():
    pairs = per_class.most_confused(MATRIX, *NAMES)
    assert [astuple(pair) for pair in pairs] == [
        ("n1", "dog", "n0", "cat", 2, 50.0),
        ("n1", "dog", "n2", "eel", 2, 50.0),
        ("n0", "cat", "n1", "dog", 1, 25.0),
    ]
    many = per_class.most_confused(np.ones((5, 6), int), list("abcde"), list("abcde"))
    assert "".join(p.class_id + p.taken_for_id for p in many) == "abacadaebabcbdbecacb"


# ---------------------------------------------------------------------------------- whole files


def write_model(path, wnids, **info):
    """Writes a linear model of random weights, which gets some classes right and most wrong."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(len(wnids), name="logits")(x))
    kernel = np.random.default_rng(3).normal(0, 1, (768, len(wnids)))
    model.get_layer("logits").set_weights([kernel, np.zeros(len(wnids))])
    ship(model, path, ModelInfo(wnids=tuple(wnids), dataset=DATASET, **info))
    return path


@pytest.fixture(scope="module")
def store(data_dir):
    return open_dataset(DATASET, "validation", data_dir=data_dir)


@pytest.fixture
def model(tmp_path, store):
    """A model with another class order than the data, and two classes that the data lacks."""
    wnids = ["n1", *sorted(store.wnids), "n2"]
    names = tuple(f"own {wnid[-2:]}" for wnid in wnids)
    return write_model(tmp_path / "model.keras", wnids, class_names=names)


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_against_numpy(model, store, data_dir, tmp_path):
    plain = evaluate(model, data_dir=data_dir)
    result = evaluate(model, data_dir=data_dir, per_class=tmp_path / "classes.csv")
    assert {key: result[key] for key in plain} == plain
    assert set(result) - set(plain) == {"balanced_top1", "most_confused"}

    wnids = ["n1", *sorted(store.wnids), "n2"]
    images, labels = store.gather(np.arange(len(store)))
    labels = np.array([wnids.index(store.wnids[label]) for label in labels])
    logits = load_model(model).predict(images, verbose=0)
    predicted, best = logits.argmax(axis=1), np.argsort(-logits, axis=1)[:, :5]
    matrix = np.zeros((12, 12), int)
    np.add.at(matrix, (labels, predicted), 1)

    rows = read_csv(tmp_path / "classes.csv")
    assert list(rows[0]) == [
        *("class_id", "class_name", "count", "top1", "top5"),
        *("most_confused_with", "most_confused_name", "share"),
    ]
    assert [row["class_id"] for row in rows] == wnids
    assert [int(row["count"]) for row in rows] == matrix.sum(axis=1).tolist()
    assert sum(int(row["count"]) for row in rows) == result["count"] == 40
    for label, row in list(enumerate(rows))[1:-1]:
        assert row["class_name"] == f"class {wnids[label][-2:]}"
        assert float(row["top1"]) == 100 * matrix[label, label] / 4
        assert float(row["top5"]) == 100 * (best[labels == label] == label).sum() / 4
    assert [rows[0]["class_name"], rows[-1]["class_name"]] == ["own n1", "own n2"]
    for row in (rows[0], rows[-1]):
        assert [row[c] for c in per_class.COLUMNS[2:]] == ["0", "", "", "", "", ""]
    right = np.diagonal(matrix)
    assert 0 < right.sum() < 40  # the test can fail
    assert result["top1"] == 100 * right.sum() / 40
    assert result["balanced_top1"] == pytest.approx(100 * np.mean(right[1:-1] / 4))
    first = result["most_confused"][0]
    assert list(first) == [
        *("class_id", "class_name", "taken_for_id", "taken_for_name", "count", "share")
    ]
    off = matrix - np.diag(right)
    assert first["count"] == off.max()
    assert off[wnids.index(first["class_id"]), wnids.index(first["taken_for_id"])] == off.max()
    assert json.loads(json.dumps(result)) == result


def test_two_tables_in_one_file_are_refused(model, tmp_path):
    file = tmp_path / "table.csv"
    with pytest.raises(UserError, match=r"both .*table\.csv: give each its own file"):
        evaluate(model, per_class=file, predictions=str(file))
    assert not file.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/classes.csv", "cannot be written: No such file"),
        ("x" * 300 + ".csv", "must have a name of at most 200 bytes"),
        ("model.keras", r"must be a file whose name ends in \.csv"),
        ("model.keras/classes.csv", "cannot be written: Not a directory"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_before_scoring(
    model, tmp_path, monkeypatch, name, message
):
    monkeypatch.setattr("keras_imnet64.evaluation.evaluate.open_dataset", None)
    before = model.read_bytes()
    with pytest.raises(UserError, match=message):
        evaluate(model, per_class=tmp_path / name)
    assert model.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.keras"]
