"""Predicts the most probable classes of image files of any size; `image_files` reads them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import csv_text
from keras_imnet64.core.types import Json, JsonObject, StrPath
from keras_imnet64.data.images.views import View, check_filter
from keras_imnet64.evaluation.forward import compile_forward, keras_forward
from keras_imnet64.evaluation.image_files import SkippedFile, apply_to_files, find_files, view_for
from keras_imnet64.models.contract import check_stated_classes, classifier_shape, with_logits
from keras_imnet64.models.fold import fold_batch_norm
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.records import ModelInfo
from keras_imnet64.runs import model_file

COLUMNS = ("file", "rank", "class_id", "class_name", "probability")


@dataclass(frozen=True)
class ClassLabel:
    """A class of a model; a file without class ids has None."""

    class_id: str | None
    class_name: str


@dataclass(frozen=True)
class ClassProbability:
    """A class that an image may belong to."""

    class_id: str | None
    class_name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, in descending order."""

    file: str
    top: list[ClassProbability]


@keras_defaults()
def predict(
    run_or_model: StrPath,
    images: StrPath | Iterable[StrPath],
    *,
    top: int = 5,
    devices: Devices | None = None,
    skip_corrupt: bool = False,
    fold: bool = True,
) -> JsonObject:
    """Predicts the classes of images with a run's model.keras or any `.keras` file.

    Images are shown to the model as those of its data set are in evaluation, see `views.View`.

    Args:
        run_or_model: a run folder or a model file, with or without a softmax at its end.
        images: one or several files and folders of images.
        top: number of classes for each image, at least 1; all classes if the model has fewer.
        devices: what `take_devices` returned; None takes all.
        skip_corrupt: skip files that cannot be read, and list them.
        fold: compute with batch normalisation folded into other layers (`models.fold`) and a
            compiled forward pass, which is faster and differs in the last bits; False computes
            with the layers of the file, as `evaluate` does.

    Returns:
        dict, fit for JSON: model; verified, as for `evaluate` (None if the file does not state it);
        images, a list of {file, top}, where top is a list of {class_id, class_name, probability}
        (softmax in float32, in descending order, equal ones in label order); skipped, a list of
        {file, reason}. For a model file without class ids, class_id is None and class_name is such
        as "class 17".

    Raises:
        UserError: there are no images, one cannot be read, or the file is not a classifier of
            images.
        RunFailed: the model's outputs are not finite.
    """
    _check_top(top)
    path = model_file(run_or_model)
    info = read_model_info(path)
    check_filter(View.of(info, 1).resize_filter)
    found = find_files(images, skip_corrupt)
    devices = devices or take_devices()
    predictions: list[Prediction] = []
    unread: list[SkippedFile] = []
    with devices.scope():
        model = load_model(path)
        view = view_for(model, info, path)
        labels = _class_labels(model, info, path)
        classifier = with_logits(model)
        forward = (
            compile_forward(fold_batch_norm(classifier), devices)
            if fold
            else keras_forward(classifier)
        )
        for batch, logits in apply_to_files(forward, found, view, devices, path, "logits"):
            unread += batch.skipped
            predictions += [
                Prediction(str(file), _most_probable(row, labels, top))
                for file, row in zip(batch.files, logits, strict=True)
            ]
    skipped = found.all_skipped(unread)
    return {
        "model": str(path),
        "verified": info.verified,
        "images": [asdict(prediction) for prediction in predictions],
        "skipped": [asdict(file) for file in skipped],
    }


def as_rows(result: Mapping[str, Json]) -> list[JsonObject]:
    """Returns the result of `predict` as a row of COLUMNS for each image and class; rank from 1."""
    return [
        {"file": image["file"], "rank": rank, **entry}
        for image in result["images"]
        for rank, entry in enumerate(image["top"], start=1)
    ]


def as_csv(result: Mapping[str, Json]) -> str:
    """Returns the rows of `as_rows` as CSV text."""
    return csv_text(COLUMNS, as_rows(result))


def _check_top(top: int) -> None:
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise UserError(f"--top must be a positive whole number; received {top!r}")


def _class_labels(model: keras.Model, info: ModelInfo, path: StrPath) -> list[ClassLabel]:
    """Returns the classes of a model, with made-up names if its file states none."""
    num_classes = classifier_shape(model, path).num_classes
    check_stated_classes(info, num_classes, path)
    ids = info.wnids or [None] * num_classes
    names = info.class_names or info.wnids or [f"class {label}" for label in range(num_classes)]
    return [ClassLabel(*label) for label in zip(ids, names, strict=True)]


def _most_probable(
    logits: np.ndarray, labels: Sequence[ClassLabel], top: int
) -> list[ClassProbability]:
    """Returns the classes of the largest logits [K], with their softmax in float32."""
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    return [
        ClassProbability(
            labels[label].class_id, labels[label].class_name, float(probabilities[label])
        )
        for label in np.argsort(-logits, kind="stable")[:top]
    ]
