"""Which classes a model takes for which, in an order and a size that can be looked at.

A matrix of 1,000 classes has a million cells. Classes that are taken for each other are brought
together by average-linkage clustering; the tree gives an order, in which confusions lie near the
diagonal, and groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_MAPPED = 5000  # classes; the matrix of more takes too much memory
MAX_PIXELS = 250  # per side of the map of more classes
MAX_GROUPS = 20
CLASSES_PER_GROUP = 6  # on average


@dataclass(frozen=True)
class Pair:
    """Two classes, and how many images of the first are taken for the second."""

    label: int
    taken_for: int
    count: int


@dataclass(frozen=True)
class ConfusionMap:
    """A matrix of fewer cells than classes: those of neighbours in `order` are added up.

    Attributes:
        order: the classes, int64 [K].
        counts: images, int64 [M, M]; rows are the class, columns what it is taken for.
        per_cell: classes that a row stands for; the last row may stand for fewer.
    """

    order: np.ndarray
    counts: np.ndarray
    per_cell: int


def count_confusions(labels: np.ndarray, first_class: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the number of images of each class (row) taken for each (column), int64 [K, K]."""
    cells = labels.astype("int64") * num_classes + first_class
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def confused_pairs(labels: np.ndarray, first_class: np.ndarray, num_classes: int) -> list[Pair]:
    """Returns all pairs of classes that are confused, those of most images first."""
    wrong = labels != first_class
    cells = labels[wrong].astype("int64") * num_classes + first_class[wrong]
    found, counts = np.unique(cells, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [Pair(*divmod(int(found[number]), num_classes), int(counts[number])) for number in order]


def cluster(counts: np.ndarray) -> np.ndarray:
    """Returns SciPy's linkage [K - 1, 4] of classes: the more they are confused, the closer."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distance = 1 - (share + share.T) / 2
    np.fill_diagonal(distance, 0)
    return linkage(squareform(distance, checks=False), "average")


def confusion_map(counts: np.ndarray) -> ConfusionMap:
    """Returns the map of a confusion matrix [K, K], of at most MAX_PIXELS cells per side."""
    from scipy.cluster.hierarchy import leaves_list

    num_classes = len(counts)
    order = np.arange(num_classes)
    if num_classes > 2:
        order = leaves_list(cluster(counts))
    per_cell = -(-num_classes // MAX_PIXELS)
    starts = np.arange(0, num_classes, per_cell)
    ordered = counts[np.ix_(order, order)]
    added = np.add.reduceat(np.add.reduceat(ordered, starts, axis=0), starts, axis=1)
    return ConfusionMap(order, added, per_cell)


def groups(counts: np.ndarray) -> list[list[int]]:
    """Returns groups of classes that are taken for each other, those with most mistakes first."""
    from scipy.cluster.hierarchy import fcluster

    num_groups = max(2, len(counts) // CLASSES_PER_GROUP)
    found = fcluster(cluster(counts), num_groups, criterion="maxclust")
    members = [np.flatnonzero(found == number).tolist() for number in np.unique(found)]
    mistakes = [_mistakes_within(counts, each) for each in members]
    order = np.argsort(mistakes)[::-1][:MAX_GROUPS]
    return [members[number] for number in order if mistakes[number]]


def _mistakes_within(counts: np.ndarray, members: Sequence[int]) -> int:
    """Returns the images of a group's classes that are taken for another class of the group."""
    inside = counts[np.ix_(members, members)]
    return int(inside.sum() - np.trace(inside))
