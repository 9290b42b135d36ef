"""What `fit` trains with, taken by programs that have a training loop of their own."""

import keras
import numpy as np

import keras_imnet64
from keras_imnet64.models.keras_private import learning_rates_at
from keras_imnet64.training.fit import fit
from keras_imnet64.training.state import (
    list_checkpoints,
    load_checkpoint,
    read_variables,
    variables_by_path,
)


def test_a_loop_of_ones_own_gives_the_weights_that_fit_gives(small_recipe, data_dir, tmp_path):
    """Under JAX test_worker compares a step of such a loop with Keras' own loop."""
    recipe = small_recipe(
        model={"dropout": 0.2},
        data={"steps_per_epoch": 3},
        loss={"label_smoothing": 0.1},
        train={"epochs": 2, "ema": 0.9, "validate_every": 0},
    )
    setup = keras_imnet64.training_setup(recipe, data_dir=data_dir)
    for epoch in range(2):
        for step in range(3):
            setup.model.train_on_batch(*setup.stream.batch(epoch, step))
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    trained = load_checkpoint(list_checkpoints(run.checkpoints)[-1]).arrays
    by_hand = read_variables(setup.model, variables_by_path(setup.model, []))
    assert by_hand.keys() == {path for path in trained if not path.startswith("metrics/")}
    for path, array in by_hand.items():
        np.testing.assert_allclose(array, trained[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_a_schedule_falls_with_the_updates_of_a_run(small_recipe, data_dir):
    """Of 3 epochs of 6 batches, each in two parts, which are 12 steps of the stream."""
    recipe = small_recipe(train={"accumulate_steps": 2})
    setup = keras_imnet64.training_setup(recipe, data_dir=data_dir)
    assert setup.stream.steps_per_epoch == 12
    rates = learning_rates_at(setup.model.optimizer, np.array([0, 9, 18]))
    np.testing.assert_allclose(rates, [0.05, 0.025, 0.0], rtol=1e-6, atol=1e-9)  # half a cosine


def test_the_stores_may_lie_in_a_folder_of_their_own(small_recipe, data_dir, tmp_path):
    setup = keras_imnet64.training_setup(
        small_recipe(), data_dir=tmp_path / "none", cache_dir=data_dir
    )
    assert len(setup.data.train) == 96


def test_the_setup_is_that_of_the_recipe(small_recipe, data_dir):
    setup = keras_imnet64.training_setup(small_recipe(), data_dir=data_dir)
    assert isinstance(setup.model, keras.Model) and setup.model.compiled
    assert not setup.own_model
    images, labels = setup.stream.batch(epoch=1, step=5)
    assert images.shape == (16, 16, 16, 3) and images.dtype == "uint8" and labels.shape == (16,)
