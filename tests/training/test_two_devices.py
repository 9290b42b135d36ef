"""Parts of the product on two virtual devices of TensorFlow, which one child process has.

Under JAX `test_parallel` compares the losses of such runs, and notes what each device measures.
"""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from test_not_finite import checkpoint_names

from keras_imnet64.training.setup import training_setup
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

RECIPE = {  # a whitening layer, and everything that may touch its weights
    "model": {"whitening": {"size": 2, "epsilon": 1e-3}},
    "data": {"batch_size": 4, "steps_per_epoch": 20},
    "loss": {"l2": 1e-2, "l2_of": "all"},
    "optimizer": {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.1},
    "train": {"epochs": 1, "ema": 0.9},
}


@pytest.fixture(scope="module")
def pixels():
    """A batch whose two halves differ, so the variance over both is larger."""
    pixels = np.random.default_rng(0).integers(0, 128, (6, 4, 4, 3), "uint8")
    pixels[3:] += 100
    return pixels


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("two") / "run"


@pytest.fixture(scope="module")
def found(pixels, run_dir, small_recipe, data_dir):
    """What the child has found."""
    np.save(run_dir.with_name("pixels.npy"), pixels)
    run_dir.with_name("small.toml").write_text(small_recipe(**RECIPE).to_toml())
    script = Path(__file__).with_name("parts_on_two_devices.py")
    files = [run_dir.with_name(name) for name in ("pixels.npy", "small.toml")]
    command = [sys.executable, script, *files, data_dir, run_dir]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-5000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert len(found["devices"]) == 2
    return found


def by_hand(pixels):
    """Mean and variance before two normalisations, with a square between them."""
    x = pixels.astype("float64")
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    squares = (x - mean) ** 2 / (variance + 1e-3)
    return np.array([mean, variance, squares.mean((0, 1, 2)), squares.var((0, 1, 2))])


def test_two_devices_measure_the_whole_batch_or_each_its_part(found, pixels):
    whole, parts = by_hand(pixels), (by_hand(pixels[:3]) + by_hand(pixels[3:])) / 2
    assert not np.allclose(whole, parts, rtol=0.1)
    statistics = found["statistics"]
    np.testing.assert_allclose(statistics["global"], whole, rtol=1e-4)
    np.testing.assert_allclose(statistics["per_device"], parts, rtol=1e-4)


def test_two_devices_have_the_filters_of_one(found, run_dir, small_recipe, data_dir):
    """Both hold what one device measures, and neither training nor decay moves it."""
    setup = training_setup(small_recipe(**RECIPE), data_dir=data_dir)
    measured = keras.ops.convert_to_numpy(setup.network.get_layer("whitening").kernel)
    assert len(found["filters"]) == 2
    for copy in found["filters"]:
        np.testing.assert_array_equal(np.array(copy, "float32"), measured)
    newest = load_checkpoint(list_checkpoints(run_dir / "checkpoints")[-1])
    assert newest.run_state.step == 9
    np.testing.assert_array_equal(newest.arrays["model/whitening/kernel"], measured)


def test_the_step_is_found_on_two_devices(found, run_dir):
    """Where every replica has the number, and the state is looked at every 4 steps."""
    sentence, last_step = found["failed"]
    assert sentence.startswith("model/")
    assert "moving_variance is not finite at step 10 of epoch 1; the same command" in sentence
    assert last_step == 13
    assert checkpoint_names(run_dir)[-1] == "epoch-0000-step-0000009"
