"""Top-k and cross-entropy, the same on every backend, for training and evaluation."""

import keras
from keras import ops

from keras_imnet64.core.types import Tensor

UNRANKED = 2**31 - 1


def in_top_k(labels: Tensor, logits: Tensor, k: int) -> Tensor:
    """Returns 1.0 where the label is among the k largest logits, else 0.0; see `rank_of`.

    Args:
        labels: integers [B].
        logits: floats [B, K].

    Returns:
        float32 [B].
    """
    return ops.cast(ops.less(rank_of(labels, logits), k), "float32")


def rank_of(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns the number of classes that rank before the label, int32 [B, ...].

    Equal logits rank by position, so that a network with the same logit for all classes scores at
    chance level, not 100 %. A label whose logit is not a number ranks behind all classes.

    Args:
        labels: integers [B].
        logits: floats [B, ..., K].
    """
    labels = ops.cast(ops.reshape(labels, (-1,) + (1,) * (len(logits.shape) - 1)), "int32")
    own = ops.take_along_axis(logits, labels, axis=-1)  # [B, ..., 1]
    positions = ops.arange(logits.shape[-1], dtype="int32")  # [K]
    before = ops.logical_and(ops.equal(logits, own), ops.less(positions, labels))
    above = ops.logical_not(ops.less_equal(logits, own))
    rank = ops.sum(ops.cast(ops.logical_or(before, above), "int32"), axis=-1)
    return ops.where(ops.isnan(own[..., 0]), UNRANKED, rank)


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns -log softmax(logits)[label], float32 [B]."""
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def top1(labels: Tensor, logits: Tensor) -> Tensor:
    return in_top_k(main_labels(labels), logits, 1)


def top5(labels: Tensor, logits: Tensor) -> Tensor:
    return in_top_k(main_labels(labels), logits, 5)


def main_labels(labels: Tensor) -> Tensor:
    """Returns the label with the larger share of each mixed image; returns integers [B] unchanged.

    Args:
        labels: floats [B, 3]: two labels, and the share of the first in 0..1; or integers [B].
    """
    if len(labels.shape) < 2:
        return labels
    first, second, share = (labels[:, column] for column in range(3))
    return ops.where(share >= 0.5, first, second)


def accuracy_metrics() -> list[keras.metrics.Metric]:
    """Returns new Keras metrics named top1 and top5, means over images in 0..1."""
    return [
        keras.metrics.MeanMetricWrapper(function, function.__name__) for function in (top1, top5)
    ]
