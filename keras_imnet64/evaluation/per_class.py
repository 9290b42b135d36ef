"""Which classes a model knows and which it takes for others, as a metric beside the others.

The metric counts while `evaluate` scores, so that every image is scored once for all numbers.
"""

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.files import write_csv
from keras_imnet64.evaluation.metrics import in_top_k

COLUMNS = (
    "class_id",
    "class_name",
    "count",
    "top1",
    "top5",
    "most_confused_with",
    "most_confused_name",
    "share",
)
NUM_PAIRS = 10


def report(confusion, selection, path):
    """Write the table of classes that a `ConfusionMatrix` counted, and say what stands out.

    Returns:
        dict: balanced_top1 and most_confused, see the functions of these names.
    """
    matrix, top5 = confusion.numbers()
    names = selection.wnids, selection.class_names
    write_csv(path, COLUMNS, class_rows(matrix, top5, *names))
    return {
        "balanced_top1": balanced_top1(matrix),
        "most_confused": most_confused(matrix, *names),
    }


class ConfusionMatrix(keras.metrics.Metric):
    """Counts images by their class and the class that they are taken for.

    The sums are float32, as those of every Keras metric: whole numbers up to 2**24 are exact, and
    no class has so many images.

    Args:
        num_classes: K.

    Attributes:
        matrix: [K, K + 1]; row: the class, column: the class with the largest logit. The last
            column is for images with a logit that is not a number, which are taken for nothing.
        top5: [K], images whose class is among the five largest logits.
    """

    def __init__(self, num_classes, name="confusion"):
        super().__init__(name=name)
        self.num_classes = num_classes
        shape = (num_classes, num_classes + 1)
        self.matrix = self.add_weight(shape=shape, initializer="zeros", name="matrix")
        self.top5 = self.add_weight(shape=(num_classes,), initializer="zeros", name="top5")

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")  # [B]
        weights = ops.ones_like(labels, "float32") if sample_weight is None else sample_weight
        weights = ops.cast(ops.reshape(weights, (-1,)), "float32")  # [B]
        rows, columns = self.matrix.shape
        cells = labels * columns + largest(y_pred)  # [B]
        counts = ops.segment_sum(weights, cells, num_segments=rows * columns)
        self.matrix.assign_add(ops.reshape(counts, (rows, columns)))
        hits = weights * in_top_k(labels, y_pred, 5)
        self.top5.assign_add(ops.segment_sum(hits, labels, num_segments=rows))

    def result(self):
        return ops.sum(self.matrix)

    def numbers(self):
        """(int64 [K, K + 1], int64 [K]): `matrix` and `top5`, over all devices."""
        return tuple(
            np.rint(ops.convert_to_numpy(variable)).astype("int64")
            for variable in (self.matrix, self.top5)
        )


def largest(logits):
    """The position of the largest logit, the first of equals; K where one is not a number.

    Written out because argmax leaves open which of equals it gives: this is `in_top_k` with k=1.

    Args:
        logits: floats [B, K].

    Returns:
        int32 [B].
    """
    num_classes = logits.shape[-1]
    positions = ops.arange(num_classes, dtype="int32")  # [K]
    is_largest = ops.equal(logits, ops.max(logits, axis=-1, keepdims=True))  # [B, K]
    first = ops.min(ops.where(is_largest, positions, num_classes), axis=-1)
    no_number = ops.any(ops.isnan(logits), axis=-1)
    return ops.cast(ops.where(no_number, num_classes, first), "int32")


def class_rows(matrix, top5, wnids, class_names):
    """One dict of COLUMNS for each class, in label order.

    A class without images has count 0 and empty scores; where none of its images is taken for
    another class the last three are empty.

    Args:
        matrix, top5: what `ConfusionMatrix.numbers` gives.
    """
    rows = []
    for label, counts in enumerate(matrix):
        count = int(counts.sum())
        row = dict.fromkeys(COLUMNS, "")
        row |= {"class_id": wnids[label], "class_name": class_names[label], "count": count}
        if count:
            row["top1"] = _percent(counts[label], count)
            row["top5"] = _percent(top5[label], count)
        others = _without_itself(counts, label)
        other = int(others.argmax())  # the first of equals
        if others[other]:
            row["most_confused_with"] = wnids[other]
            row["most_confused_name"] = class_names[other]
            row["share"] = _percent(others[other], count)
        rows.append(row)
    return rows


def balanced_top1(matrix):
    """Mean over the classes that have images of their top-1, in percent."""
    counts = matrix.sum(axis=1)
    present = counts > 0
    return float(100 * np.mean(np.diagonal(matrix)[present] / counts[present]))


def most_confused(matrix, wnids, class_names):
    """The NUM_PAIRS ordered pairs of classes with the most images of one taken for the other.

    Returns:
        list of dict: class_id, class_name, taken_for_id, taken_for_name, count, and share, the
        percentage of the first class's images; equal counts in label order.
    """
    totals = matrix.sum(axis=1)
    pairs = np.array([_without_itself(counts, label) for label, counts in enumerate(matrix)])
    order = np.argsort(-pairs, axis=None, kind="stable")[:NUM_PAIRS]
    found = zip(*np.unravel_index(order, pairs.shape), strict=True)
    return [
        {
            "class_id": wnids[label],
            "class_name": class_names[label],
            "taken_for_id": wnids[other],
            "taken_for_name": class_names[other],
            "count": int(pairs[label, other]),
            "share": _percent(pairs[label, other], totals[label]),
        }
        for label, other in found
        if pairs[label, other]
    ]


def _without_itself(counts, label):
    """Images of a class by the other class that they are taken for, [K]."""
    others = counts[:-1].copy()
    others[label] = 0
    return others


def _percent(part, whole):
    return float(100 * part / whole)
