"""`train.average_last`: the mean of the weights after the last epochs, and what ships."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_imnet64.models.paths import SEED_STATE, by_path
from keras_imnet64.training.fit import fit
from keras_imnet64.training.last_epochs import LastEpochs
from keras_imnet64.training.state import list_checkpoints, load_checkpoint


def toy():
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="bn")])
    return model, by_path(model)


@pytest.mark.backend
def test_means_of_the_last_two_of_four_epochs_by_hand():
    model, variables = toy()
    last = LastEpochs(model, num_epochs=4, num_averaged=2)
    assert set(last.state) == {f"last_epochs/{path}" for path in variables}
    for epoch, value in enumerate((7.0, 5.0, 1.0, 4.0), start=1):
        for variable in variables.values():
            variable.assign(np.full(2, value))
        last.add(epoch, {})
        found = {path: float(mean.numpy()[0]) for path, mean in last.means(epoch).items()}
        expected = {3: 1.0, 4: 2.5}.get(epoch)
        assert found == ({} if expected is None else dict.fromkeys(variables, expected))


@pytest.mark.backend
def test_slow_weights_take_the_place_of_the_weights():
    model, variables = toy()
    slow = keras.Variable(np.full(2, 9.0, "float32"), name="slow")
    last = LastEpochs(model, num_epochs=1, num_averaged=1)
    path = next(iter(variables))
    last.add(1, {path: slow})
    means = {path: mean.numpy().tolist() for path, mean in last.means(1).items()}
    assert means[path] == [9.0, 9.0]
    del means[path], variables[path]
    assert means == {path: v.numpy().tolist() for path, v in variables.items()}


def test_without_the_option_nothing_is_kept():
    last = LastEpochs(toy()[0], num_epochs=4, num_averaged=0)
    last.add(4, {})
    assert last.state == {} == last.means(4)


class Record(keras.callbacks.Callback):
    """The weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        found = {p: v for p, v in by_path(self.model).items() if v.name != SEED_STATE}
        self.weights.append({p: np.array(ops.convert_to_numpy(v)) for p, v in found.items()})


def shipped(run):
    return {
        p: ops.convert_to_numpy(v) for p, v in by_path(keras.models.load_model(run.model)).items()
    }


@pytest.mark.backend
def test_the_model_file_has_the_mean_of_the_last_epochs(small_recipe, data_dir, tmp_path):
    record = Record()
    recipe = small_recipe(data={"holdout": 16}, train={"average_last": 2})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[record])
    _, second, third = record.weights
    for path, weights in shipped(run).items():
        expected = (second[path] + third[path]) / 2
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-7)
    newest = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    np.testing.assert_array_equal(newest.arrays["model/logits/kernel"], third["logits/kernel"])


def test_the_model_file_has_lookaheads_slow_weights(small_recipe, data_dir, tmp_path):
    """Three epochs of 6 updates; after 18 of them the last synchronisation is 3 updates ago.

    Under JAX test_lookahead has their numbers, and the mean above replaces weights in a file.
    """
    record = Record()
    recipe = small_recipe(optimizer={"lookahead": {"steps": 5}}, train={"validate_every": 0})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[record])
    found, weights = shipped(run), record.weights[-1]
    newest = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    for path, value in found.items():
        slow = newest.arrays.get(f"optimizer/{path.replace('/', '_')}_slow")
        np.testing.assert_array_equal(value, weights[path] if slow is None else slow)
    assert not np.array_equal(found["logits/kernel"], weights["logits/kernel"])


@pytest.mark.parametrize(
    ("train", "shipping"),
    [
        ({"ema": 0.5}, "optimizer/logits_kernel_average"),
        pytest.param(*({"average_last": 2}, "last_epochs/logits/kernel"), marks=pytest.mark.slow),
    ],
    ids=["ema", "average_last"],
)
def test_an_average_ships_before_the_slow_weights(
    train, shipping, small_recipe, data_dir, tmp_path
):
    train = train | {"epochs": 2, "validate_every": 0}
    recipe = small_recipe(optimizer={"lookahead": {"steps": 5}}, train=train)
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    found = shipped(run)["logits/kernel"]
    state = load_checkpoint(list_checkpoints(run.checkpoints)[-1]).arrays
    np.testing.assert_array_equal(found, state[shipping])
    assert not np.array_equal(found, state["optimizer/logits_kernel_slow"])
