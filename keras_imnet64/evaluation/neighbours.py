"""Scores a model without its head: by the nearest neighbours of each image among training images.

The usual protocol of self-supervised learning (arXiv:1805.01978, arXiv:2104.14294): the k training
images whose features have the largest cosine similarity s vote for their classes, each with weight
exp(s / 0.07). The head takes no part, so the classes may be others than the model's own.

Memory holds the features of both splits once, as float32: for ImageNet and 2,048 features 11 GB.
"""

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection, select
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation.evaluate import choose_view, dataset_of, scoring_batch_size
from keras_imnet64.evaluation.features import feature_model
from keras_imnet64.evaluation.forward import Forward, compile_forward
from keras_imnet64.models.contract import classifier_shape
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.records import ModelInfo
from keras_imnet64.runs import model_file

TEMPERATURE = 0.07  # of both papers
MAX_SIMILARITIES = 2**25  # at a time: 128 MB, and 256 MB for the order of their positions


@keras_defaults()
def evaluate_neighbours(
    run_or_model: StrPath,
    num_neighbours: int = 20,
    *,
    dataset: str | None = None,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: Devices | None = None,
    pack_progress: PackProgress | None = None,
) -> JsonObject:
    """Scores a model's features on the validation split, with the train split as neighbours.

    If the model knows some classes of the data set, by their ids, both splits are limited to
    these; if it knows none, all classes count.

    Args:
        run_or_model: a run folder or a model file.
        num_neighbours: k, at most the number of training images.
        dataset: default: the one that the model was trained on.
        data_dir: as for `evaluate`.
        cache_dir: as for `evaluate`.
        devices: as for `evaluate`.
        pack_progress: as for `evaluate`.

    Returns:
        dict: top1, top5 (percent), count, neighbours (k), bank (the number of training images),
        features (their length), classes, dataset, split, verified, model.

    Raises:
        UserError: the model has no features, or does not take these images; k is out of range.
        RunFailed: the features are not finite.
    """
    path = model_file(run_or_model)
    info = read_model_info(path)
    dataset = dataset_of(info, dataset, path)
    devices = devices or take_devices()
    train, final = (
        _known_classes(
            info,
            open_dataset(
                dataset, split, data_dir=data_dir, cache_dir=cache_dir, progress=pack_progress
            ),
        )
        for split in ("train", "validation")
    )
    if not 1 <= num_neighbours <= len(train):
        raise UserError(
            f"--knn must be a number of neighbours from 1 to {len(train):,}, the training images "
            f"of {dataset}; received {num_neighbours}"
        )
    with devices.scope():
        model = load_model(path)
        view = _view(model, info, final.store, path)
        forward = compile_forward(feature_model(model, path), devices)
        batch_size = scoring_batch_size(devices, image_size=view.image_size if view else None)
        bank, bank_labels = features_of(forward, train, batch_size, view, path)
        features, labels = features_of(forward, final, batch_size, view, path)
    ranks = neighbour_ranks(bank, bank_labels, features, labels, num_neighbours, train.num_classes)
    return {
        "top1": 100 * float((ranks < 1).mean()),
        "top5": 100 * float((ranks < 5).mean()),
        "count": len(final),
        "neighbours": num_neighbours,
        "bank": len(train),
        "features": bank.shape[1],
        "classes": train.num_classes,
        "dataset": dataset,
        "split": "validation",
        "verified": bool(train.store.verified and final.store.verified),
        "model": str(path),
    }


def _known_classes(info: ModelInfo, store: Store) -> Selection:
    known = [wnid for wnid in store.wnids if wnid in set(info.wnids or ())]
    selection = select(store, known or None)
    if not len(selection):
        raise UserError(
            f"{store.dataset} {store.split} has no image of the classes that the model knows, so "
            "there is nothing to compare"
        )
    return selection


def _view(model: keras.Model, info: ModelInfo, store: Store, path: StrPath) -> View | None:
    """Returns how images are shown: as `evaluate` shows them, in one crop."""
    shape = classifier_shape(model, path)
    shape.check_size(store.image_size, path, store.dataset)
    return choose_view(info, store, shape.square_size(path), False, path)


def features_of(
    forward: Forward, selection: Selection, batch_size: int, view: View | None, path: StrPath
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (unit vectors float32 [N, D], labels int32 [N]) of all images of a selection."""
    features, labels = np.zeros((len(selection), 0), "float32"), np.zeros(len(selection), "int32")
    store, num_done = selection.store, 0
    activity = f"computing features of {store.dataset} {store.split}"
    with as_run_failed(store), Activity(activity) as computing:
        batches = evaluation_batches(selection, batch_size, view)
        for pixels, truth, weights in batches.as_numpy_iterator():
            is_image = weights > 0
            found = np.asarray(forward(pixels), "float32")[is_image]
            if not np.isfinite(found).all():
                raise RunFailed(f"{path} gives features that are not finite")
            if not features.size:  # the length of a vector is known from the first batch
                features = np.zeros((len(selection), found.shape[1]), "float32")
            place = slice(num_done, num_done + len(found))
            features[place], labels[place] = unit_vectors(found), truth[is_image]
            num_done += len(found)
            computing.count(num_done, len(selection))
    return features, labels


def neighbour_ranks(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    num_neighbours: int,
    num_classes: int,
) -> np.ndarray:
    """Returns how many classes have more votes than the label of each image, int [N].

    Classes with as many votes as the label rank by their position, as in `metrics.rank_of`.

    Args:
        bank, bank_labels: unit vectors [M, D] and integers [M] of the training images.
        features, labels: unit vectors [N, D] and integers [N].
    """
    rows = max(1, MAX_SIMILARITIES // len(bank))
    ranks = []
    with Activity("comparing features") as comparing:
        for start in range(0, len(features), rows):
            part, own = features[start : start + rows], labels[start : start + rows]
            votes = _votes(part @ bank.T, bank_labels, num_neighbours, num_classes)  # [R, K]
            of_label = np.take_along_axis(votes, own[:, None], axis=1)
            is_before = (votes == of_label) & (np.arange(num_classes) < own[:, None])
            ranks.append(((votes > of_label) | is_before).sum(axis=1))
            comparing.count(start, len(features))
    return np.concatenate(ranks)


def _votes(
    similarities: np.ndarray, bank_labels: np.ndarray, num_neighbours: int, num_classes: int
) -> np.ndarray:
    """Returns the sum of the weights for each class, float64 [R, K].

    Args:
        similarities: [R, M].
    """
    nearest = np.argpartition(similarities, -num_neighbours, axis=1)[:, -num_neighbours:]
    weights = np.exp(np.take_along_axis(similarities, nearest, axis=1) / TEMPERATURE)
    votes = np.zeros((len(similarities), num_classes))
    np.add.at(votes, (np.arange(len(votes))[:, None], bank_labels[nearest]), weights)
    return votes


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors [N, D] of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo("float32").tiny)
