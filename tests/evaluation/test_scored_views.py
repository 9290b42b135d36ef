"""Test-time views: weights and pixels worked by hand, and files scored with and without them.

See test_per_class for two devices.
"""

import keras
import numpy as np
import pytest
from class_folders import indexed
from selected_images import images_of
from toy_store import in_memory, random_images

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import UserError
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import select
from keras_imnet64.evaluation import evaluate as evaluation
from keras_imnet64.evaluation.evaluate import choose_view, evaluate
from keras_imnet64.evaluation.predict import predict
from keras_imnet64.evaluation.predictions import predict_logits
from keras_imnet64.evaluation.views import with_ten_crops, with_views
from keras_imnet64.models.info import model_info
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo
from keras_imnet64.training.fit import fit

DATASET = "imagenet_resized/16x16"

# -------------------------------------------------------------------------------------- by hand

IMAGE = np.zeros((1, 4, 4, 3), "float32")
IMAGE[0, :, :, 0] = [[9, 1.5, -2.5, 9], [1.0, 9, 9, -1.0], [9, 0.5, -0.5, 9], [9, 9, 9, 9]]


def one_pixel(in_lists=False):
    """A model with the logits (red of row 1, column 0) and 0: each view shows it another pixel.

    Args:
        in_lists: whether its inputs and outputs are lists, as in a model from a file.
    """
    inputs = keras.Input((4, 4, 3))
    red = inputs[:, 1, 0, :1]
    logits = keras.ops.concatenate([red, red * 0], axis=-1)
    return keras.Model([inputs], [logits]) if in_lists else keras.Model(inputs, logits)


def softmax(red):
    return 1 / (1 + np.exp(-red))


def averaged(views):
    shares = np.exp(keras.ops.convert_to_numpy(with_views(one_pixel(), 4, views)(IMAGE)))
    assert shares.shape == (1, 2) and shares.sum() == pytest.approx(1, rel=1e-5)
    return shares[0, 0]


@pytest.mark.backend
def test_mirror_is_the_mean_of_both_softmax_outputs():
    assert averaged("mirror") == pytest.approx((softmax(1.0) + softmax(-1.0)) / 2, rel=1e-5)


@pytest.mark.backend
def test_shift_has_half_its_weight_on_the_shifted_views():
    """Row 1, column 0 is that of row 0 after a shift down, and of row 2 after one up.

    Column 0 shows column 1 after either shift: the border reflects. In their mirror images it is
    column 3 of the shifted image, which shows column 2 after either.
    """
    pair = (softmax(1.0) + softmax(-1.0)) / 2
    shifted = (softmax(1.5) + softmax(-2.5) + softmax(0.5) + softmax(-0.5)) / 4
    assert averaged("shift") == pytest.approx(pair / 2 + shifted / 2, rel=1e-5)
    assert abs(pair - shifted) > 0.02  # so that another weight would be seen


@pytest.mark.backend
@pytest.mark.parametrize("in_lists", [False, True])
def test_ten_crops_are_averaged_likewise(in_lists):
    crops = np.stack([IMAGE] * 9 + [IMAGE[:, :, ::-1]], axis=1)
    shares = np.exp(keras.ops.convert_to_numpy(with_ten_crops(one_pixel(in_lists), 4)(crops)))
    assert shares[0, 0] == pytest.approx(0.9 * softmax(1.0) + 0.1 * softmax(-1.0), rel=1e-5)


@pytest.mark.backend
def test_models_with_lists_and_without_are_scored_together():
    store = in_memory(*random_images(5))  # of 4 pixels
    models = [one_pixel(in_lists=True), one_pixel()]
    logits, labels = predict_logits(models, select(store), 2)
    red = store.images[:, 1, 0, 0]
    assert logits.tolist() == 2 * [[[value, 0.0] for value in red]]
    assert labels.tolist() == store.labels.tolist()


