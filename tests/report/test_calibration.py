"""Reliability, temperature and suspected labels, worked by hand."""

import numpy as np
import pytest

from keras_imnet64.evaluation.top_predictions import TopPredictions, top_of
from keras_imnet64.report.calibration import (
    cross_entropy,
    fit_temperature,
    largest_share,
    reliability,
)
from keras_imnet64.report.confusion import (
    Pair,
    confused_pairs,
    confusion_map,
    count_confusions,
    groups,
)
from keras_imnet64.report.pictures import least_sure, surest_mistakes, suspected_labels


def test_the_calibration_error_is_the_mean_gap_over_images():
    """Ten images at 0.9 of which 7 are right, ten at 0.5 of which 5 are: (2 + 0) / 20."""
    found = reliability(np.repeat([0.9, 0.5], 10), np.array([1] * 7 + [0] * 3 + [1, 0] * 5, bool))
    assert found.error == pytest.approx(10)
    assert found.counts[found.counts > 0].tolist() == [10, 10]
    assert found.accuracy[found.counts > 0].tolist() == pytest.approx([0.5, 0.7])


def test_certain_images_lie_in_the_last_bin():
    found = reliability(np.array([1.0, 0.0]), np.array([True, False]))
    assert found.counts[0] == found.counts[-1] == 1 and found.error == 0


def test_a_bin_ends_with_its_upper_edge():
    """As in the paper: 3/15 is in the third bin of 15, and what is above it in the fourth."""
    found = reliability(np.array([0.2, 0.2001]), np.array([True, True]))
    assert np.flatnonzero(found.counts).tolist() == [2, 3]


def test_the_temperature_of_logits_that_are_too_large_is_found():
    """Labels are drawn from softmax(logits), which are then tripled."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)).astype("float32")
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((len(logits), 1)) > shares.cumsum(axis=1)).sum(axis=1)
    value = fit_temperature(3 * logits, labels)
    assert value == pytest.approx(3, rel=0.05)
    assert cross_entropy(3 * logits / value, labels) < cross_entropy(3 * logits, labels)
    assert largest_share(3 * logits, 3) == pytest.approx(shares.max(axis=1), rel=1e-4)


def top(logits, labels):
    logits = np.log(np.array(logits, "float32"))
    return TopPredictions(np.arange(len(labels)), *top_of(logits, np.array(labels, "int32")))


def test_the_most_probable_classes_come_first_and_equal_ones_by_their_number():
    found = top([[0.2, 0.2, 0.6], [0.4, 0.4, 0.2]], [0, 1])
    assert found.classes.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert found.probabilities[0].tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert found.label_probability.tolist() == pytest.approx([0.2, 0.4])
    assert found.is_right.tolist() == [False, False] and found.is_in_top5.all()


def test_a_label_is_suspected_where_another_class_is_surer_than_usual():
    """Class 1 has 0.8 on average for its images; the fourth image of class 0 says 1 with 0.9."""
    shares = [[0.9, 0.1], [0.9, 0.1], [0.45, 0.55], [0.1, 0.9], [0.2, 0.8], [0.2, 0.8]]
    found = top(shares, [0, 0, 0, 0, 1, 1])
    assert suspected_labels(found, 2).tolist() == [3]
    assert surest_mistakes(found, 5).tolist() == [3, 2]
    assert least_sure(found, 1).tolist() == [2]


def test_one_class_does_not_fill_a_list():
    found = top([[0.1, 0.9]] * 6 + [[0.6, 0.4]], [0] * 6 + [1])
    assert surest_mistakes(found, 5).tolist() == [0, 1, 2, 6]


def test_classes_that_are_confused_lie_beside_each_other():
    """0 and 3 are taken for each other, and 1 and 2."""
    labels = np.array([0] * 10 + [1] * 10 + [2] * 10 + [3] * 10)
    guesses = np.array([0, 3] * 5 + [1, 1, 1, 2, 2] * 2 + [2] * 10 + [3, 3, 3, 3, 0] * 2)
    assert confused_pairs(labels, guesses, 4) == [Pair(0, 3, 5), Pair(1, 2, 4), Pair(3, 0, 2)]
    counts = count_confusions(labels, guesses, 4)
    assert counts[0].tolist() == [5, 0, 0, 5]
    found = confusion_map(counts)
    place = {label: place for place, label in enumerate(found.order.tolist())}
    assert abs(place[0] - place[3]) == abs(place[1] - place[2]) == 1
    assert found.per_cell == 1 and found.counts.sum() == 40
    assert groups(counts) == [[0, 3], [1, 2]]


def test_a_thousand_classes_become_a_small_map():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(1000), 5)
    guesses = np.where(rng.random(5000) < 0.7, labels, labels ^ 1)
    found = confusion_map(count_confusions(labels, guesses, 1000))
    assert found.counts.shape == (250, 250) and found.per_cell == 4
    assert found.counts.sum() == 5000
    assert np.trace(found.counts) == 5000  # pairs stand beside each other
