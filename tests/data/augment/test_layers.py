"""Layers of Keras and KerasCV in an augmentation: which are accepted, and what they return."""

import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.augment.layers import LayerStep, preprocessing_layers

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), "uint8")


def checked(name, size=16, **options):
    step = LayerStep(name, options, image_size=size)
    step.check()
    return step


@pytest.mark.backend
def test_solarization_by_hand_in_tf_data():
    """Solarization is not random: it inverts grey levels from 128 on."""
    step = checked("keras_cv.layers.Solarization", threshold_factor=[128, 128])
    dataset = tf.data.Dataset.from_tensors(IMAGES)
    (out,) = dataset.map(lambda images: step.apply(images, {}, None)).as_numpy_iterator()
    assert out.dtype == "uint8"
    np.testing.assert_array_equal(out, np.where(IMAGES < 128, IMAGES, 255 - IMAGES))


@pytest.mark.backend
@pytest.mark.parametrize("library", ["keras", "keras_cv"])
def test_the_default_value_range_is_that_of_pixels(library):
    """Full brightness is 255, not 1."""
    step = checked(f"{library}.layers.RandomBrightness", factor=[1.0, 1.0])
    assert step.apply(IMAGES, {}, None).numpy().min() == 255


@pytest.mark.backend
def test_cutout_fills_a_box_and_leaves_the_rest():
    step = checked(
        "keras_cv.layers.RandomCutout",
        **{"height_factor": [0.5, 0.5], "width_factor": [0.5, 0.5], "fill_value": 7.0},
    )
    out = step.apply(IMAGES, {}, None).numpy()
    cut = (out != IMAGES).any(axis=-1)
    assert (out[cut] == 7).all()
    assert ((cut.sum(axis=(1, 2)) > 0) & (cut.sum(axis=(1, 2)) <= 8 * 8)).all()


def test_a_layer_is_traced_with_the_number_of_images(monkeypatch):
    """Checked with two images and then given four, the layer gets both numbers, not None."""
    shapes = []

    def layer(images, training):
        shapes.append(tuple(images.shape))
        return images

    monkeypatch.setattr("keras_imnet64.data.augment.layers.make_layer", lambda *_: layer)
    step = checked("keras_cv.layers.RandomCutout")
    dataset = tf.data.Dataset.from_tensors(IMAGES)
    dataset.map(lambda images: step.apply(images, {}, None))
    assert shapes == [(2, 16, 16, 3), (4, 16, 16, 3)]


# CPU:1 stands for the GPU, on which TensorFlow puts state that is placed nowhere else.
STATE_LIES_ON_THE_CPU = """
import sys
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_imnet64.data.augment.layers import LayerStep
with tf.device("CPU:1"):
    tf.random.get_global_generator()  # shared by layers of KerasCV without a seed
    for name in sys.argv[1:]:
        step = LayerStep(name, {"factor": 0.5}, image_size=16)
        step.check()
        images = tf.TensorSpec((2, 16, 16, 3), "uint8")
        taken = step._apply.get_concrete_function(images).captured_inputs
        print(name, *{tensor.device[-5:] for tensor in taken if tensor.dtype == tf.resource})
"""


def test_the_state_of_a_layer_lies_on_the_cpu_where_tf_data_runs():
    names = [
        f"{lib}.layers.Random{op}" for lib in ("keras", "keras_cv") for op in ("Rotation", "Hue")
    ]
    child = subprocess.run(
        [sys.executable, "-c", STATE_LIES_ON_THE_CPU, *names],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split("\n")[:-1] == [f"{name} CPU:0" for name in names]


def test_only_image_preprocessing_layers_are_accepted():
    """Base classes decide, one of which has no public name."""
    known = preprocessing_layers("keras")
    assert {"RandomBrightness", "RandomRotation", "Resizing", "RandAugment"} <= set(known)
    assert not {"Dense", "Lambda", "TFSMLayer", "Pipeline", "Layer", "Normalization"} & set(known)
    known = preprocessing_layers("keras_cv")
    assert {"RandomCutout", "Solarization", "RandomApply"} <= set(known)
    assert "BaseImageAugmentationLayer" not in known


OBJECT = {"class_name": "Lambda", "config": {"function": "f"}}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("keras_cv.layers.RandomApply", {"layer": OBJECT}),
        ("keras_cv.layers.RandomChoice", {"layers": [OBJECT]}),
        ("keras_cv.layers.RandomHue", {"factor": OBJECT}),
        ("keras.layers.RandomBrightness", {"factor": 0.1, "activity_regularizer": OBJECT}),
        ("keras.layers.RandomBrightness", {"factor": 0.1, "dtype": [[OBJECT]]}),
    ],
)
def test_an_option_that_keras_would_turn_into_an_object_is_refused(name, options, monkeypatch):
    def make(*args, **kwargs):
        raise AssertionError("an object was made")

    monkeypatch.setattr("keras.src.saving.serialization_lib.deserialize_keras_object", make)
    monkeypatch.setattr("keras.utils.deserialize_keras_object", make)
    with pytest.raises(UserError, match=f"{list(options)[-1]} is a table; use only numbers"):
        checked(name, **options)


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
        ("keras_cv.layers.Rescaling", {"scale": [1.0, 2.0]}, "options: Dimensions must be equal"),
        ("keras_cv.layers.Resizing", {"height": 8, "width": 8}, r"returned \[8, 8, 3\]"),
    ],
)
def test_layers_that_cannot_augment_are_refused(name, options, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        checked(name, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("RandomCutout", ", or use Keras' own keras.layers.RandomErasing"),
        ("RandomHue", ", or use Keras' own keras.layers.RandomHue"),
        ("Solarization", ", or use Keras' own keras.layers.Solarization"),
        ("GridMask", ""),
    ],
)
@pytest.mark.parametrize(
    "fault", [ImportError("No module named x"), AttributeError("gone in 3.16")]
)
def test_kerascv_that_cannot_be_imported_is_named_with_what_keras_has(
    name, remedy, fault, monkeypatch
):
    """KerasCV is no longer developed: under a newer Keras its import may raise anything."""
    real = importlib.import_module

    def fail(module, *rest):
        if module.startswith("keras_cv"):
            raise fault
        return real(module, *rest)

    monkeypatch.setattr("keras_imnet64.data.augment.layers.import_module", fail)
    sentence = (
        f"augment.layer keras_cv.layers.{name} needs keras_cv, which cannot be imported ({fault}); "
        f"`pip install keras-cv` provides it{remedy}"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        checked(f"keras_cv.layers.{name}")
