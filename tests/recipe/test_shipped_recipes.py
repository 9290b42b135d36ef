"""Every shipped recipe: two real steps of a narrow one on stand-ins, on every backend.

Built at full size they are in test_recipe_costs.
"""

import json

import numpy as np
import pytest
from conftest import WNIDS, write_images

from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.recipe.loading import check_recipe, list_recipes, load_recipe
from keras_imnet64.training.fit import fit

RUN = set()  # what is left of a recipe here; some become the same


@pytest.mark.backend
@pytest.mark.parametrize("name", list_recipes())
def test_two_real_steps(name, tmp_path, slimmer):
    """All of the recipe but its network's size, its classes and its length."""
    recipe = load_recipe(name)
    size = find_dataset(recipe.data.dataset).image_size or 32  # small ones stand in for JPEGs
    content = recipe.model_dump(exclude_none=True, exclude={"reference", "measured"})
    network, factor = content["model"], 1
    if network["name"] == "spectral":  # one branch of four
        network["factor"], network["band"] = factor, _ = 2, 1
        network = network["base"]
    if network["name"] != "wide_resnet":
        size = min(size, 32)  # their widths are not ours to change, and JAX compiles long
    else:
        size //= factor
        stages = network.get("stages") or round(np.log2(size / 4))
        network |= {"width": 0.5, "depth": 4 + 2 * stages}
    size *= factor
    content["data"] |= {
        "dataset": f"imagenet_resized/{size}x{size}",
        "batch_size": 8,
        "steps_per_epoch": 2,
        "holdout": min(8, recipe.data.holdout),
        "classes": min(len(WNIDS), recipe.data.classes or len(WNIDS)),
    }
    content["data"].pop("image_size", None)
    content["evaluation"] = {"ten_crop": recipe.evaluation.ten_crop}
    content["train"] |= {"epochs": 1}
    if recipe.train.sizes:
        *_, (_, last) = recipe.train.sizes
        content["train"]["sizes"] = [[0.0, size * last // recipe.image_size]]
    content["schedule"]["warmup_epochs"] = 0.0  # so short a run has none
    for option in ("warmup_learning_rate", "spans_warmup"):
        content["schedule"].pop(option, None)
    alike = json.dumps(content | {"name": "any"}, sort_keys=True)
    if alike in RUN:
        return
    data_dir = write_images(tmp_path / "data", size, train=24, validation=10)
    run = fit(check_recipe(content), tmp_path / "run", data_dir=data_dir)
    assert [row["step"] for row in run.history] == ["2"]
    assert run.metrics["model.keras"]["count"] == 10
    RUN.add(alike)
