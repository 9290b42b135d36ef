"""The table of recipes' costs: every row true and none missing, and when it is not asked."""

import json

import pytest

from keras_imnet64.recipe import costs as recipe_costs
from keras_imnet64.recipe.costs import (
    costs_of,
    images_of_epoch,
    macs_of_run,
    measure,
    read_table,
    write_table,
)
from keras_imnet64.recipe.listing import facts, in_words
from keras_imnet64.recipe.loading import list_recipes, load_recipe

REGENERATE = "run `python -m keras_imnet64.recipe.costs` and commit recipes/costs.json"


MEASURED = {}  # by network: recipes that share one build it once


def ways_of_counting():
    """Recipes of which the first of each kind of network counts as no other does."""
    seen = set()
    for name in list_recipes():
        recipe = load_recipe(name)
        base = getattr(recipe.model, "base", None)
        kind = (type(recipe.model), type(base), recipe.train.freeze, bool(recipe.smaller_sizes))
        yield pytest.param(name, marks=[pytest.mark.slow] if kind in seen else [])
        seen.add(kind)


@pytest.fixture
def never_built(monkeypatch):
    def refuse(recipe):
        raise AssertionError(f"{recipe.name} was built")

    monkeypatch.setattr(recipe_costs, "measure", refuse)


@pytest.mark.parametrize("name", ways_of_counting())
def test_the_table_is_true(name):
    row, recipe = read_table()[name], load_recipe(name)
    network = recipe_costs.network_of(recipe)
    if network not in MEASURED:
        MEASURED[network] = measure(recipe)
    assert row == MEASURED[network], f"{name} costs something else: {REGENERATE}"


def test_the_table_has_a_row_for_each_recipe_and_one_for_each_network():
    table, of_networks = read_table(), {}
    assert table.keys() == set(list_recipes()), REGENERATE
    for name, row in table.items():
        recipe = load_recipe(name)
        assert of_networks.setdefault(recipe_costs.network_of(recipe), row) == row, name
        sizes = {str(size) for size in recipe.smaller_sizes}
        assert row.keys() == {"parameters", "macs"} | ({"smaller"} if sizes else set()), name
        assert row.get("smaller", {}).keys() == sizes, f"{name}: {REGENERATE}"


def test_published_figures():
    table = read_table()
    assert round(table["wrn36_5"]["macs"] / 1e9, 3) == 7.054
    assert round(table["wrn28_10"]["macs"] / 1e9, 3) == 5.244
    assert round(table["wrn20_10"]["macs"] / 1e9, 3) == 0.866
    parameters = {name: row["parameters"] for name, row in table.items()}
    assert parameters["wrn36_5"] == 37_638_264
    assert parameters["wrn36_2"] == 6_185_784
    assert parameters["wrn28_10"] == 37_118_264
    assert parameters["wrn28_2"] == 1_596_216
    assert parameters["wrn20_10"] == 8_932_664


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.epochs = 2", 'name = "mine"'],
        ['model.normalization = "dataset"', "model.dropout = 0.0"],
        ["data.classes = 1000"],
    ],
)
def test_a_known_network_is_looked_up(never_built, overrides):
    assert costs_of(load_recipe("wrn36_2", overrides)) == read_table()["wrn36_2"]


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        (["data.classes = 10"], 1_596_216 - 990 * (128 + 1)),  # 128 features and a bias per class
        (["model.width = 1"], 434_552),
        (
            ['data.dataset = "imagenet_resized/64x64"', "model.depth = 36", "model.width = 1"],
            1_615_224,
        ),
    ],
)
def test_another_network_is_built(overrides, parameters):
    recipe = load_recipe("wrn28_2", overrides)
    assert costs_of(recipe) == measure(recipe)
    assert costs_of(recipe)["parameters"] == parameters


def test_what_is_returned_is_the_callers_own():
    costs_of(load_recipe("demo"))["macs"] = 0
    assert costs_of(load_recipe("demo")) == read_table()["demo"]


def test_the_table_is_written_a_row_per_line(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_costs, "table_file", lambda: tmp_path / "costs.json")
    monkeypatch.setattr(recipe_costs, "measure", lambda recipe: {"parameters": 1, "macs": 2})
    write_table()
    text = (tmp_path / "costs.json").read_text()
    assert list(json.loads(text)) == list_recipes()
    assert text.count("\n") == len(list_recipes()) + 2


def test_macs_of_a_run_count_each_epoch_at_its_size():
    """20 steps of 64 images: 2 epochs at 32 pixels, of a quarter of the products, and 2 at 64."""
    sizes = "train.sizes = [[0.0, 32], [0.5, 64]]"
    changes = ["train.epochs = 4", "data.steps_per_epoch = 20"]
    recipe = load_recipe("tiny20_wrn", [sizes, *changes])
    costs, full = costs_of(recipe), read_table()["tiny20_wrn"]["macs"]
    per_class = 128 * 20  # of the dense layer, which does not shrink
    assert costs["macs"] == full
    assert costs["smaller"] == {"32": (full - per_class) // 4 + per_class}
    assert macs_of_run(recipe, costs) == 2 * 20 * 64 * (costs["smaller"]["32"] + full)
    plain = load_recipe("tiny20_wrn", changes)
    assert macs_of_run(plain, costs_of(plain)) == 4 * 20 * 64 * full
    below = load_recipe("tiny20_wrn", ["train.sizes = [[0.0, 32]]", *changes])
    assert costs_of(below) == costs
    assert macs_of_run(below, costs) == 4 * 20 * 64 * costs["smaller"]["32"]


@pytest.mark.parametrize(
    ("overrides", "images"),
    [
        (["data.classes = 200"], 100_000 // 64 * 64),
        (["data.classes = 200", 'data.mirror = "both"'], 200_000 // 64 * 64),
        (["data.classes = 200", "data.holdout = 40"], 99_960 // 64 * 64),
        (
            ["data.classes = 200", "data.holdout = 40", 'data.mirror = "both"'],
            199_920 // 64 * 64,
        ),
        (["data.classes = 20"], None),  # whose number no table tells
        (["data.classes = 20", "data.steps_per_epoch = 3"], 3 * 64),
    ],
)
def test_images_of_an_epoch(overrides, images):
    assert images_of_epoch(load_recipe("tiny20_wrn", overrides)) == images


def test_a_listing_tells_the_sizes():
    sizes = "train.sizes = [[0.0, 32], [0.5, 64]]"
    recipe = load_recipe("tiny20_wrn", [sizes, "train.epochs = 4", "data.steps_per_epoch = 20"])
    lines = list(in_words(facts(recipe)))
    assert "sizes       epochs: 2 at 32 px (0.016 G), then 2 at 64 px (0.066 G)" in lines
    # 2 x 20 x 64 images of 16,435,712 and as many of 65,735,168 products
    assert "run         0.21 T multiply-accumulates in all forward passes of training" in lines


def test_a_listing_tells_a_size_below_that_of_the_model():
    recipe = load_recipe("tiny20_wrn", ["train.sizes = [[0.0, 32]]", "train.epochs = 4"])
    lines = list(in_words(facts(recipe)))
    assert "data        tiny_imagenet, 20 classes, 64 px" in lines
    assert "sizes       epochs: 4 at 32 px (0.016 G)" in lines
