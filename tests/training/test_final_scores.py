"""The scores of a run's model files: two files of the same network are scored once."""

import time

import keras
import pytest

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.core.errors import RunFailed
from keras_imnet64.models.init import initialize
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo
from keras_imnet64.training.build import make_network
from keras_imnet64.training.data import load_data
from keras_imnet64.training.scoring import have_same_network, score_file


def test_files_of_the_same_network_are_known(tmp_path):
    """Whatever else they state, and whenever they were written."""
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(2, 3)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    initialize(model, 0)
    last, best, other = (tmp_path / f"{name}.keras" for name in ("last", "best", "other"))
    ship(model, last, ModelInfo(epoch=3))
    time.sleep(2)  # the resolution of dates in archives
    ship(model, best, ModelInfo(epoch=2))
    assert have_same_network(last, best)
    model.get_layer("norm").moving_mean.assign([0.0, 1e-6])
    ship(model, other, ModelInfo(epoch=3))
    assert not have_same_network(last, other)


def test_logits_that_are_not_finite_are_no_score(small_recipe, data_dir, tmp_path):
    recipe = small_recipe()
    model = make_network(recipe, image_size=16, num_classes=10)
    initialize(model, 0)
    model.get_layer("logits").bias.assign([float("nan"), *[0.0] * 9])
    ship(model, tmp_path / "m.keras", ModelInfo())
    with pytest.raises(RunFailed, match=r"m\.keras gives logits that are not finite"):
        score_file(tmp_path / "m.keras", load_data(recipe, data_dir), take_devices(), "none")
