"""Runs with a whitening first layer: it is measured once, and neither trained nor decayed."""

import keras
import numpy as np
import pytest
from selected_images import images_of
from test_fit import SignalAt

from keras_imnet64.core.errors import Stopped
from keras_imnet64.models.load import load_model
from keras_imnet64.models.whitening import filters, patch_moments
from keras_imnet64.training import model as training_model
from keras_imnet64.training.data import load_data
from keras_imnet64.training.fit import fit
from keras_imnet64.training.setup import training_setup
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

DECAYED = {  # everything that may touch a weight
    "model": {"whitening": {"size": 2, "epsilon": 1e-3}},
    "data": {"mirror": "random", "holdout": 16},
    "loss": {"l2": 1e-2, "l2_of": "all"},
    "optimizer": {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.1},
    "train": {"ema": 0.9, "epochs": 2, "dtype": "mixed_bfloat16"},
}


def kernel_of(path):
    return keras.ops.convert_to_numpy(load_model(path).get_layer("whitening").kernel)


def test_runs_with_two_sizes_keep_the_filters(small_recipe, data_dir, tmp_path):
    """A small epoch and a full one; the filters are those of the images of the full size.

    Under JAX `test_parallel` compares the losses of such runs, and test_finetune keeps what does
    not train.
    """
    train = DECAYED["train"] | {"sizes": [[0.0, 8], [0.5, 16]], "remat": True}
    recipe = small_recipe(**DECAYED | {"train": train})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    data = load_data(recipe, data_dir)
    images = images_of(data.train)[0]
    normalized = (images - data.channel_mean) / data.channel_std  # normalization = "dataset"
    expected = filters(patch_moments([normalized], 2), 1e-3)
    for path in (run.model, run.best):
        np.testing.assert_allclose(kernel_of(path), expected, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_does_not_measure(small_recipe, data_dir, tmp_path, monkeypatch):
    """Its checkpoint has the filters, which neither training nor decay moves."""
    recipe = small_recipe(**DECAYED)
    setup = training_setup(recipe, data_dir=data_dir)
    measured = keras.ops.convert_to_numpy(setup.network.get_layer("whitening").kernel)

    def measured_again(*_):
        raise AssertionError("the checkpoint has the filters")

    for num_steps in (3, 1):  # of each process
        with pytest.raises(Stopped):
            stop = SignalAt(0, num_steps - 1)
            fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[stop])
        newest = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
        np.testing.assert_array_equal(newest.arrays["model/whitening/kernel"], measured)
        monkeypatch.setattr(training_model, "set_filters", measured_again)
    assert newest.run_state.step == 4


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
