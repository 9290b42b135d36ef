"""The stem of a ResNet: chosen by the image size, stated in what runs record, kept in old runs."""

import tomllib
from dataclasses import replace

import keras
import pytest

from keras_imnet64.core.errors import Stopped, UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.load import load_model
from keras_imnet64.models.options import ResNetOptions
from keras_imnet64.recipe.listing import facts
from keras_imnet64.recipe.loading import check_recipe, list_recipes, load_recipe
from keras_imnet64.training.fit import fit
from keras_imnet64.training.setup import training_setup
from keras_imnet64.training.state import list_checkpoints, load_checkpoint, save_checkpoint

SHIPPED = {  # the stems of recipes that were shipped when "imagenet" was the default
    "resnet18_128": "imagenet",
    "resnet34": "imagenet",
    "resnet34_21k": "imagenet",
    "resnet50": "imagenet",
    "resnet50_21k": "imagenet",
    "spectral_resnet34_21k_sub36": "small",
    "spectral_resnet34_21k_sub36_step": "small",
    "spectral_resnet34_sub16": "small",
    "spectral_resnet34_sub4": "imagenet",
    "spectral_resnet50_21k_sub36": "small",
    "spectral_resnet50_21k_sub36_step": "small",
    "spectral_resnet50_sub16": "small",
    "spectral_resnet50_sub4": "imagenet",
    "tiny20_resnet18": "small_pool",
    "tiny20_wide_resnet50_2": "small_pool",
    "wide_resnet50_2_64": "small_pool",
}


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Stopped("here")


def network_in(content):
    """The table of a recipe's network, or of the one behind its bands."""
    return content["model"].get("base", content["model"])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_mean_what_they_meant(name):
    recipe = load_recipe(name)
    model = recipe.model
    assert getattr(model, "base", model).stem == SHIPPED[name]


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_of_resnets_state_their_stem(name):
    content = tomllib.loads(load_recipe(name).to_toml())
    if network_in(content)["name"] in ResNetOptions.tags():
        assert network_in(content)["stem"] in ("imagenet", "small", "small_pool")


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (32, 3), (64, 3), (65, 7), (224, 7)])
def test_a_network_takes_its_stem_by_the_size(size, kernel):
    with without_weights():
        model = build_model("resnet18", image_size=size, num_classes=3)
    assert model.get_layer("stem_conv").kernel_size == (kernel, kernel)
    assert ("stem_pool" in {layer.name for layer in model.layers}) == (kernel == 7)


@pytest.mark.parametrize(
    ("dataset", "size", "model", "stem"),
    [
        ("imagenet_resized/64x64", None, {"name": "resnet18"}, "small"),
        ("imagenet_resized/64x64", None, {"name": "resnet18", "stem": "auto"}, "small"),
        ("imagenet_resized/64x64", None, {"name": "resnet18", "stem": "imagenet"}, "imagenet"),
        ("imagenet2012", 64, {"name": "resnet50"}, "small"),
        ("imagenet2012", 128, {"name": "resnet50"}, "imagenet"),
        ("imagenet2012", 128, {"name": "spectral", "factor": 2}, "small"),  # bands of 64 pixels
        ("imagenet2012", 256, {"name": "spectral", "factor": 2}, "imagenet"),
    ],
)
def test_a_recipe_records_the_stem_taken(dataset, size, model, stem, small_recipe):
    if model["name"] == "spectral":
        model["base"] = {"name": "resnet18"}
    data = {"dataset": dataset} | ({"image_size": size} if size else {})
    recipe = small_recipe(model=model, data=data, augment=[])
    assert network_in(tomllib.loads(recipe.to_toml()))["stem"] == stem
    assert network_in(recipe.without_results())["stem"] == stem
    assert f"stem={stem}" in facts(recipe)["model"]
    assert check_recipe(tomllib.loads(recipe.to_toml())) == recipe


