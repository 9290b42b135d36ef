"""Statistics of batch normalisation measured anew, against numbers worked out layer by layer."""

import keras
import numpy as np
import pytest

from keras_imnet64.models.load import load_model
from keras_imnet64.models.paths import by_path
from keras_imnet64.training.data import load_data, make_stream
from keras_imnet64.training.fit import fit
from keras_imnet64.training.statistics import remeasure

pytestmark = pytest.mark.backend
TRAIN = {"epochs": 2, "sizes": [[0.0, 8], [0.5, 16]]}


def arrays(path):
    return {p: keras.ops.convert_to_numpy(v) for p, v in by_path(load_model(path)).items()}


def is_statistic(path):
    return path.endswith(("moving_mean", "moving_variance"))


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "accumulate_steps": 2}], ids=["", "averages"])
def test_the_statistics_that_ship_are_those_of_the_weights_that_ship(
    options, small_recipe, data_dir, tmp_path
):
    """Those of the first normalisation, worked out from the file's own weights."""
    sections = {"model": {"dropout": 0.4}}
    plain = small_recipe(**sections, train=TRAIN | options)
    recipe = small_recipe(**sections, train=TRAIN | options | {"remeasure_statistics": 3})
    before = arrays(fit(plain, tmp_path / "plain", data_dir=data_dir).model)
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    after = arrays(run.model)
    for path in before.keys() - {p for p in before if "seed_generator" in p}:
        assert np.array_equal(before[path], after[path]) == (not is_statistic(path)), path
    model, stream = load_model(run.model), make_stream(recipe, load_data(recipe, data_dir))
    stem = keras.Model(model.inputs, model.get_layer("stem_conv").output)
    num_parts = options.get("accumulate_steps", 1)
    maps = [
        keras.ops.convert_to_numpy(stem(stream.batch(2, step)[0])) for step in range(3 * num_parts)
    ]
    norm = model.get_layer("stem_bn")
    means, variances = (
        np.mean([getattr(each, kind)((0, 1, 2)) for each in maps], axis=0)
        for kind in ("mean", "var")
    )
    assert maps[0].shape == (16 // num_parts, 16, 16, 16)
    np.testing.assert_allclose(norm.moving_mean, means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variances, rtol=1e-4, atol=1e-5)
    assert run.best.read_bytes() == run.model.read_bytes()


def test_an_end_that_is_repeated_measures_the_same(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(train=TRAIN | {"remeasure_statistics": 2})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    first = arrays(run.model)
    run.metrics_file.unlink()  # as if the process had been killed before the end
    run.model.unlink()
    again = arrays(fit(recipe, tmp_path / "run", data_dir=data_dir).model)
    assert all(np.array_equal(first[path], again[path]) for path in first)


def test_one_batch_gives_what_a_training_step_sees():
    """With momentum 0 Keras' own layers hold the statistics of the last batch; nested ones too."""
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(momentum=0.0, name="first")(inputs)
    x = keras.layers.Conv2D(5, 3, name="conv")(x)
    inner_input = keras.Input((2, 2, 5))
    inner = keras.layers.BatchNormalization(momentum=0.0, scale=False, name="second")(inner_input)
    x = keras.Model(inner_input, inner, name="nested")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, x)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), "uint8")
    model(pixels, training=True)
    expected = [keras.ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(variable * 0 + 7)
    remeasure(model, iter([pixels, pixels]), 2)
    found = [keras.ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
