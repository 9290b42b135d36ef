"""Predicts the most probable classes of image files of any size.

Memory holds the pixels of at most two batches.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.files import csv_text
from keras_imnet64.core.types import Json, JsonObject, StrPath
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View, check_filter
from keras_imnet64.data.sources.finding import FaultyFile, find_images
from keras_imnet64.evaluation.evaluate import image_size_of, scoring_batch_size
from keras_imnet64.evaluation.forward import Forward, compile_forward, keras_forward
from keras_imnet64.models.contract import check_stated_classes, classifier_shape, with_logits
from keras_imnet64.models.fold import fold_batch_norm
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.records import ModelInfo
from keras_imnet64.runs import model_file

COLUMNS = ("file", "rank", "class_id", "class_name", "probability")
MAX_READERS = 8  # threads; each may hold an image of its full size


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


@dataclass(frozen=True)
class SkippedFile:
    """A file that could not be read, and the reason as a sentence."""

    file: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """The images of a batch, and the files of that batch that could not be read."""

    files: list[Path]
    images: list[np.ndarray]  # uint8 [S, S, 3] each
    skipped: list[SkippedFile]


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
    not_images: list[FaultyFile] | None = [] if skip_corrupt else None
    files = find_images(images, not_images)
    devices = devices or take_devices()
    predictions: list[Prediction] = []
    skipped = [SkippedFile(str(file), f"{file} {fault}") for file, fault in not_images or []]
    with devices.scope():
        model = load_model(path)
        image_size = _image_size(model, info, path)
        labels = _class_labels(model, info, path)
        forward = _make_forward(with_logits(model), devices, fold)
        batch_size = _batch_size(len(files), devices)
        view = View.of(info, image_size).one_crop
        with Activity("classifying images") as classifying:
            for batch in _read_batches(files, batch_size, view, skip_corrupt):
                skipped += batch.skipped
                if batch.files:
                    logits = _logits(forward, batch, batch_size, path)
                    predictions += [
                        Prediction(str(file), _most_probable(row, labels, top))
                        for file, row in zip(batch.files, logits, strict=True)
                    ]
                classifying.count(len(predictions) + len(skipped), len(files))
    if not predictions:
        raise UserError(f"none of {len(files)} images could be read: {skipped[0].reason}")
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


# ------------------------------------------------------------------------------ sizes and classes


def _check_top(top: int) -> None:
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise UserError(f"--top must be a positive whole number; received {top!r}")


def _image_size(model: keras.Model, info: ModelInfo, path: StrPath) -> int:
    """Returns the pixels per side of the images for a model."""
    shape = classifier_shape(model, path)
    if shape.height != shape.width:
        raise UserError(
            f"{path} takes images of {shape.height} x {shape.width}; square ones are needed"
        )
    return image_size_of(info, shape.height, path)


def _class_labels(model: keras.Model, info: ModelInfo, path: StrPath) -> list[ClassLabel]:
    """Returns the classes of a model, with made-up names if its file states none."""
    num_classes = classifier_shape(model, path).num_classes
    check_stated_classes(info, num_classes, path)
    ids = info.wnids or [None] * num_classes
    names = info.class_names or info.wnids or [f"class {label}" for label in range(num_classes)]
    return [ClassLabel(*label) for label in zip(ids, names, strict=True)]


# ---------------------------------------------------------------------------------- batch by batch


def _batch_size(num_images: int, devices: Devices) -> int:
    """Returns the size of equal batches, at most that of `evaluate`, which padding fills up.

    Padding costs as much as images: 300 images are two batches of 150, not of 256.
    """
    num_batches = -(-num_images // scoring_batch_size(devices))
    return -(-num_images // (num_batches * devices.count)) * devices.count


def _make_forward(model: keras.Model, devices: Devices, fold: bool) -> Forward:
    return compile_forward(fold_batch_norm(model), devices) if fold else keras_forward(model)


def _read_batches(
    files: Sequence[Path], batch_size: int, view: View, skip_corrupt: bool
) -> Iterator[Batch]:
    """Reads images in threads, one batch ahead of the model."""
    pool = ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1))

    def submit(start: int) -> list[tuple[Path, Future[np.ndarray]]]:
        return [
            (file, pool.submit(read_image, file, view))
            for file in files[start : start + batch_size]
        ]

    try:
        ahead = submit(0)
        for start in range(batch_size, len(files) + batch_size, batch_size):
            current, ahead = ahead, submit(start)
            yield _collect(current, skip_corrupt)
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(reading: Sequence[tuple[Path, Future[np.ndarray]]], skip_corrupt: bool) -> Batch:
    """Waits for the images of a batch."""
    batch = Batch([], [], [])
    for file, future in reading:
        try:
            image = future.result()
        except UserError as error:
            if not skip_corrupt:
                raise UserError(f"{error}; --skip-corrupt goes on without such files") from error
            batch.skipped.append(SkippedFile(str(file), str(error)))
        else:
            batch.files.append(file)
            batch.images.append(image)
    return batch


def _logits(forward: Forward, batch: Batch, batch_size: int, path: StrPath) -> np.ndarray:
    """Returns float32 logits [N, K]; the batch is padded, so that all batches have one shape."""
    pixels = np.zeros((batch_size, *batch.images[0].shape), "uint8")
    pixels[: len(batch.images)] = batch.images
    try:
        outputs = forward(pixels)
    except Exception as error:  # each backend raises its own types if a model cannot be applied
        size = pixels.shape[1]
        raise RunFailed(
            f"{path} cannot be applied to images of {size} x {size}: {reason(error)}"
        ) from error
    logits = np.asarray(outputs[: len(batch.images)], "float32")
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        file = batch.files[int(finite.argmin())]
        raise RunFailed(f"{path} gives logits that are not finite for {file}")
    return logits


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
