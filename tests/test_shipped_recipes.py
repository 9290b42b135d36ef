"""Every shipped recipe: built at full size, and two real steps of a narrow one on stand-ins."""

import keras
import numpy as np
import pytest
from conftest import WNIDS, write_pictures

from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.models import build_model
from keras_imnet64.recipe import check_recipe, list_recipes, load_recipe
from keras_imnet64.training.fit import fit

PARAMETERS = {
    "demo": 308_874,
    "tiny20_wrn": 310_164,
    "tiny20_wrn_cutout": 310_164,
    "wrn36_5": 37_638_264,
    "wrn36_5_modern": 37_638_264,
    "wrn36_2": 6_185_784,
    "wrn28_10": 37_118_264,
    "wrn28_2": 1_596_216,
    "wrn20_10": 8_932_664,
}


@pytest.mark.parametrize("name", list_recipes())
def test_full_size(name):
    recipe = load_recipe(name)
    dataset = find_dataset(recipe.data.dataset)
    model = build_model(
        recipe.model.name,
        image_size=dataset.image_size,
        num_classes=recipe.data.classes or dataset.num_classes,
        dtype=recipe.train.dtype,
        **recipe.model.options,
    )
    outputs = model(keras.KerasTensor((recipe.data.batch_size, *model.input_shape[1:]), "float32"))
    assert outputs.shape == (recipe.data.batch_size, model.output_shape[1])
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == PARAMETERS[name]


@pytest.mark.backend
@pytest.mark.parametrize("name", list_recipes())
def test_two_real_steps(name, tmp_path):
    """All of the recipe but its width, classes and length, on pictures of its size."""
    recipe = load_recipe(name)
    size = find_dataset(recipe.data.dataset).image_size
    content = recipe.model_dump(exclude_none=True, exclude={"reference", "measured"})
    content["model"] |= {"width": 0.5, "depth": 4 + 2 * round(np.log2(size / 4))}
    content["data"] |= {
        "dataset": f"imagenet_resized/{size}x{size}",
        "batch_size": 8,
        "steps_per_epoch": 2,
        "holdout": min(8, recipe.data.holdout),
        "classes": min(len(WNIDS), recipe.data.classes or len(WNIDS)),
    }
    content["train"] |= {"epochs": 1}
    content["schedule"]["warmup_epochs"] = 0.0
    data_dir = write_pictures(tmp_path / "data", size, train=24, validation=10)
    run = fit(check_recipe(content), tmp_path / "run", data_dir=data_dir)
    assert [row["step"] for row in run.history] == ["2"]
    assert run.metrics["model.keras"]["count"] == 10
