"""A model of the caller's: any way of making it works, and it comes back as it was."""

import keras
import numpy as np
import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.models.load import load_model
from keras_imnet64.training.fit import fit
from keras_imnet64.training.model import as_before
from keras_imnet64.training.saved_as_plain import SavedAsPlain

PIXELS = np.arange(2 * 16 * 16 * 3, dtype="uint8").reshape(2, 16, 16, 3)


SHORT = {"epochs": 1, "validate_every": 0}


def small_model(**options):
    """A sequential model from 16 pixels to 10 logits."""
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, padding="same", **options),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def loaded_from_a_file(base, folder):
    base.save(folder / "base.keras")
    return keras.saving.load_model(folder / "base.keras")


def with_layers_of_another(base, _):
    return keras.Sequential([keras.Input((16, 16, 3)), *base.layers[:-1], keras.layers.Dense(10)])


def with_another_head(base, _):
    return keras.Model(base.inputs, keras.layers.Dense(10)(base.layers[-2].output))


def frozen_in_part(base, _):
    base.layers[1].trainable = False
    return base


@pytest.mark.parametrize(
    "make",
    [
        loaded_from_a_file,
        with_layers_of_another,
        with_another_head,
        pytest.param(frozen_in_part, marks=pytest.mark.backend),
    ],
)
def test_models_that_are_made_from_others_train_and_ship(make, small_recipe, data_dir, tmp_path):
    model = make(small_model(), tmp_path)
    recipe = small_recipe(train=SHORT, data={"steps_per_epoch": 2})
    run = fit(recipe, tmp_path / "run", model=model, data_dir=data_dir)
    shipped = load_model(run.model)
    names = [variable.path.split("/")[-2:] for variable in shipped.variables]
    assert names == [variable.path.split("/")[-2:] for variable in model.variables]
    found = shipped.predict(PIXELS, verbose=0)
    np.testing.assert_allclose(found, model.predict(PIXELS, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.backend
def test_a_model_that_is_loaded_ships_its_averages(small_recipe, data_dir, tmp_path):
    """With a rate so high that they are not its weights."""
    model = loaded_from_a_file(small_model(), tmp_path)
    recipe = small_recipe(
        train=SHORT | {"ema": 0.5}, data={"steps_per_epoch": 2}, optimizer={"learning_rate": 1.0}
    )
    run = fit(recipe, tmp_path / "run", model=model, data_dir=data_dir)
    shipped = load_model(run.model).predict(PIXELS, verbose=0)
    assert np.isfinite(shipped).all()
    assert not np.allclose(shipped, model.predict(PIXELS, verbose=0), rtol=1e-3)


@pytest.mark.backend
def test_what_the_callers_model_is_compiled_with_and_saved_as_stays(
    small_recipe, data_dir, tmp_path
):
    model = small_model()
    model.compile("sgd", "mse")
    optimizer = model.optimizer
    recipe = small_recipe(train=SHORT, data={"steps_per_epoch": 2})
    file = tmp_path / "kept.keras"
    keep = keras.callbacks.ModelCheckpoint(file)
    fit(recipe, tmp_path / "run", model=model, callbacks=[keep], data_dir=data_dir)
    assert model.optimizer is optimizer
    assert [variable.regularizer for variable in model.trainable_variables] == [None] * 6
    kept = keras.saving.load_model(file)
    assert not kept.compiled
    expected = model.predict(PIXELS, verbose=0)
    np.testing.assert_allclose(kept.predict(PIXELS, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_trains_is_saved_with_the_arguments_that_keras_takes(tmp_path):
    model = small_model()
    trained = SavedAsPlain(model.inputs[0], model.outputs[0], name=model.name)
    file = tmp_path / "kept.keras"
    for overwrite in (False, True):
        trained.save(file, overwrite, None)
    kept = keras.saving.load_model(file)
    assert not isinstance(kept, SavedAsPlain)
    np.testing.assert_array_equal(kept(PIXELS), model(PIXELS))


def test_a_penalty_of_ones_own_is_refused_beside_that_of_the_recipe(
    small_recipe, data_dir, tmp_path
):
    model = small_model(kernel_regularizer="l2")
    with pytest.raises(UserError, match=r"loss\.l2 penalises sequential.*kernel, whose layer has"):
        fit(small_recipe(), tmp_path / "run", model=model, data_dir=data_dir)
    assert model.layers[1].kernel.regularizer is not None
    recipe = small_recipe(loss={"l2": 0.0}, train=SHORT, data={"steps_per_epoch": 1})
    fit(recipe, tmp_path / "run", model=model, data_dir=data_dir)


def test_settings_of_layers_come_back_even_after_a_failure():
    model = small_model()
    norm = model.layers[2]
    with pytest.raises(OSError, match="disk"), as_before(model):
        norm.synchronized = True
        norm.gamma.regularizer = keras.regularizers.L2(1.0)
        raise OSError("disk")
    assert norm.synchronized is False and norm.gamma.regularizer is None


@pytest.mark.parametrize(
    ("of_model", "of_recipe", "sentence"),
    [
        ("mixed_float16", "float32", "computes in float16, in which gradients vanish"),
        ("mixed_bfloat16", "float32", '"float32", but your own model computes in bfloat16'),
        ("float32", "mixed_bfloat16", '"mixed_bfloat16", but your own model computes in float32'),
    ],
)
def test_a_dtype_other_than_the_recipes_is_refused(
    of_model, of_recipe, sentence, small_recipe, tmp_path
):
    keras.config.set_dtype_policy(of_model)
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    recipe = small_recipe(train={"dtype": of_recipe})
    with pytest.raises(UserError, match=sentence):
        fit(recipe, tmp_path / "run", model=model, data_dir=tmp_path / "no data")
