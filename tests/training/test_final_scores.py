"""The scores of a run's model files: two files of the same network are scored once."""

import time

import keras

from keras_imnet64.models.init import initialize
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo
from keras_imnet64.training.scoring import have_same_network


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
