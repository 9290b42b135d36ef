"""Runs with a whitening first layer: it is measured once, and neither trained nor decayed."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from same_end import same_end
from selected_images import images_of
from test_fit import SignalAt

from keras_imnet64.core.errors import Stopped
from keras_imnet64.models.load import load_model
from keras_imnet64.models.whitening import filters, patch_moments
from keras_imnet64.training import model as training_model
from keras_imnet64.training.data import load_data
from keras_imnet64.training.fit import fit
from keras_imnet64.training.setup import training_setup

DECAYED = {  # everything that may touch a weight
    "model": {"whitening": {"size": 2, "epsilon": 1e-3}},
    "data": {"mirror": "random", "holdout": 16},
    "loss": {"l2": 1e-2, "l2_of": "all"},
    "optimizer": {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.1},
    "train": {"ema": 0.9, "epochs": 2, "dtype": "mixed_bfloat16"},
}


def kernel_of(path):
    return keras.ops.convert_to_numpy(load_model(path).get_layer("whitening").kernel)


@pytest.mark.backend
def test_it_ends_as_it_was_measured_and_a_resumed_run_does_not_measure(
    small_recipe, data_dir, tmp_path, monkeypatch
):
    recipe = small_recipe(**DECAYED)
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir)
    data = load_data(recipe, data_dir)
    images = images_of(data.train)[0]
    normalized = (images - data.channel_mean) / data.channel_std  # normalization = "dataset"
    expected = filters(patch_moments([normalized], 2), 1e-3)
    for path in (straight.model, straight.best):
        np.testing.assert_allclose(kernel_of(path), expected, rtol=1e-4, atol=1e-5)

    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[SignalAt(0, 2)])

    def measured_again(*_):
        raise AssertionError("the checkpoint has the filters")

    monkeypatch.setattr(training_model, "set_filters", measured_again)
    same_end(straight, fit(recipe, tmp_path / "run", data_dir=data_dir))


@pytest.mark.backend
def test_few_images_are_measured_and_evenly_spaced(small_recipe, data_dir, monkeypatch):
    monkeypatch.setattr(training_model, "MAX_WHITENED_IMAGES", 10)
    setup = training_setup(small_recipe(model={"whitening": {}}), data_dir=data_dir)

    def measured_on(numbers):
        images = images_of(setup.data.train, numbers)[0]
        normalized = (images - setup.data.channel_mean) / setup.data.channel_std
        return filters(patch_moments([normalized], 2), 5e-4)

    found = keras.ops.convert_to_numpy(setup.network.get_layer("whitening").kernel)
    np.testing.assert_allclose(found, measured_on(np.arange(10) * 96 // 10), rtol=1e-4, atol=1e-5)
    assert np.abs(found - measured_on(np.arange(10))).max() > 0.01  # the first ten differ
    assert np.abs(found - measured_on(np.arange(96))).max() > 0.01


@pytest.mark.backend
def test_runs_with_two_sizes_keep_the_filters(small_recipe, data_dir, tmp_path):
    """A small epoch and a full one; the filters are those that a run of one size measures."""
    train = DECAYED["train"] | {"sizes": [[0.0, 8], [0.5, 16]], "remat": True}
    setup = training_setup(small_recipe(**DECAYED), data_dir=data_dir)
    measured = keras.ops.convert_to_numpy(setup.network.get_layer("whitening").kernel)
    run = fit(small_recipe(**DECAYED | {"train": train}), tmp_path / "run", data_dir=data_dir)
    for path in (run.model, run.best):
        np.testing.assert_array_equal(kernel_of(path), measured)


def test_two_devices_have_the_filters_of_one(small_recipe, data_dir, tmp_path):
    """Both hold what one device measures, and neither training nor decay moves it.

    Under JAX `test_parallel` compares the losses of such runs.
    """
    recipe = small_recipe(**DECAYED | {"train": {"epochs": 2}})
    setup = training_setup(recipe, data_dir=data_dir)
    measured = keras.ops.convert_to_numpy(setup.network.get_layer("whitening").kernel)
    one = fit(recipe, tmp_path / "one", data_dir=data_dir)
    (tmp_path / "small.toml").write_text(recipe.to_toml())
    script = Path(__file__).with_name("whitening_on_two_devices.py")
    command = [sys.executable, script, tmp_path / "small.toml", data_dir, tmp_path / "two"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-5000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert len(found["copies"]) == 2
    for copy in found["copies"]:
        np.testing.assert_array_equal(np.array(copy, "float32"), measured)
    np.testing.assert_array_equal(kernel_of(tmp_path / "two" / "model.keras"), measured)
    expected = [float(row["loss"]) for row in one.history]
    np.testing.assert_allclose(found["losses"], expected, rtol=1e-3)
