"""Statistics of batch normalisation measured anew, against numbers worked out layer by layer."""

import shutil

import keras
import numpy as np
import pytest

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.models.load import load_model
from keras_imnet64.models.paths import SEED_STATE, by_path
from keras_imnet64.runs import Run
from keras_imnet64.training.data import load_data, make_stream
from keras_imnet64.training.fit import fit
from keras_imnet64.training.memory import PeakMemory
from keras_imnet64.training.state import list_checkpoints, load_checkpoint
from keras_imnet64.training.statistics import check_statistics, remeasure
from keras_imnet64.training.trainer import Trainer

TRAIN = {"epochs": 1, "validate_every": 0, "sizes": [[0.0, 8]], "remeasure_statistics": 3}
AVERAGES = {"ema": 0.9, "accumulate_steps": 2}


def one_device():
    return Devices(keras.backend.backend(), "cpu", ("cpu:0",))


def arrays(path):
    """The weights of a file, without the seeds of dropout, which a file does not hold."""
    found = by_path(load_model(path)).items()
    return {p: keras.ops.convert_to_numpy(v) for p, v in found if v.name != SEED_STATE}


def is_statistic(path):
    return path.endswith(("moving_mean", "moving_variance"))


@pytest.fixture(scope="module")
def averaged(small_recipe, data_dir, tmp_path_factory):
    """A recipe with averages and parts of batches, trained on small images, and its run."""
    recipe = small_recipe(model={"dropout": 0.4}, train=TRAIN | AVERAGES)
    return recipe, fit(recipe, tmp_path_factory.mktemp("averaged") / "run", data_dir=data_dir)


def test_the_statistics_that_ship_are_those_of_the_averages_that_ship(averaged, data_dir):
    """Under JAX test_interruption has runs that measure; what is measured is below."""
    check_statistics_by_hand(*averaged, data_dir)


@pytest.mark.slow
def test_the_statistics_that_ship_are_those_of_the_weights_that_ship(
    small_recipe, data_dir, tmp_path
):
    recipe = small_recipe(model={"dropout": 0.4}, train=TRAIN)
    check_statistics_by_hand(recipe, fit(recipe, tmp_path / "run", data_dir=data_dir), data_dir)


def check_statistics_by_hand(recipe, run, data_dir):
    """Those of the first normalisation, worked out from the file's own weights.

    The weights are those of the last checkpoint, or their averages, and statistics are not.
    """
    trained = load_checkpoint(list_checkpoints(run.checkpoints)[-1]).arrays
    after = arrays(run.model)
    for path in after:
        average = trained.get(f"optimizer/{path.replace('/', '_')}_average")
        before = trained[f"model/{path}"] if average is None else average
        assert np.array_equal(before, after[path]) == (not is_statistic(path)), path
    assert any(path.endswith("_average") for path in trained) == bool(recipe.train.ema)
    model = load_model(run.model)
    stream = make_stream(recipe, load_data(recipe, data_dir), full_size=True)
    stem = keras.Model(model.inputs, model.get_layer("stem_conv").output)
    num_parts = recipe.train.accumulate_steps
    maps = [
        keras.ops.convert_to_numpy(stem(stream.batch(1, step)[0])) for step in range(3 * num_parts)
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


def test_an_end_that_is_repeated_measures_the_same_within_the_peak_of_memory(
    averaged, data_dir, tmp_path, monkeypatch
):
    recipe, straight = averaged
    run = Run(shutil.copytree(straight.path, tmp_path / "run"))
    run.metrics_file.unlink()  # as if the process had been killed before the end
    run.model.unlink()
    seen = []

    class Watched(PeakMemory):
        def __enter__(self):
            seen.append("begin")
            return super().__enter__()

        def __exit__(self, *error):
            seen.append("end")
            super().__exit__(*error)

    measure = Trainer.remeasure_copy
    monkeypatch.setattr("keras_imnet64.training.fit.PeakMemory", Watched)
    monkeypatch.setattr(Trainer, "remeasure_copy", lambda self: seen.append("it") or measure(self))
    again = arrays(fit(recipe, run.path, data_dir=data_dir).model)
    first = arrays(straight.model)
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[path], again[path]) for path in first)
    assert seen == ["begin", "it", "end"]


@pytest.mark.backend
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
    remeasure(model, iter([pixels, pixels]), 2, one_device())
    found = [keras.ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.backend
def test_frozen_normalisation_stays_and_normalises_as_it_trained():
    inputs = keras.Input((4, 4, 3))
    frozen, trained = (keras.layers.BatchNormalization(name=n) for n in ("frozen", "trained"))
    frozen.trainable = False
    outputs = keras.layers.GlobalAveragePooling2D()(trained(frozen(inputs)))
    model = keras.Model(inputs, outputs)
    frozen.moving_mean.assign([10.0, 20.0, 30.0])
    frozen.moving_variance.assign([4.0, 9.0, 16.0])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), "uint8")
    remeasure(model, iter([pixels]), 1, one_device())
    np.testing.assert_array_equal(frozen.moving_mean, [10, 20, 30])
    np.testing.assert_array_equal(frozen.moving_variance, [4, 9, 16])
    between = (pixels - np.array([10, 20, 30])) / np.sqrt(np.array([4, 9, 16]) + frozen.epsilon)
    np.testing.assert_allclose(trained.moving_mean, between.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(trained.moving_variance, between.var((0, 1, 2)), rtol=1e-4)


def frozen_alone(norm):
    norm.trainable = False
    return norm


def twice(norm):
    return lambda x: norm(norm(x))


def twice_in_a_nested_model(norm):
    inputs = keras.Input((16, 16, 3))
    nested = keras.Model(inputs, norm(inputs))
    return lambda x: nested(nested(x))


def in_a_wrapper(norm):
    return keras.layers.TimeDistributed(norm)


@pytest.mark.parametrize(
    ("arrange", "sentence"),
    [
        (
            frozen_alone,
            "no use for own, whose batch normalisation is frozen: remove it; received 2",
        ),
        (twice, r'itself calls, and once; received "norm", which is called 2 times: remove'),
        (twice_in_a_nested_model, 'received "norm", which is called 2 times'),
        (in_a_wrapper, 'received "norm", which is called by a layer around it'),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_data_is_read(
    arrange, sentence, small_recipe, tmp_path
):
    inputs = keras.Input((16, 16, 3))
    x = arrange(keras.layers.BatchNormalization(name="norm"))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x), name="own")
    recipe = small_recipe(train={"remeasure_statistics": 2})
    with pytest.raises(UserError, match=sentence) as caught:
        fit(recipe, tmp_path / "run", model=model, data_dir=tmp_path / "no data")
    assert "\n" not in str(caught.value)
    check_statistics(small_recipe(), model)  # without the option all of them train


def test_memory_that_runs_out_while_measuring_leaves_a_run_that_goes_on(
    small_recipe, data_dir, tmp_path, monkeypatch
):
    def run_out(*arguments, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    recipe = small_recipe(train={"epochs": 1, "validate_every": 0, "remeasure_statistics": 1})
    with monkeypatch.context() as patch:
        patch.setattr("keras_imnet64.training.trainer.remeasure", run_out)
        with pytest.raises(RunFailed, match=r"16 images per step while .* same command") as caught:
            fit(recipe, tmp_path / "run", data_dir=data_dir)
    assert "\n" not in str(caught.value)
    assert len(fit(recipe, tmp_path / "run", data_dir=data_dir).history) == 1
