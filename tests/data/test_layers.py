"""Layers of Keras and KerasCV in an augmentation: which are taken, and what comes out of them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_imnet64.data.layers import LayerStep
from keras_imnet64.errors import UserError

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), "uint8")


def checked(name, size=16, **options):
    step = LayerStep(name, options, image_size=size)
    step.check()
    return step


@pytest.mark.backend
def test_solarization_by_hand_in_tf_data():
    """A transformation without chance: 255 - x from a grey level of 128 on."""
    step = checked("keras_cv.layers.Solarization", threshold_factor=[128, 128])
    pictures = tf.data.Dataset.from_tensors(PICTURES)
    (out,) = pictures.map(lambda images: step.apply(images, {}, None)).as_numpy_iterator()
    assert out.dtype == "uint8"
    np.testing.assert_array_equal(out, np.where(PICTURES < 128, PICTURES, 255 - PICTURES))


@pytest.mark.backend
@pytest.mark.parametrize("library", ["keras", "keras_cv"])
def test_a_layer_whose_range_is_not_given_gets_that_of_pixels(library):
    """Full brightness is 255, not 1."""
    step = checked(f"{library}.layers.RandomBrightness", factor=[1.0, 1.0])
    assert step.apply(PICTURES, {}, None).numpy().min() == 255


@pytest.mark.backend
def test_cutout_fills_squares_and_leaves_the_rest():
    step = checked(
        "keras_cv.layers.RandomCutout",
        **{"height_factor": [0.5, 0.5], "width_factor": [0.5, 0.5], "fill_value": 7.0},
    )
    out = step.apply(PICTURES, {}, None).numpy()
    cut = (out != PICTURES).any(axis=-1)
    assert (out[cut] == 7).all()
    assert ((cut.sum(axis=(1, 2)) > 0) & (cut.sum(axis=(1, 2)) <= 8 * 8)).all()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("os.system", {}, 'public name of a Keras or KerasCV layer.*received "os.system"'),
        ("keras.layers.Dense.__init__", {}, "public name"),
        ("keras.layers.Lambda", {}, "Lambda is not an image preprocessing layer"),
        ("keras.layers.TFSMLayer", {"filepath": "x"}, "TFSMLayer is not an image"),
        ("keras_cv.layers.RandomCutot", {}, 'did you mean "RandomCutout"'),
        ("keras.layers.MixUp", {}, "mixes labels"),
        ("keras_cv.layers.RandomCutout", {"size": 3}, "does not work with these options"),
        ("keras.layers.RandomBrightness", {"factor": "bright"}, "does not work with these options"),
        ("keras_cv.layers.Resizing", {"height": 8, "width": 8}, r"returned \[8, 8, 3\]"),
    ],
)
def test_what_is_no_augmentation_is_refused(name, options, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        checked(name, **options)
    assert "\n" not in str(refusal.value)
