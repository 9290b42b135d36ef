"""Top-k worked by hand, with ties and with logits that are not numbers."""

import numpy as np
import pytest
from keras import ops

from keras_imnet64.evaluation.metrics import cross_entropy, in_top_k, main_labels, top1, top5

pytestmark = pytest.mark.backend


@pytest.mark.parametrize(
    ("logits", "label", "rank"),
    [
        ([3.0, 2.0, 1.0, 0.0], 0, 1),
        ([3.0, 2.0, 1.0, 0.0], 2, 3),
        ([1.0, 1.0, 1.0, 1.0], 0, 1),  # equal logits rank by position,
        ([1.0, 1.0, 1.0, 1.0], 3, 4),  # so that a constant network scores by chance
        ([0.0, 2.0, 2.0, 1.0], 2, 2),
    ],
)
def test_rank_of_the_label(logits, label, rank):
    logits = np.array([logits], "float32")
    found = [float(in_top_k(np.array([label]), logits, k)[0]) for k in (1, 2, 3, 4)]
    assert found == [float(k >= rank) for k in (1, 2, 3, 4)]


def test_the_fifth_of_the_classes_is_among_the_first_five_and_the_sixth_is_not():
    logits = np.arange(7, 0, -1, dtype="float32")[None].repeat(2, axis=0)
    assert ops.convert_to_numpy(top5(np.array([4, 5]), logits)).tolist() == [1, 0]


@pytest.mark.parametrize("label", [0, 1])
def test_a_logit_that_is_no_number_never_counts(label):
    logits = np.array([[np.nan, 1.0, 0.0]], "float32")
    assert float(in_top_k(np.array([label]), np.full((1, 3), np.nan, "float32"), 1)[0]) == 0
    assert float(in_top_k(np.array([0]), logits, 2)[0]) == 0
    assert float(in_top_k(np.array([0]), logits, 5)[0]) == 0  # nor where k is all classes and more
    assert float(in_top_k(np.array([1]), logits, 5)[0]) == 1


def test_a_mixed_image_counts_as_the_one_with_the_larger_share():
    labels = np.array([[0, 1, 0.6], [0, 1, 0.4], [2, 0, 0.5]], "float32")
    assert ops.convert_to_numpy(main_labels(labels)).tolist() == [0, 1, 2]
    logits = np.array([[3, 2, 1], [3, 2, 1], [1, 2, 3]], "float32")
    assert ops.convert_to_numpy(top1(labels, logits)).tolist() == [1, 0, 1]
    plain = np.array([0, 1, 2])
    assert ops.convert_to_numpy(top1(plain, logits)).tolist() == [1, 0, 1]


def test_cross_entropy_by_hand():
    logits = np.log(np.array([[0.2, 0.8]], "float32")) + 5
    found = ops.convert_to_numpy(cross_entropy(np.array([1]), logits))
    np.testing.assert_allclose(found, [-np.log(0.8)], rtol=1e-5)
