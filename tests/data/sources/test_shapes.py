"""The drawn data set: the same bytes everywhere, not solved by colour, read as ImageNet is."""

import hashlib
import zipfile

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from keras_imnet64.data import datasets
from keras_imnet64.data.sources import shapes
from keras_imnet64.data.stores.opening import open_store


@pytest.fixture(scope="module")
def drawn():
    """Draws both splits, once for this file."""
    return {split: shapes.draw(split) for split in ("train", "validation")}


def sha256(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def test_images_are_the_same_bytes_everywhere(drawn):
    """Frozen output: other digests mean another data set, with other results."""
    assert (
        sha256(drawn["train"][0])
        == "93c007d811b59e1a54943a16a0a2c415ea9a03ba7b12f4e742d1b55694f93b56"
    )
    assert (
        sha256(drawn["validation"][0])
        == "1fd4372c4034bf85caea5a2852a8c141709ef2cdba53aa002f200847d6be3b33"
    )


def test_the_first_images_are_those_of_the_whole_split(drawn):
    for first, whole in zip(shapes.draw("validation", 64), drawn["validation"], strict=True):
        np.testing.assert_array_equal(first, whole[:64])


def test_splits_are_balanced_and_shuffled(drawn):
    for split, count in (("train", 4000), ("validation", 1000)):
        images, labels = drawn[split]
        assert images.shape == (count, 64, 64, 3) and images.dtype == np.uint8
        assert (np.bincount(labels) == count // 10).all()
        assert len(set(labels[:30].tolist())) > 5


def test_no_image_is_in_both_splits(drawn):
    train, validation = ({image.tobytes() for image in images} for images, _ in drawn.values())
    assert len(train) == 4000 and len(validation) == 1000
    assert not train & validation


def test_shapes_lie_within_the_image(drawn):
    """A shape stands out from its background; none reaches the border."""
    for label, draw_shape in enumerate(shapes.SHAPES.values()):
        u = np.random.default_rng(label).random((5, 200))
        coverage = shapes._coverage(np.full(200, label), u)
        border = np.concatenate([coverage[:, [0, -1]].ravel(), coverage[:, :, [0, -1]].ravel()])
        assert border.max() == 0, draw_shape.__name__
        area = coverage.sum(axis=(1, 2))
        assert area.min() > 100 and area.max() < 1600, draw_shape.__name__


def test_the_nearest_mean_colour_predicts_little(drawn):
    (images, labels), (val_images, val_labels) = drawn.values()
    colours, val_colours = images.mean(axis=(1, 2)), val_images.mean(axis=(1, 2))
    means = np.stack([colours[labels == label].mean(axis=0) for label in range(10)])
    nearest = np.square(val_colours[:, None] - means).sum(axis=2).argmin(axis=1)
    assert (nearest == val_labels).mean() < 0.20


@pytest.mark.slow  # of the bytes that the first test above has frozen
def test_a_logistic_regression_on_pixels_stays_under_60_percent(drawn):
    """Ten iterations with a small penalty, which tell enough."""
    (images, labels), (val_images, val_labels) = (
        (images.reshape(len(images), -1).astype(np.float32), labels)
        for images, labels in drawn.values()
    )
    mean, std = images.mean(axis=0), images.std(axis=0)
    images, val_images = (images - mean) / std, (val_images - mean) / std
    targets = np.eye(10, dtype=np.float32)[labels]

    def loss_and_gradient(flat):
        weights = flat.reshape(-1, 10).astype(np.float32)
        log_shares = log_softmax(images @ weights, axis=1)
        gradient = images.T @ (np.exp(log_shares) - targets) + weights
        loss = -(targets * log_shares).sum() + np.square(weights).sum() / 2
        return float(loss), gradient.ravel().astype(np.float64)

    start = np.zeros(images.shape[1] * 10)
    options = {"maxiter": 10}
    fitted = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    weights = fitted.x.reshape(-1, 10)
    assert ((images @ weights).argmax(axis=1) == labels).mean() > 0.2  # it has learnt something
    assert ((val_images @ weights).argmax(axis=1) == val_labels).mean() < 0.60


def test_archives_have_the_official_layout(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "draw", drawn.__getitem__)
    paths = shapes.write(tmp_path)
    assert sorted(paths) == ["shapes_train_npz.zip", "shapes_val_npz.zip"]
    with zipfile.ZipFile(paths["shapes_train_npz.zip"]) as archive:
        assert archive.namelist() == [f"train_data_batch_{i}.npz" for i in (1, 2, 3, 4)]
        with archive.open("train_data_batch_2.npz") as file:
            batch = np.load(file, allow_pickle=False)
            assert set(batch) == {"data", "labels", "mean"}
            assert batch["data"].shape == (1000, 3 * 64 * 64) and batch["data"].dtype == np.uint8
            assert batch["labels"].min() == 1 and batch["labels"].max() == 10
            assert batch["mean"].shape == (3 * 64 * 64,)
            red = batch["data"][0, : 64 * 64].reshape(64, 64)
    np.testing.assert_array_equal(red, drawn["train"][0][1000, :, :, 0])
    with zipfile.ZipFile(paths["shapes_val_npz.zip"]) as archive:
        assert archive.namelist() == ["val_data.npz"]


def test_the_set_is_made_on_first_use_through_tfds(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "draw", drawn.__getitem__)
    store = datasets.open_dataset("shapes", "train", data_dir=tmp_path)
    assert (tmp_path / "shapes").is_dir() and not (tmp_path / "imagenet_resized").exists()
    assert store.verified and store.wnids == list(shapes.CLASSES) == store.class_names
    images, labels = drawn["train"]
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert len(store) == 4000
    for image, label in zip(store.images, store.labels, strict=True):
        assert label_of[image.tobytes()] == label
    assert store.digest == "c22f93c34365ad50717ce42deb93af7b51a119bf25fbcff514aef2beb8ec9afa"
    assert len(open_store(tmp_path / "packed" / "shapes" / "validation")) == 1000
