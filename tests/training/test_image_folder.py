"""Training on images of any size, from class folders to a scored file, under either backend."""

import json
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from class_folders import damage, indexed
from PIL import Image

from keras_imnet64.compare.request import Request
from keras_imnet64.compare.worker import SideRun
from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.data.datasets import open_dataset, prepare
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View
from keras_imnet64.evaluation.evaluate import evaluate
from keras_imnet64.evaluation.image_files import view_for
from keras_imnet64.evaluation.predict import predict
from keras_imnet64.models.info import model_info, read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.recipe.loading import check_recipe
from keras_imnet64.report.pictures import pixels_of
from keras_imnet64.training.data import load_data, make_stream
from keras_imnet64.training.fit import fit
from keras_imnet64.training.model import one_view
from keras_imnet64.training.preview import preview
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

RECIPE = {
    "name": "toy",
    "model": {
        "name": "wide_resnet",
        "depth": 6,
        "stages": 1,
        "width": 0.5,
        "normalization": "dataset",
    },
    "data": {"dataset": "image_folder/toy", "image_size": 16, "batch_size": 4},
    "augment": [{"op": "random_resized_crop"}],
    "optimizer": {"name": "sgd", "learning_rate": 0.01},
    "train": {"epochs": 1},
    "evaluation": {"resize": 20, "interpolation": "bicubic", "ten_crop": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    indexed(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return fit(check_recipe(RECIPE), folder / "run", data_dir=folder / "data")


@pytest.mark.backend
def test_a_run_is_scored_as_its_file_is(run, folder):
    """By ten crops, whose softmax outputs are averaged here by hand."""
    score = run.metrics["model.keras"]
    assert run.metrics["crops"] == 10 and score["count"] == 3
    again = evaluate(run.path, data_dir=folder / "data")
    assert (again["crops"], again["loss"]) == (10, score["loss"])
    model, view = load_model(run.model), View(16, "bicubic", 20, ten_crop=True)
    losses = []
    index = np.load(folder / "data/packed/image_folder_toy/validation/files.npy")
    for label, name in enumerate(index):
        crops = read_image(folder / "pictures" / name.decode(), view)
        answers = keras.ops.softmax(model.predict(crops, verbose=0))
        losses.append(-np.log(keras.ops.convert_to_numpy(answers).mean(axis=0)[label]))
    assert score["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.backend
def test_one_crop_is_what_predict_shows(run, folder):
    single = evaluate(run.path, data_dir=folder / "data", ten_crop=False)
    assert single["crops"] == 1
    index = np.load(folder / "data/packed/image_folder_toy/validation/files.npy")
    files = [folder / "pictures" / name.decode() for name in index]
    images = predict(run.path, files, top=3)["images"]
    losses = []
    for image in images:
        chance = {entry["class_id"]: entry["probability"] for entry in image["top"]}
        losses.append(-np.log(chance[Path(image["file"]).parent.name]))
    assert single["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_file_says_how_images_are_shown(run):
    info = model_info(run.model)
    assert (info["resize_filter"], info["resize"], info["ten_crop"]) == ("bicubic", 20, True)
    assert info["wnids"] == ["ant", "bee", "cat"] and info["image_size"] == 16


def test_images_of_one_size_have_ten_crops_too(folder, data_dir):
    """A 16-pixel store, resized to 18 and cropped; unlike its single crop, which is the image."""
    content = RECIPE | {
        "data": {"dataset": "imagenet_resized/16x16", "batch_size": 8, "steps_per_epoch": 1},
        "augment": [],
        "train": {"epochs": 1, "validate_every": 0},
        "evaluation": {"ten_crop": True, "interpolation": "bicubic"},
    }
    run = fit(check_recipe(content), folder / "raw", data_dir=data_dir)
    one = evaluate(run.path, data_dir=data_dir, ten_crop=False)
    ten = evaluate(run.path, data_dir=data_dir)
    assert (one["crops"], ten["crops"]) == (1, 10)
    assert ten["loss"] == run.metrics["model.keras"]["loss"] != one["loss"]
    images = open_dataset("imagenet_resized/16x16", "validation", data_dir=data_dir).images
    view = view_for(load_model(run.model), read_model_info(run.model), run.model)
    assert np.array_equal(view.show(Image.fromarray(images[0])), images[0])  # as predict shows it


def test_a_image_that_is_gone_ends_the_run_in_a_sentence(tmp_path):
    indexed(tmp_path)
    for file in (tmp_path / "pictures/bee").iterdir():
        file.unlink()
    with pytest.raises(RunFailed, match=r"bee/\d\.jpg can no longer be read .* data prepare"):
        fit(check_recipe(RECIPE), tmp_path / "run", data_dir=tmp_path / "data")


def test_a_image_that_was_replaced_ends_the_run_in_a_sentence(tmp_path):
    indexed(tmp_path)
    for file in (tmp_path / "pictures/bee").iterdir():
        length = file.stat().st_size
        Image.new("RGB", (2, 2)).save(file)
        file.write_bytes(file.read_bytes().ljust(length, b"\0")[:length])
    with pytest.raises(RunFailed, match=r"bee/\d\.jpg is damaged, or has changed since"):
        fit(check_recipe(RECIPE), tmp_path / "run", data_dir=tmp_path / "data")


def test_every_pipeline_names_an_image_that_was_replaced(tmp_path):
    """That of a comparison, that of pictures in a report, and that which measures weights."""
    store = indexed(tmp_path, suffix=".png")["train"]
    for position in range(len(store)):
        damage(store, position)
    data = load_data(recipe(), tmp_path / "data")
    sentence = r"\.png is damaged, or has changed since it was indexed: restore the original"
    with pytest.raises(RunFailed, match=sentence):
        list(one_view(data, 3))
    with pytest.raises(RunFailed, match=sentence):
        pixels_of(data.train, np.arange(2), data.one_crop_view)
    asked = Request(
        recipe().to_toml(),
        start=str(tmp_path / "start.npz"),
        num_steps=1,
        trajectory=str(tmp_path / "trajectory.json"),
        data_dir=str(tmp_path / "data"),
    )
    with pytest.raises(RunFailed, match=sentence):
        SideRun(asked).train(1)


def test_a_run_on_smaller_crops_is_scored_at_the_size_of_the_model(folder, tmp_path):
    """As procedure A3 of arXiv:2110.00476: crops of 12 pixels train a model that is shown 16."""
    content = RECIPE | {
        "augment": [
            {"op": "random_resized_crop", "interpolation": "random"},
            {"op": "mixup_or_cutmix", "per": "batch"},
        ],
        "train": {"epochs": 1, "sizes": [[0.0, 12]], "remeasure_statistics": 2},
        "evaluation": {"resize": 17, "interpolation": "bicubic"},
    }
    recipe = check_recipe(content)
    data = load_data(recipe, folder / "data")
    trained, measured = (make_stream(recipe, data, full_size=full) for full in (False, True))
    assert [s.batch(0, 0)[0].shape[1] for s in (trained, measured)] == [12, 16]
    assert trained.batch(1, 0)[0].shape[1] == 12  # past the end of the run too
    shown = preview(recipe, tmp_path / "sheet.png", steps=True, data_dir=folder / "data")
    assert shown["stages"] == ["random_resized_crop", "mixup_or_cutmix"]
    assert shown["image_size"] == 12
    run = fit(recipe, tmp_path / "run", data_dir=folder / "data")
    assert [row["size"] for row in run.history] == ["12"]
    model, info = load_model(run.model), model_info(run.model)
    assert model.input_shape == (None, 16, 16, 3)
    assert (info["image_size"], info["resize"]) == (16, 17)
    stem = keras.Model(model.inputs[0], model.get_layer("stem_conv").output)
    maps = [keras.ops.convert_to_numpy(stem(measured.batch(1, step)[0])) for step in range(2)]
    means = np.mean([each.mean((0, 1, 2)) for each in maps], axis=0)
    np.testing.assert_allclose(model.get_layer("stem_bn").moving_mean, means, rtol=1e-4, atol=1e-5)
    trained_with = load_checkpoint(list_checkpoints(run.checkpoints)[-1]).arrays
    assert np.abs(trained_with["model/stem_bn/moving_mean"] - means).max() > 1e-3


# -------------------------------------------------------------- an image that fails while training


class StopAfter(keras.callbacks.Callback):
    """Ends a run by a signal after a step of its first epoch, so that its state is saved."""

    def __init__(self, step, then=lambda: None):
        super().__init__()
        self.step, self.then = step, then

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.step:
            self.then()
            os.kill(os.getpid(), signal.SIGTERM)


def recipe(**changes):
    model = RECIPE["model"] | {"normalization": "imagenet"}
    data = RECIPE["data"] | {"batch_size": 3}
    return check_recipe(RECIPE | {"model": model, "data": data} | changes)


def file_in_step(folder, step):
    """A file of which the first epoch shows the image in this step, from 0."""
    data = load_data(recipe(), folder / "data")
    stream = make_stream(recipe(), data)
    return Path(data.train.store.file_of(stream.positions(0, step)[0]))


TRAIN = {"epochs": 2, "validate_every": 0}


def stopped_and_damaged(folder, step):
    """A run that was stopped after the first of three steps, then failed at an image of a step.

    Returns:
        (the sentence, the file of the image, its bytes before it was damaged).
    """
    indexed(folder)
    file = file_in_step(folder, step)
    whole = file.read_bytes()
    where = {"out_dir": folder / "run", "data_dir": folder / "data"}
    with pytest.raises(Stopped):
        fit(recipe(train=TRAIN), callbacks=[StopAfter(0)], **where)
    file.write_bytes(whole[:200])
    with pytest.raises(RunFailed) as failure:
        fit(recipe(train=TRAIN), **where)
    return str(failure.value), file, whole


def go_on(folder):
    return fit(recipe(train=TRAIN), folder / "run", data_dir=folder / "data")


def prepare_again(folder):
    return prepare("image_folder/toy", source=folder / "pictures", data_dir=folder / "data")


def test_a_run_goes_on_with_the_same_file_and_not_with_another_in_place_of_one_it_used(tmp_path):
    sentence, file, whole = stopped_and_damaged(tmp_path, step=0)
    assert f"{file} is shorter than when it was indexed: restore the original file" in sentence
    assert "start over with --fresh" in sentence and "\n" not in sentence
    failed = shutil.copytree(tmp_path / "run", tmp_path / "failed")
    file.write_bytes(whole)
    assert go_on(tmp_path).is_finished
    Image.new("RGB", (60, 40), "red").save(file)
    prepare_again(tmp_path)
    with pytest.raises(UserError, match=r"the train images of .* differ from those with which"):
        fit(recipe(train=TRAIN), failed, data_dir=tmp_path / "data")


@pytest.mark.parametrize("mended", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_goes_on_with_mended_images_that_it_has_not_used(mended, tmp_path):
    """However many: one has failed, and `data prepare` has named the others."""
    sentence, file, _ = stopped_and_damaged(tmp_path, step=1)
    assert "data prepare image_folder/toy" in sentence and "resumes too" in sentence
    for path in (file, file_in_step(tmp_path, 2))[:mended]:
        Image.new("RGB", (60, 40), "red").save(path)
    prepare_again(tmp_path)
    run = go_on(tmp_path)
    assert run.is_finished and [p["from_step"] for p in run.environment["processes"]] == [0, 1, 1]
    assert not list(run.path.glob("pictures-*"))


@pytest.mark.slow
def test_a_run_does_not_go_on_if_an_image_it_used_is_replaced_beside_one_that_failed(tmp_path):
    _, file, whole = stopped_and_damaged(tmp_path, step=1)
    file.write_bytes(whole)
    Image.new("RGB", (60, 40), "red").save(file_in_step(tmp_path, 0))
    prepare_again(tmp_path)
    with pytest.raises(UserError, match=r"the train images of .* differ from those with which"):
        go_on(tmp_path)


def test_a_run_that_has_trained_on_nothing_begins_with_the_images_that_are_here(tmp_path):
    indexed(tmp_path)
    file = file_in_step(tmp_path, 0)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(RunFailed, match="resumes too"):
        go_on(tmp_path)
    Image.new("RGB", (60, 40), "red").save(file)
    prepare_again(tmp_path)
    assert go_on(tmp_path).is_finished


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"image_size": None}}, "data.image_size is missing"),
        ({"data": {"dataset": "shapes"}}, "data.image_size is for data sets of images of any size"),
        ({"model": {"normalization": "mean_image"}}, '"mean_image" needs images of one size'),
        ({"data": {"in_memory": "always"}}, "data.in_memory has no use"),
        ({"evaluation": {"resize": 12}}, "must be at least the 16 pixels"),
        ({"data": {"dataset": "image_folder/a b"}}, 'received "a b"'),
        ({"data": {"image_size": 4}}, "data.image_size must be a whole number from 8 to 1,024"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, sentence):
    content = json.loads(json.dumps(RECIPE))
    for table, values in changes.items():
        for key, value in values.items():
            content[table][key] = value
            if value is None:
                del content[table][key]
    with pytest.raises(UserError, match=sentence):
        check_recipe(content)
