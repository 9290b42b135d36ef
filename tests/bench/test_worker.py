"""A worker measures the model that `fit` compiles, on the recipe's images or on random ones."""

from functools import cache

import numpy as np
import pytest
from class_folders import damage, indexed

from keras_imnet64 import training_setup
from keras_imnet64.bench import memory
from keras_imnet64.bench import worker as module
from keras_imnet64.bench.memory import StepMemory
from keras_imnet64.bench.stand_in import random_data, stream_on
from keras_imnet64.bench.worker import Worker
from keras_imnet64.bench.worker_request import Request
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.training.setup import setup_on
from keras_imnet64.training.state import read_variables, variables_by_path


@pytest.fixture(scope="module", autouse=True)
def quick_workers():
    """The first step alone before a worker is asked; one very small network for this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_SECONDS", 0.0)
        train_once = cache(memory.train_very_small_network)
        patch.setattr(memory, "train_very_small_network", train_once)
        yield


def updates(worker):
    return int(worker.model.optimizer.iterations)


def request_for(recipe, data_dir=None):
    return Request(recipe.to_toml(), data_dir is not None, data_dir=data_dir and str(data_dir))


@pytest.mark.backend
def test_a_step_is_the_one_that_fit_makes_and_as_many_are_timed_as_are_not(small_recipe, data_dir):
    """Averages, clipping, L2 and smoothing included: the weights after it are the same."""
    recipe = small_recipe(
        loss={"label_smoothing": 0.1},
        optimizer={"clip_norm": 1.0},
        train={"ema": 0.9},
    )
    worker = Worker(request_for(recipe, data_dir))
    setup = training_setup(recipe, data_dir=data_dir)
    setup.model.train_on_batch(*setup.stream.batch(0, 0))
    found = read_variables(worker.model, variables_by_path(worker.model, []))
    expected = read_variables(setup.model, variables_by_path(setup.model, []))
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-4, atol=1e-6, err_msg=path)
    assert worker.facts()["tasks"] == ["forward", "step", "input", "both"]
    assert worker.facts()["compile_seconds"] > 0
    made = updates(worker)
    for task, num_updates in {"step 2": 4, "both 3": 6, "forward 2": 0, "input 2": 0}.items():
        assert worker.reply(task)["seconds"] > 0
        assert updates(worker) - made == num_updates, task
        made = updates(worker)


def test_an_image_that_has_changed_is_named(small_recipe, tmp_path):
    store = indexed(tmp_path, suffix=".png")["train"]
    data = {"dataset": "image_folder/toy", "image_size": 16, "batch_size": 3}
    recipe = small_recipe(data=data, model={"normalization": "imagenet"}, augment=[])
    worker = Worker(request_for(recipe, tmp_path / "data"))
    files = [damage(store, position) for position in range(len(store))]
    for run in (lambda: worker.reply("input 1"), lambda: worker.reply("both 1")):
        with pytest.raises(RunFailed, match=r"\.png is damaged, or has changed since") as failure:
            run()
        assert any(str(failure.value).startswith(str(file)) for file in files)
    with pytest.raises(RunFailed, match=r"\.png is damaged, or has changed since"):
        Worker(request_for(recipe, tmp_path / "data"))


def test_steps_of_an_accumulated_batch_are_updates_at_the_full_size(small_recipe, data_dir):
    train = {"accumulate_steps": 2, "sizes": [[0.0, 8], [0.5, 16]]}
    worker = Worker(request_for(small_recipe(train=train), data_dir))
    assert worker.resident.element_spec[0].shape == (8, 16, 16, 3)
    made = updates(worker)
    worker.reply("step 2")
    assert updates(worker) - made == 2 * 2  # as without parts
    assert worker.reply("both 1")["seconds"] > 0


def test_few_random_images_are_enough_for_a_recipe_that_needs_a_long_run(small_recipe):
    """And memory is counted without the framework."""
    recipe = small_recipe(
        optimizer={"lookahead": {"steps": 9}}, train={"remeasure_statistics": 2, "epochs": 2}
    )
    worker = Worker(request_for(recipe))
    assert worker.facts()["compile_seconds"] > 0
    found = worker.reply("memory")["peak_mb"]
    if found is None:
        pytest.skip("memory is not counted here")
    assert found < worker.memory.megabytes - 100


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"normalization": "mean_image"}},
        {"augment": [{"op": "mixup", "alpha": 0.2}], "data": {"steps_per_epoch": 5}},
        {
            "model": {
                "name": "spectral",
                "factor": 2,
                "band": 1,
                "normalization": "mean_image",
                "base": {"name": "wide_resnet", "depth": 6, "width": 0.5},
            }
        },
        {
            "data": {"dataset": "imagenet2012", "image_size": 32, "classes": 7},
            "model": {"depth": 10},
            "augment": [{"op": "random_resized_crop"}],
        },
    ],
    ids=["mean_image", "mixed_labels", "band", "any_size"],
)
def test_random_images_train_any_recipe(small_recipe, sections):
    """Shape and kind of pixels, labels and logits are those of the data set that is not there."""
    from keras_imnet64.backend.devices import take_devices

    recipe = small_recipe(**sections)
    data = random_data(recipe)
    stream = stream_on(data, recipe)
    setup = setup_on(data, stream, recipe, take_devices(), load_initial_weights=False)
    images, labels = stream.batch(0, 0)
    size = recipe.image_size
    assert images.shape == (recipe.data.batch_size, size, size, 3) and images.dtype == "uint8"
    assert labels.ndim == (2 if "augment" in sections and "mixup" in str(sections) else 1)
    assert setup.model.output_shape == (None, recipe.num_classes)
    assert np.isfinite(setup.model.train_on_batch(images, labels)).all()


def test_a_batch_that_is_no_batch_of_the_images_is_refused(small_recipe, data_dir):
    recipe = small_recipe(data={"batch_size": 97})
    with pytest.raises(UserError, match=r"at most 96, the samples of an epoch; received 97"):
        Worker(request_for(recipe, data_dir))


def test_a_step_that_needs_no_more_than_the_framework_has_no_figure():
    memory = object.__new__(StepMemory)
    memory.before = 100e6
    for peak, expected in ((None, None), (99.9, None), (100.0, None), (100.5, 0.5)):
        memory.megabytes = peak
        assert memory.step_megabytes == expected
