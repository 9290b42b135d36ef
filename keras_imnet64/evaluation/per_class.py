"""Reports which classes a model recognises and which it confuses.

A Keras metric counts them while `evaluate` scores, so that each image is scored only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_csv
from keras_imnet64.core.types import JsonObject, StrPath, Tensor
from keras_imnet64.data.selection import Selection
from keras_imnet64.evaluation.metrics import in_top_k

NUM_PAIRS = 10
MAX_NUM_CLASSES = 40_000  # whose table has 6 GB, and cells that int32 can number


@dataclass(frozen=True)
class ClassRow:
    """A row of the CSV file: the scores of a class.

    A class without images has count 0 and no scores. The last three fields are None if no image of
    the class is taken for another class.
    """

    class_id: str
    class_name: str
    count: int
    top1: float | None = None  # percent
    top5: float | None = None
    most_confused_with: str | None = None  # a class id
    most_confused_name: str | None = None
    share: float | None = None  # percent of the images, taken for that class


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes, and how many images of the first are taken for the second."""

    class_id: str
    class_name: str
    taken_for_id: str
    taken_for_name: str
    count: int
    share: float  # percent of the first class's images


COLUMNS = tuple(field.name for field in fields(ClassRow))


def report_classes(confusion: ConfusionMatrix, selection: Selection, path: StrPath) -> JsonObject:
    """Writes the counts of a `ConfusionMatrix` into a CSV file, one row for each class.

    Returns:
        dict: balanced_top1 and most_confused, see the functions of these names.
    """
    matrix, top5 = confusion.counts()
    wnids, class_names = selection.wnids, selection.class_names
    write_csv(path, COLUMNS, map(asdict, class_rows(matrix, top5, wnids, class_names)))
    return {
        "balanced_top1": balanced_top1(matrix),
        "most_confused": [asdict(pair) for pair in most_confused(matrix, wnids, class_names)],
    }


class ConfusionMatrix(keras.metrics.Metric):
    """Counts images by their class and the class that they are taken for.

    The counts are float32, as in every Keras metric: whole numbers are exact up to 2**24, and no
    class has that many images.

    Args:
        num_classes: K.

    Attributes:
        matrix: [K, K + 1]; row: the class, column: the class with the largest logit. The last
            column counts images with a logit that is not a number.
        top5: [K], images whose class is among the five largest logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(name="confusion")
        if num_classes > MAX_NUM_CLASSES:
            raise UserError(
                f"scores of each class are for at most {MAX_NUM_CLASSES:,} classes; received a "
                f"model of {num_classes:,}"
            )
        self.num_classes = num_classes
        shape = (num_classes, num_classes + 1)
        self.matrix = self.add_weight(shape=shape, initializer="zeros", name="matrix")
        self.top5 = self.add_weight(shape=(num_classes,), initializer="zeros", name="top5")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")  # [B]
        weights = ops.ones_like(labels, "float32") if sample_weight is None else sample_weight
        weights = ops.cast(ops.reshape(weights, (-1,)), "float32")  # [B]
        rows, columns = self.matrix.shape
        cells = labels * columns + largest(y_pred)  # [B]
        counts = ops.segment_sum(weights, cells, num_segments=rows * columns)
        self.matrix.assign_add(ops.reshape(counts, (rows, columns)))
        hits = weights * in_top_k(labels, y_pred, 5)
        self.top5.assign_add(ops.segment_sum(hits, labels, num_segments=rows))

    def result(self) -> Tensor:
        return ops.sum(self.matrix)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `matrix` and `top5` over all devices, int64 [K, K + 1] and [K]."""
        return _whole_numbers(self.matrix), _whole_numbers(self.top5)


def _whole_numbers(values: Tensor) -> np.ndarray:
    return np.rint(ops.convert_to_numpy(values)).astype("int64")


def largest(logits: Tensor) -> Tensor:
    """Returns the position of the largest logit, the first of equal ones; K if one is not a number.

    The result agrees with `in_top_k` for k=1; argmax does not state which of several equal logits
    it returns.

    Args:
        logits: floats [B, K].

    Returns:
        int32 [B].
    """
    num_classes = logits.shape[-1]
    positions = ops.arange(num_classes, dtype="int32")  # [K]
    is_largest = ops.equal(logits, ops.max(logits, axis=-1, keepdims=True))  # [B, K]
    first = ops.min(ops.where(is_largest, positions, num_classes), axis=-1)
    has_nan = ops.any(ops.isnan(logits), axis=-1)
    return ops.cast(ops.where(has_nan, num_classes, first), "int32")


def class_rows(
    matrix: np.ndarray, top5: np.ndarray, wnids: Sequence[str], class_names: Sequence[str]
) -> list[ClassRow]:
    """Returns a row for each class, in label order.

    Args:
        matrix, top5: what `ConfusionMatrix.counts` returned.
    """
    rows = []
    for label, counts in enumerate(matrix):
        count = int(counts.sum())
        row = ClassRow(wnids[label], class_names[label], count)
        if count:
            row = replace(
                row, top1=_percent(counts[label], count), top5=_percent(top5[label], count)
            )
        mistakes = _mistakes(counts, label)
        other = int(mistakes.argmax())  # the first of equal counts
        if mistakes[other]:
            row = replace(
                row,
                most_confused_with=wnids[other],
                most_confused_name=class_names[other],
                share=_percent(mistakes[other], count),
            )
        rows.append(row)
    return rows


def balanced_top1(matrix: np.ndarray) -> float:
    """Returns the mean top-1 of the classes that have images, in percent."""
    counts = matrix.sum(axis=1)
    present = counts > 0
    return float(100 * np.mean(np.diagonal(matrix)[present] / counts[present]))


def most_confused(
    matrix: np.ndarray, wnids: Sequence[str], class_names: Sequence[str]
) -> list[ConfusedPair]:
    """Returns the NUM_PAIRS pairs of classes with the most confused images, in descending order.

    The pair (a, b) counts images of a that are taken for b. Equal counts are in label order.
    """
    totals = matrix.sum(axis=1)
    mistakes = np.array([_mistakes(counts, label) for label, counts in enumerate(matrix)])
    order = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_PAIRS]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [
        ConfusedPair(
            class_id=wnids[label],
            class_name=class_names[label],
            taken_for_id=wnids[other],
            taken_for_name=class_names[other],
            count=int(mistakes[label, other]),
            share=_percent(mistakes[label, other], totals[label]),
        )
        for label, other in pairs
        if mistakes[label, other]
    ]


def _mistakes(counts: np.ndarray, label: int) -> np.ndarray:
    """Returns the number of images of a class that are taken for each other class, [K]."""
    mistakes = counts[:-1].copy()
    mistakes[label] = 0
    return mistakes


def _percent(part: float, whole: float) -> float:
    return float(100 * part / whole)
