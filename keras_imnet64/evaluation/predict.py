"""What a model sees in image files of any size: its likeliest classes for each of them.

Only the pixels of two batches are held at a time, however many files there are.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.files import csv_text
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View, check_filter
from keras_imnet64.data.sources.finding import find_images
from keras_imnet64.evaluation.evaluate import scoring_batch_size
from keras_imnet64.models.contract import contract_of, names_of, with_logits
from keras_imnet64.models.ship import load_model, model_info
from keras_imnet64.runs import model_file

COLUMNS = ("file", "rank", "class_id", "class_name", "probability")
MAX_READERS = 8  # threads; each may hold an image of its full size


@keras_defaults()
def predict(run_or_model, images, *, top=5, devices=None, skip_corrupt=False):
    """The likeliest classes of images, by a run's model.keras or any `.keras` file.

    Images are shown as those of the model's data set are in evaluation, see `views.View`.

    Args:
        run_or_model: a run folder or a model file, with or without a softmax at its end.
        images: files and folders of images, one or several.
        top: classes for each image, at least 1; all of them where the model has fewer.
        devices: what `take_devices` gave; None takes all.
        skip_corrupt: go on past files that cannot be read, and list them.

    Returns:
        dict, fit for JSON: model; verified, as for `evaluate` (None if the file does not say);
        images, a list of {file, top}, where top is a list of {class_id, class_name, probability}
        (softmax in float32, likeliest first, equals in label order); skipped, a list of
        {file, reason}. A file without class ids has None, and names such as "class 17".

    Raises:
        UserError: no images, one that cannot be read, or a model that takes no images.
        RunFailed: the model's outputs are not finite.
    """
    _check_top(top)
    path = model_file(run_or_model)
    info = model_info(path)
    check_filter(info.get("resize_filter", "box"))
    not_images = [] if skip_corrupt else None
    files = find_images(images, not_images)
    devices = devices or take_devices()
    found = []
    skipped = [{"file": str(f), "reason": f"{f} {fault}"} for f, fault in not_images or []]
    with devices.scope():
        model = load_model(path)
        image_size, classes = _size_and_classes(model, info, path)
        predictor = _make_predictor(with_logits(model))
        batch_size = _batch_size(len(files), devices)
        view = View.of(info, image_size).one_crop
        for read, failed in _batches(files, batch_size, view, skip_corrupt):
            skipped += failed
            logits = _logits(predictor, read, batch_size, path) if read else []
            found += [
                {"file": str(file), "top": _likeliest(row, classes, top)}
                for (file, _), row in zip(read, logits, strict=True)
            ]
    if not found:
        raise UserError(f"none of {len(files)} images could be read: {skipped[0]['reason']}")
    verified = info.get("verified")
    return {"model": str(path), "verified": verified, "pictures": found, "skipped": skipped}


def as_rows(result):
    """What `predict` returned as one dict of COLUMNS for each image and class, rank from 1."""
    return [
        {"file": image["file"], "rank": rank, **entry}
        for image in result["pictures"]
        for rank, entry in enumerate(image["top"], start=1)
    ]


def as_csv(result):
    """`as_rows` as CSV text, see `files.csv_text`."""
    return csv_text(COLUMNS, as_rows(result))


# ----------------------------------------------------------------------------- what the model takes


def _check_top(top):
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise UserError(f"--top must be a positive whole number; received {top!r}")


def _size_and_classes(model, info, path):
    """The side of the images, from the file where the model leaves it open; [(id, name)]."""
    height, width, num_classes = contract_of(model, path)
    if height != width:
        raise UserError(f"{path} takes images of {height} x {width}; square ones are needed")
    size = height or info.get("image_size")
    if not size:
        raise UserError(
            f"{path} takes images of any size and does not say which it was trained on; a model "
            "with a fixed input size is needed"
        )
    ids, names = names_of(info, num_classes, path)
    names = names or ids or [f"class {label}" for label in range(num_classes)]
    return size, list(zip(ids or [None] * num_classes, names, strict=True))


# ---------------------------------------------------------------------------------- batch by batch


def _batch_size(num_images, devices):
    """That of `evaluate`, or less for few images: rows that fill up a batch cost as much."""
    whole = -(-num_images // devices.count) * devices.count
    return min(scoring_batch_size(devices), whole)


def _make_predictor(model):
    """A compiled model that shares the layers of `model`, as `evaluate.make_scorer` makes one."""
    predictor = keras.Model(model.inputs, model.outputs)
    predictor.compile(jit_compile=keras.config.backend() == "jax")
    return predictor


def _batches(files, batch_size, view, skip_corrupt):
    """Read images in threads, one batch ahead of the model.

    Yields:
        ([(file, uint8 [S, S, 3])], [{file, reason}]) of at most `batch_size` files together.
    """
    pool = ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1))

    def submit(start):
        part = files[start : start + batch_size]
        return [(f, pool.submit(read_image, f, view)) for f in part]

    try:
        ahead = submit(0)
        for start in range(batch_size, len(files) + batch_size, batch_size):
            current, ahead = ahead, submit(start)
            yield _collect(current, skip_corrupt)
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(reading, skip_corrupt):
    read, failed = [], []
    for file, future in reading:
        try:
            read.append((file, future.result()))
        except UserError as error:
            if not skip_corrupt:
                raise UserError(f"{error}; --skip-corrupt goes on without such files") from error
            failed.append({"file": str(file), "reason": str(error)})
    return read, failed


def _logits(predictor, read, batch_size, path):
    """float32 [B, K] of the images of a batch, filled up so that its shape is always the same."""
    pixels = np.zeros((batch_size, *read[0][1].shape), "uint8")
    pixels[: len(read)] = [image for _, image in read]
    try:
        outputs = predictor.predict(pixels, batch_size=batch_size, verbose=0)
    except Exception as error:  # what backends raise of a model that cannot be applied
        size = pixels.shape[1]
        raise RunFailed(
            f"{path} cannot be applied to images of {size} x {size}: {reason(error)}"
        ) from error
    logits = np.asarray(outputs[: len(read)], "float32")
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        file = read[int(finite.argmin())][0]
        raise RunFailed(f"{path} gives logits that are not finite for {file}")
    return logits


def _likeliest(logits, classes, top):
    """The entries of the largest logits, with their softmax in float32."""
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    return [
        {
            "class_id": classes[label][0],
            "class_name": classes[label][1],
            "probability": float(probabilities[label]),
        }
        for label in np.argsort(-logits, kind="stable")[:top]
    ]
