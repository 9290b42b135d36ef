"""Augmentations on 3 x 3 images worked by hand, in eager code and in tf.data."""

import numpy as np
import pytest
import tensorflow as tf

from keras_imnet64.data.augment import OPS, check_augment, mirror
from keras_imnet64.errors import UserError

IMAGE = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], "uint8")
MEAN = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], "uint8")
# pad_crop of padding 1 at (top, left), by hand; (1, 1) is the image itself.
PAD_CROP = {
    ("zero", 0, 0): [[0, 0, 0], [0, 1, 2], [0, 4, 5]],
    ("zero", 2, 1): [[4, 5, 6], [7, 8, 9], [0, 0, 0]],
    ("zero", 1, 1): IMAGE.tolist(),
    ("reflect", 0, 0): [[5, 4, 5], [2, 1, 2], [5, 4, 5]],
    ("reflect", 1, 2): [[2, 3, 2], [5, 6, 5], [8, 9, 8]],
    ("mean", 0, 2): [[10, 20, 30], [2, 3, 60], [5, 6, 90]],
}


def rgb(plane):
    return np.stack([np.asarray(plane, "uint8") + np.uint8(100 * c) for c in range(3)], axis=-1)


def eagerly(function, images, draws):
    return function(images, draws).numpy()


def in_tf_data(function, images, draws):
    dataset = tf.data.Dataset.from_tensor_slices((images, draws)).batch(len(images))
    return next(iter(dataset.map(function))).numpy()


@pytest.mark.parametrize("run", [eagerly, in_tf_data])
@pytest.mark.parametrize("fill", ["zero", "reflect", "mean"])
def test_pad_crop_by_hand(run, fill):
    cases = {key[1:]: value for key, value in PAD_CROP.items() if key[0] == fill}
    step = check_augment("pad_crop", {"padding": 1, "fill": fill})
    images = np.stack([rgb(IMAGE)] * len(cases))
    top, left = np.array(list(cases), "int32").T
    draws = {"top": top, "left": left}
    out = run(lambda i, d: step.apply(i, d, rgb(MEAN)), images, draws)
    expected = [rgb(plane) for plane in cases.values()]
    if fill == "zero":
        expected = [np.where(np.asarray(p)[..., None] == 0, 0, rgb(p)) for p in cases.values()]
    assert out.dtype == "uint8"
    assert out.tolist() == np.stack(expected).tolist()


@pytest.mark.parametrize("run", [eagerly, in_tf_data])
def test_mirror_by_hand(run):
    images = np.stack([rgb(IMAGE)] * 2)
    out = run(mirror, images, np.array([True, False]))
    assert out[0].tolist() == rgb([[3, 2, 1], [6, 5, 4], [9, 8, 7]]).tolist()
    assert out[1].tolist() == rgb(IMAGE).tolist()


def test_pad_crop_draws_all_offsets_evenly():
    step = check_augment("pad_crop", {"padding": 4})
    draws = step.draw(np.random.default_rng(0), 9000)
    for offsets in draws.values():
        counts = np.bincount(offsets, minlength=9)
        assert len(counts) == 9
        assert counts.min() > 850


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        ("padcrop", {}, 'did you mean "pad_crop"'),
        ("pad_crop", {"pading": 4}, 'did you mean "padding"'),
        ("pad_crop", {"padding": -1}, "whole number of pixels"),
        ("pad_crop", {"fill": "reflekt"}, 'did you mean "reflect"'),
    ],
)
def test_wrong_augmentations_are_refused_in_a_sentence(op, options, message):
    with pytest.raises(UserError, match=message):
        check_augment(op, options)


def test_every_operation_has_a_test_here():
    assert set(OPS) == {"pad_crop"}
