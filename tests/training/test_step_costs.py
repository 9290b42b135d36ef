"""What a training step must not do: copy the state, or wait for the device before the next step."""

import threading

import keras
import pytest

import keras_imnet64
from keras_imnet64.training.fit import fit

pytestmark = pytest.mark.backend


def test_a_step_under_jax_overwrites_the_state(small_recipe, data_dir):
    """The buffers of the old state are given to the new one: weights, statistics, optimizer."""
    if keras.backend.backend() != "jax":
        pytest.skip("TensorFlow assigns variables in place")
    recipe = small_recipe(train={"ema": 0.9, "dtype": "mixed_bfloat16"})
    setup = keras_imnet64.training_setup(recipe, data_dir=data_dir)
    model, batch = setup.model, setup.stream.batch(epoch=0, step=0)
    model.train_on_batch(*batch)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in group] for group in groups)
    model.train_function(state, iter([batch]))
    for group, values in zip(groups, state, strict=True):
        assert [
            v.path for v, value in zip(group, values, strict=True) if not value.is_deleted()
        ] == []


def test_no_step_waits_for_the_device(small_recipe, data_dir, tmp_path, monkeypatch):
    """Between the first and the last step the loop reads no number from the device.

    The progress bar reads losses in a thread of its own.
    """
    from keras.src import backend

    reads: list[bool] = []  # whether each was made by the loop's thread
    started = threading.Event()
    convert = backend.convert_to_numpy

    def recorded(value, *arguments):
        if started.is_set():
            reads.append(threading.current_thread() is threading.main_thread())
        return convert(value, *arguments)

    class Within(keras.callbacks.Callback):
        """Marks the time from the second step's beginning to the last one's."""

        def on_train_batch_begin(self, batch, logs=None):
            started.set() if 1 <= batch < 5 else started.clear()

    monkeypatch.setattr(backend, "convert_to_numpy", recorded)
    recipe = small_recipe(train={"epochs": 1, "validate_every": 0})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[Within()])
    assert int(run.history[0]["step"]) == 6
    assert reads and not any(reads)
