"""Applies a model to image files of any size, batch by batch: `predict` and `embed` share it.

Memory holds the pixels of at most two batches.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View
from keras_imnet64.data.sources.finding import FaultyFile, find_images
from keras_imnet64.evaluation.evaluate import image_size_of, scoring_batch_size
from keras_imnet64.evaluation.forward import Forward
from keras_imnet64.models.contract import classifier_shape
from keras_imnet64.records import ModelInfo

MAX_READERS = 8  # threads; each may hold an image of its full size


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


@dataclass(frozen=True)
class ImageFiles:
    """The files that hold images, and those that do not but may be skipped."""

    files: Sequence[Path]
    skipped: Sequence[SkippedFile]
    skip_corrupt: bool

    def all_skipped(self, unread: Sequence[SkippedFile]) -> list[SkippedFile]:
        """Returns all files that are skipped, with those of `files` that could not be read.

        Raises:
            UserError: none of `files` could be read.
        """
        if len(unread) == len(self.files):
            raise UserError(f"none of {len(self.files)} images could be read: {unread[0].reason}")
        return [*self.skipped, *unread]


def find_files(images: StrPath | Iterable[StrPath], skip_corrupt: bool) -> ImageFiles:
    """Finds image files, also in folders.

    Args:
        skip_corrupt: skip files that are no images or cannot be read, and list them.

    Raises:
        UserError: there are no images; or one is not an image, unless such files are skipped.
    """
    not_images: list[FaultyFile] | None = [] if skip_corrupt else None
    remedy = "convert or move such files, or leave them out with --skip-corrupt"
    files = find_images(images, not_images, remedy)
    skipped = [SkippedFile(str(file), f"{file} {fault}") for file, fault in not_images or []]
    return ImageFiles(files, skipped, skip_corrupt)


def view_for(model: keras.Model, info: ModelInfo, path: StrPath) -> View:
    """Returns how images are shown to a model: as those of its data set are in evaluation.

    Raises:
        UserError: the model does not take square images, or any size and does not state which.
    """
    size = classifier_shape(model, path).square_size(path)
    return View.of(info, image_size_of(info, size, path)).one_crop


def apply_to_files(
    forward: Forward, images: ImageFiles, view: View, devices: Devices, path: StrPath, what: str
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields each batch of files with what a model gives for it, float32 [N, D].

    Args:
        forward: uint8 pixels [B, S, S, 3] -> floats [B, D].
        path: of the model, for messages.
        what: the model gives, such as "logits", for messages.

    Raises:
        UserError: a file cannot be read, and `images.skip_corrupt` is false.
        RunFailed: the model cannot be applied, or gives numbers that are not finite.
    """
    batch_size = _batch_size(len(images.files), devices, view.image_size)
    num_done = 0
    with Activity(f"computing {what}") as applying:
        for batch in read_batches(images.files, batch_size, view, images.skip_corrupt):
            outputs = np.zeros((0, 0), "float32")
            if batch.files:
                outputs = _outputs(forward, batch, batch_size, path, what)
            yield batch, outputs
            num_done += len(batch.files) + len(batch.skipped)
            applying.count(num_done, len(images.files))


def _batch_size(num_images: int, devices: Devices, image_size: int) -> int:
    """Returns the size of equal batches, at most that of `evaluate`, which padding fills up.

    Padding costs as much as images: 300 images are two batches of 150, not of 256.
    """
    num_batches = -(-num_images // scoring_batch_size(devices, image_size=image_size))
    return -(-num_images // (num_batches * devices.count)) * devices.count


def read_batches(
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


def _outputs(
    forward: Forward, batch: Batch, batch_size: int, path: StrPath, what: str
) -> np.ndarray:
    """Returns float32 [N, D]; the batch is padded, so that all batches have one shape."""
    pixels = np.zeros((batch_size, *batch.images[0].shape), "uint8")
    pixels[: len(batch.images)] = batch.images
    try:
        outputs = forward(pixels)
    except Exception as error:  # each backend raises its own types if a model cannot be applied
        size = pixels.shape[1]
        raise RunFailed(
            f"{path} cannot be applied to images of {size} x {size}: {reason(error)}"
        ) from error
    found = np.asarray(outputs[: len(batch.images)], "float32")
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        file = batch.files[int(finite.argmin())]
        raise RunFailed(f"{path} gives {what} that are not finite for {file}")
    return found