def test_a_recipe_that_a_program_changed_is_checked_and_records_the_stem_taken(
    small_recipe, data_dir, tmp_path, slimmer
):
    recipe = small_recipe(train={"epochs": 1})
    changed = recipe.model_copy(update={"model": ResNetOptions(name="resnet18")})
    assert changed.model.stem == "auto"
    setup = training_setup(changed, data_dir=data_dir)
    assert setup.recipe.model.stem == "small"
    with pytest.raises(Stopped):
        fit(changed, tmp_path / "run", data_dir=data_dir, callbacks=[StopAt(0)])
    recorded = tmp_path / "run" / "recipe.toml"
    assert network_in(tomllib.loads(recorded.read_text()))["stem"] == "small"
    assert load_recipe(recorded).model == setup.recipe.model
    train = recipe.train.model_copy(update={"average_last": 2})
    for call in (training_setup, lambda wrong: fit(wrong, tmp_path / "other")):
        with pytest.raises(
            UserError, match=r"^recipe small: train\.average_last must be at most the 1 epochs"
        ):
            call(recipe.model_copy(update={"train": train}))


def without_stem(recipe):
    """What an earlier version wrote of this recipe where the stem was not stated."""
    lines = recipe.to_toml().splitlines()
    assert 'stem = "imagenet"' in lines
    return "\n".join(line for line in lines if not line.startswith("stem = ")) + "\n"


@pytest.mark.parametrize(
    "model",
    [
        {"name": "resnet18", "stem": "imagenet"},
        {"name": "spectral", "factor": 2, "base": {"name": "resnet18", "stem": "imagenet"}},
    ],
    ids=["resnet", "spectral"],
)
def test_what_a_run_of_an_earlier_version_recorded_keeps_its_stem(model, small_recipe, tmp_path):
    recipe = small_recipe(model=model)
    (tmp_path / "any.toml").write_text(without_stem(recipe))
    assert load_recipe(tmp_path / "any.toml") == recipe
    changed = load_recipe(tmp_path / "any.toml", ['model={name="resnet50"}'])
    assert network_in(changed.model_dump())["stem"] == "small"  # another network is a new one


def test_a_recipe_that_somebody_wrote_takes_the_new_stem(tmp_path):
    text = """
        model = {name = "resnet18", normalization = "dataset"}
        data = {dataset = "tiny_imagenet", batch_size = 32, mirror = "random"}
        loss = {label_smoothing = 0.1}
        optimizer = {name = "sgd", learning_rate = 0.1}
        train = {epochs = 3, seed = 1, dtype = "mixed_bfloat16"}
    """
    (tmp_path / "recipe.toml").write_text(text)
    assert load_recipe(tmp_path / "recipe.toml").model.stem == "small"


def test_a_run_of_an_earlier_version_resumes_with_its_stem(
    small_recipe, data_dir, tmp_path, slimmer
):
    """Neither its recipe.toml nor its checkpoint state the stem."""

    words = {"data": {"steps_per_epoch": 1}, "train": {"epochs": 2}}
    recipe = small_recipe(model={"name": "resnet18", "stem": "imagenet"}, **words)
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        fit(recipe, folder, data_dir=data_dir, callbacks=[StopAt(1)])
    (folder / "recipe.toml").write_text(without_stem(recipe))
    for path in list_checkpoints(folder / "checkpoints"):
        checkpoint = load_checkpoint(path)
        decided = dict(checkpoint.run_state.recipe)
        assert decided.pop("model.stem") == "imagenet"
        state = replace(checkpoint.run_state, recipe=decided)
        save_checkpoint(path.parent, checkpoint.arrays, state)

    auto = small_recipe(model={"name": "resnet18"}, **words)
    with pytest.raises(UserError, match=r"another recipe \(model\.stem: imagenet -> small\)"):
        fit(auto, folder, data_dir=data_dir)
    run = fit(load_recipe(folder / "recipe.toml"), folder, data_dir=data_dir)
    assert load_model(run.model).get_layer("stem_conv").kernel_size == (7, 7)
    assert [row["epoch"] for row in run.history] == ["1", "2"]