@pytest.mark.parametrize(
    ("devices", "views", "size"), [(1, 1, 256), (3, 1, 255), (1, 6, 42), (2, 10, 24), (300, 2, 300)]
)
def test_a_batch_has_at_most_256_views_but_an_image_for_each_device(devices, views, size):
    taken = Devices("jax", "cpu", tuple(f"cpu:{n}" for n in range(devices)))
    assert evaluation.scoring_batch_size(taken, views) == size


@pytest.mark.parametrize(("side", "size"), [(64, 256), (256, 256), (512, 64), (4096, 1)])
def test_a_batch_has_fewer_images_if_they_are_large(side, size):
    one = Devices("jax", "cpu", ("cpu:0",))
    assert evaluation.scoring_batch_size(one, image_size=side) == size


# ---------------------------------------------------------------------------------- whole files


def write_model(path, info, seed=3):
    """Writes a linear model of random weights, which does not see mirror images alike."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    kernel = np.random.default_rng(seed).normal(0, 0.3, (768, 10))
    model.get_layer("logits").set_weights([kernel, np.zeros(10)])
    ship(model, path, info)
    return path


def expected(path, data_dir, views):
    """(top-1, top-5, loss) of the views in float64, with NumPy alone."""
    selection = select(open_dataset(DATASET, "validation", data_dir=data_dir))
    images, labels = images_of(selection)
    kernel = keras.saving.load_model(path).get_layer("logits").get_weights()[0]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shown = {"plain": (images, 1.0)}
    if views == "mirror":
        shown = {"plain": (images, 0.5)}
    if views == "shift":
        shown = {
            "plain": (images, 0.25),
            "down": (padded[:, :16, :16], 0.125),
            "up": (padded[:, 2:, 2:], 0.125),
        }
    total = 0
    for pixels, weight in shown.values():
        for side in (pixels, pixels[:, :, ::-1]) if views != "none" else (pixels,):
            logits = side.reshape(len(side), -1) / 255 @ kernel.astype("float64")
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            total = total + weight * powers / powers.sum(axis=1, keepdims=True)
    own = total[np.arange(len(labels)), labels]
    rank = (total > own[:, None]).sum(axis=1)
    return 100 * np.mean(rank < 1), 100 * np.mean(rank < 5), -np.log(own).mean()


@pytest.mark.backend
@pytest.mark.parametrize("views", [pytest.param("mirror", marks=pytest.mark.slow), "shift"])
def test_views_are_scored_beside_the_image_itself(views, data_dir, tmp_path):
    """The last batch is not full: 40 images in batches of 128 and of 42."""
    path = write_model(tmp_path / "m.keras", ModelInfo(dataset=DATASET))
    plain = evaluate(path, data_dir=data_dir)
    both = evaluate(path, data_dir=data_dir, views=views)
    assert plain["views"] == "none" and "top1_views" not in plain
    assert both["views"] == views
    assert {key: both[key] for key in plain if key != "views"} == {
        key: plain[key] for key in plain if key != "views"
    }
    assert (plain["top1"], plain["loss"]) == pytest.approx(
        expected(path, data_dir, "none")[::2], rel=1e-4
    )
    found = (both["top1_views"], both["top5_views"], both["loss_views"])
    assert found == pytest.approx(expected(path, data_dir, views), rel=1e-4)
    assert both["loss_views"] != pytest.approx(both["loss"], rel=1e-2)


def test_several_batches_and_a_part_of_one_give_the_same(data_dir, tmp_path, monkeypatch):
    path = write_model(tmp_path / "m.keras", ModelInfo(dataset=DATASET))
    whole = evaluate(path, data_dir=data_dir, views="shift")
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 54)  # 9 images of 6 views: 4 batches and 4 images
    parts = evaluate(path, data_dir=data_dir, views="shift")
    assert parts["top1_views"] == whole["top1_views"]
    assert parts["loss_views"] == pytest.approx(whole["loss_views"], rel=1e-5)


def test_a_model_file_says_which_views_and_the_caller_may_say_otherwise(data_dir, tmp_path):
    path = write_model(tmp_path / "m.keras", ModelInfo(dataset=DATASET, views="mirror"))
    assert evaluate(path, data_dir=data_dir)["views"] == "mirror"
    assert evaluate(path, data_dir=data_dir, views="none")["views"] == "none"
    assert evaluate(path, data_dir=data_dir, views="shift")["views"] == "shift"
    ten = evaluate(path, data_dir=data_dir, ten_crop=True)
    assert (ten["crops"], ten["views"]) == (10, "none")


def test_views_and_ten_crops_exclude_each_other(data_dir, tmp_path):
    path = write_model(tmp_path / "m.keras", ModelInfo(dataset=DATASET, ten_crop=True))
    with pytest.raises(UserError, match='"mirror" and ten crops exclude each other'):
        evaluate(path, data_dir=data_dir, views="mirror")
    one = evaluate(path, data_dir=data_dir, views="mirror", ten_crop=False)
    assert (one["crops"], one["views"]) == (1, "mirror")


def test_images_of_any_size_have_ten_crops_instead(tmp_path):
    indexed(tmp_path)
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    ship(model, tmp_path / "m.keras", ModelInfo(views="mirror"))
    arguments = {"dataset": "image_folder/toy", "data_dir": tmp_path / "data"}
    with pytest.raises(UserError, match=r"views \"shift\" are for images of one size.* --ten-crop"):
        evaluate(tmp_path / "m.keras", views="shift", **arguments)
    assert evaluate(tmp_path / "m.keras", **arguments)["views"] == "none"


def test_one_crop_of_an_image_of_any_size_is_what_predict_shows(tmp_path):
    """The filter of ten crops enlarges, and one crop is the whole image, which is shrunk."""
    indexed(tmp_path)
    store = open_dataset("image_folder/toy", "validation", data_dir=tmp_path / "data")
    info = ModelInfo(image_size=16, resize_filter="bicubic", ten_crop=True)
    ten = View(16, "bicubic", ten_crop=True)
    assert choose_view(info, store, 16, None, "m.keras") == ten
    assert choose_view(info, store, 16, False, "m.keras") == ten.one_crop == View(16, "box")


def test_a_view_that_does_not_exist_is_refused(data_dir, tmp_path):
    path = write_model(tmp_path / "m.keras", ModelInfo(dataset=DATASET))
    with pytest.raises(UserError, match=r'no views "miror": did you mean "mirror"'):
        evaluate(path, data_dir=data_dir, views="miror")


# ----------------------------------------------------------------------------------------- a run


def test_a_run_scores_its_views_and_its_epochs_do_not(small_recipe, data_dir, tmp_path):
    """The only epoch and the file are scored on the same images with the same weights."""
    recipe = small_recipe(evaluation={"views": "shift"}, train={"epochs": 1})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    metrics = run.metrics
    assert metrics["views"] == model_info(run.model)["views"] == "shift"
    for file in ("model.keras", "best.keras"):
        assert metrics[file]["loss"] == pytest.approx(float(run.history[0]["val_loss"]), rel=1e-5)
        assert metrics[file]["loss_views"] != pytest.approx(metrics[file]["loss"], rel=1e-4)
    plain = evaluate(run.path, data_dir=data_dir, views="none")
    assert plain["loss"] == metrics["model.keras"]["loss"] and "top1_views" not in plain
    again = evaluate(run.path, data_dir=data_dir)
    assert again["loss_views"] == metrics["model.keras"]["loss_views"]
    assert "evaluation" in run.recipe_file.read_text()


def test_predict_shows_the_image_itself_alone(data_dir, tmp_path):
    image = tmp_path / "noise.png"
    keras.utils.save_img(image, np.random.default_rng(0).integers(0, 256, (16, 16, 3)), scale=False)
    paths = [
        write_model(tmp_path / f"{views}.keras", ModelInfo(dataset=DATASET, views=views))
        for views in (None, "shift")
    ]
    plain, other = (predict(path, image)["images"][0]["top"] for path in paths)
    assert plain == other
