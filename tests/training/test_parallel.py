"""Two virtual devices against one: the same losses, other images on each; what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_imnet64.backend.devices import Devices, choose_indices
from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.training.parallel import jit_compile, set_batch_norm
from keras_imnet64.training.setup import check_setup

SCRIPT = Path(__file__).with_name("two_devices.py")


ON_JAX = keras.config.backend() == "jax"


def found_by(runs, data_dir, out):
    """[what each run found] in one child process, which has two devices."""
    command = [sys.executable, SCRIPT, data_dir, out, *runs]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-5000:]
    found = json.loads(child.stdout.splitlines()[-1])
    return [found[name] for name in runs]


@pytest.mark.backend
def test_two_devices_give_one_devices_losses(data_dir, tmp_path):
    """Ten steps of a WRN: global BN, L2, smoothing, clipping that bites, groups, Lookahead, EMA.

    Its first layer is whitening, which is measured, its stem is frozen. The decay of kernels is
    decoupled and has a group too. The first epoch is at 8 pixels, and statistics of batch
    normalisation are measured anew at the end. Under JAX two devices compute activations again.

    Under TensorFlow, where two devices keep sums of gradients, each step has its batch in two
    parts, and one reduction; in the middle of a batch the run moves to one device, and back.
    `test_whitened_runs` has whole batches there.
    """
    runs = ("1", "2-remat") if ON_JAX else ("1-parts", "2-parts-moved")
    one, two = found_by(runs, data_dir, tmp_path)
    assert len(two["devices"]) == 2
    np.testing.assert_allclose(two["mean_losses"], one["mean_losses"], rtol=1e-4)
    np.testing.assert_allclose(two["last_losses"], one["last_losses"], rtol=1e-4)
    if ON_JAX:
        assert len(one["losses"]) == 10
        np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)
    else:
        assert len(one["losses"]) == 20
        assert two["devices_before"] == [2, 1, 2]
    first, second = two["received"]
    share = 8 if ON_JAX else 4  # a part of a batch has half of its images
    assert len(first) == len(second) == share
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(one["received"][0])
    assert one["measured"] == [[2 * share]] * (32 // (2 * share))
    assert two["measured"] == [[share, share]] * (32 // (2 * share))
    assert two["metrics"]["count"] == 40  # every image once, though 2 x 128 divide no 40
    assert two["metrics"]["loss"] == pytest.approx(one["metrics"]["loss"], rel=1e-3)


@pytest.mark.slow
def test_two_devices_give_one_devices_losses_of_a_davit(data_dir, tmp_path):
    """Whose training step has functions that XLA compiles within the one of each device.

    With LAMB, Lookahead and the mean of two epochs; two devices compute activations again.
    """
    one, two = found_by(("1-davit", "2-davit-remat"), data_dir, tmp_path)
    assert len(two["devices"]) == 2
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)
    assert two["metrics"]["loss"] == pytest.approx(one["metrics"]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("devices", "chosen"), [(None, [0, 1, 2, 3]), ("2", [0, 1]), ("0,2", [0, 2]), ("3,", [3])]
)
def test_devices_by_count_or_by_list(devices, chosen):
    assert choose_indices(devices, 4) == chosen


@pytest.mark.parametrize("devices", ["5", "0,4", "two", "0", "-1", "1,1", ""])
def test_devices_that_are_not_there_are_refused(devices):
    with pytest.raises(UserError, match="--devices"):
        choose_indices(devices, 4)


def several(backend):
    return Devices(backend, "gpu", ("gpu:0", "gpu:1"), strategy=object())


def test_batch_size_must_be_divided_by_the_devices():
    several("jax").check_batch_size(128)
    with pytest.raises(UserError, match="nearest that works is 126"):
        several("jax").check_batch_size(127)


def test_xla_auto_is_on_for_one_gpu_only():
    one_gpu, cpu = (
        Devices("tensorflow", "gpu", ("GPU:0",)),
        Devices("tensorflow", "cpu", ("CPU:0",)),
    )
    assert jit_compile("auto", one_gpu) is True
    assert jit_compile("auto", cpu) is False
    assert jit_compile("on", cpu) is True
    assert jit_compile("auto", several("tensorflow")) is False
    with pytest.raises(UserError, match=r'train\.xla = "on" does not work'):
        jit_compile("on", several("tensorflow"))
    with pytest.raises(UserError, match=r'train\.xla = "off" does not exist'):
        jit_compile("off", several("jax"))


@pytest.mark.parametrize("setting", [{"xla": "off"}, {"batch_norm": "per_device"}])
def test_what_a_backend_cannot_do_is_refused_before_data_is_read(small_recipe, setting):
    with pytest.raises(UserError, match="does not exist under jax"):
        check_setup(small_recipe(train=setting), several("jax"))


def test_only_the_training_model_synchronises_its_normalisation():
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    norms = [v for v in model.layers if isinstance(v, keras.layers.BatchNormalization)]
    set_batch_norm(model, "global", Devices("tensorflow", "cpu", ("CPU:0",)))
    assert not any(norm.synchronized for norm in norms)
    set_batch_norm(model, "per_device", several("tensorflow"))
    assert not any(norm.synchronized for norm in norms)
    set_batch_norm(model, "global", several("tensorflow"))
    assert all(norm.synchronized for norm in norms)
    with pytest.raises(UserError, match="per_device"):
        set_batch_norm(model, "per_device", several("jax"))


def test_a_device_too_many_is_answered_with_those_that_are_here():
    with pytest.raises(UserError, match="the 2 that exist: GPU:0, GPU:1"):
        choose_indices("99999999999", 2, "GPU")
