"""The most probable classes of every image of a selection, and how probable they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_imnet64.core.errors import RunFailed
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection
from keras_imnet64.evaluation.forward import Forward
from keras_imnet64.evaluation.predictions import labelled_batches
from keras_imnet64.models.contract import LEAST_PROBABILITY
from keras_imnet64.records import Scores

TOP = 5


@dataclass(frozen=True)
class TopPredictions:
    """What a model predicts for N images, whose classes are numbered as its logits are.

    Attributes:
        images: positions in the store of their split, int64 [N].
        labels: int32 [N].
        classes: the T = min(TOP, K) most probable ones, in descending order, int32 [N, T]; of equal
            ones the first.
        probabilities: of these classes, float32 [N, T].
        label_probability: of the label, float32 [N].
    """

    images: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    label_probability: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def first_class(self) -> np.ndarray:
        """The most probable class, int32 [N]."""
        return self.classes[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the most probable class, float32 [N]."""
        return self.probabilities[:, 0]

    @property
    def is_right(self) -> np.ndarray:
        """Whether the most probable class is the label, bool [N]."""
        return self.first_class == self.labels

    @property
    def is_in_top5(self) -> np.ndarray:
        """Whether the label is among the five most probable classes, bool [N]."""
        return (self.classes == self.labels[:, None]).any(axis=1)

    @property
    def scores(self) -> Scores:
        """Accuracies, and the cross-entropy as far as float32 probabilities tell it."""
        losses = -np.log(np.maximum(self.label_probability, LEAST_PROBABILITY))
        return Scores(
            top1=100 * float(self.is_right.mean()),
            top5=100 * float(self.is_in_top5.mean()),
            loss=float(losses.mean(dtype="float64")),
            count=len(self),
        )


def predict_top(
    forward: Forward, selection: Selection, batch_size: int, view: View | None, name: StrPath
) -> TopPredictions:
    """Returns the predictions of a model for all images of a selection, in their order.

    Args:
        forward: from images to logits [B, K], see `forward.keras_forward`.
        batch_size: total over all devices, whose number divides it.
        view: how images are shown, see `stream.evaluation_batches`; for ten crops, the model is one
            `with_ten_crops`.
        name: of the model in messages.

    Raises:
        RunFailed: the logits are not finite.
    """
    batches = logits_of(forward, selection, batch_size, view, name)
    return collected(selection, [top_of(logits, labels) for logits, labels in batches])


def logits_of(
    forward: Forward, selection: Selection, batch_size: int, view: View | None, name: StrPath
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (logits float32 [B, K], labels int32 [B]) of a selection; see `predict_top`."""
    for images, labels, is_real in labelled_batches(selection, batch_size, view):
        logits = np.asarray(forward(images), "float32")[is_real]
        if not np.isfinite(logits).all():
            raise RunFailed(f"{name} gives logits that are not finite")
        yield logits, labels[is_real]


def top_of(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the fields of `TopPredictions` but the images, of logits [B, K] and labels [B]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    classes = np.argsort(-logits, axis=1, kind="stable")[:, :TOP].astype("int32")
    rows = np.arange(len(labels))
    return labels, classes, np.take_along_axis(shares, classes, axis=1), shares[rows, labels]


def collected(selection: Selection, parts: Sequence[tuple[np.ndarray, ...]]) -> TopPredictions:
    """Returns the predictions for a selection from what `top_of` returned for its batches."""
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TopPredictions(selection.look_up(np.arange(len(selection)))[0], *columns)
