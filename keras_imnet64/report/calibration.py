"""Calibration: whether images predicted with a probability of 80 % are right in 80 % of cases.

The expected calibration error, and the temperature that the logits are divided by to mend it, are
those of Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

from dataclasses import dataclass

import numpy as np

NUM_BINS = 15  # as in the paper
MIN_LOG, MAX_LOG = -3.0, 3.0  # the temperature lies in 0.05..20


@dataclass(frozen=True)
class Reliability:
    """Images in M bins by the probability of their predicted class.

    Attributes:
        edges: of the bins, [M + 1].
        counts: images in each, int64 [M].
        confidence, accuracy: means in each, floats [M] in 0..1; 0 in an empty bin.
        error: the expected calibration error, in percent.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def reliability(confidence: np.ndarray, is_right: np.ndarray) -> Reliability:
    """Returns the reliability of predictions, in bins of equal width.

    Args:
        confidence: probability of the predicted class, floats [N] in 0..1.
        is_right: bool [N].
    """
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    occupied = np.maximum(counts, 1)
    mean_confidence = np.bincount(bins, confidence, NUM_BINS) / occupied
    accuracy = np.bincount(bins, is_right, NUM_BINS) / occupied
    gap = np.abs(accuracy - mean_confidence)
    error = 100 * float((counts * gap).sum() / counts.sum())
    return Reliability(edges, counts, mean_confidence, accuracy, error)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that minimises the cross-entropy of logits [N, K] divided by it."""
    from scipy.optimize import minimize_scalar

    wide = logits.astype("float64")

    def loss(log_temperature: float) -> float:
        return cross_entropy(wide / np.exp(log_temperature), labels)

    found = minimize_scalar(loss, bounds=(MIN_LOG, MAX_LOG), method="bounded")
    return float(np.exp(found.x))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of -log softmax(logits)[label] over logits [N, K]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - own).mean())


def largest_share(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the largest softmax of logits [N, K] divided by a temperature, floats [N]."""
    shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
    return 1 / np.exp(shifted).sum(axis=1)
