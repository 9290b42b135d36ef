"""What a sweep varies: lists of recipes by the types of their keys, --grid, and refusals."""

import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.loading import list_recipes, read_content
from keras_imnet64.sweep.axes import (
    Axis,
    check_axes,
    parse_axis,
    short_names,
    take_axes,
    value_text,
    with_values,
)


def axes_of(*settings):
    """{key: values} of the demo with these settings."""
    return {axis.key: axis.values for axis in take_axes(read_content("demo", settings))}


@pytest.mark.parametrize("name", list_recipes())
def test_no_list_of_a_shipped_recipe_is_swept(name):
    assert take_axes(read_content(name)) == []


def test_a_list_is_swept_where_the_type_takes_none():
    assert axes_of("optimizer.learning_rate=[0.1,0.2]", "train.epochs=[1,2]") == {
        "optimizer.learning_rate": (0.1, 0.2),
        "train.epochs": (1, 2),
    }
    assert axes_of('augment=[{op="pad_crop",padding=[2,4],fill="mean"}]') == {
        "augment.0.padding": (2, 4)
    }
    assert axes_of('optimizer.name=["sgd","muon"]') == {"optimizer.name": ("sgd", "muon")}


@pytest.mark.parametrize(
    "setting",
    [
        'schedule={name="step",epochs=[1,2]}',
        "train.sizes=[[0.0,32],[0.5,64]]",
        "model.normalization={mean=[0.5,0.5,0.5],std=[0.2,0.2,0.2]}",
        'augment=[{layer="keras_cv.layers.RandomCutout",height_factor=[0.1,0.2]}]',
        'optimizer.groups=[{variables="bn",learning_rate_factor=2.0}]',
        "augment=[]",
    ],
)
def test_a_list_is_a_value_where_the_type_takes_one(setting):
    assert axes_of(setting) == {}


def test_a_list_of_lists_is_swept_where_the_type_takes_a_list():
    setting = 'schedule={name="step",epochs=[[1,2],[2,3]]}'
    assert axes_of(setting) == {"schedule.epochs": ([1, 2], [2, 3])}
    sizes = [[[0.0, 32], [0.5, 64]], [[0.0, 64]]]
    assert axes_of(f"train.sizes={sizes}") == {"train.sizes": tuple(sizes)}


def test_grid_lines_are_toml():
    assert parse_axis("optimizer.learning_rate=0.01, 0.1") == Axis(
        ("optimizer", "learning_rate"), (0.01, 0.1)
    )
    assert parse_axis('optimizer.name="sgd","muon"').values == ("sgd", "muon")
    assert parse_axis("train.sizes=[[0.0,32],[0.5,64]]").values == ([[0.0, 32], [0.5, 64]],)
    assert parse_axis("augment.0.padding=2,4").path == ("augment", "0", "padding")
    for wrong in ("optimizer.name=sgd", "optimizer.learning_rate", "=1", "a b=1"):
        with pytest.raises(UserError, match="--grid takes key=value,value in TOML"):
            parse_axis(wrong)


def test_values_are_set_names_first():
    """Another optimizer drops the options of the one before, and others are set behind it."""
    content = read_content("demo", ["optimizer.nesterov=false"])
    axes = [parse_axis("optimizer.momentum=0.5,0.6"), parse_axis('optimizer.name="sgd","muon"')]
    changed = with_values(content, axes, [0.5, "sgd"], seed=7)
    assert changed["optimizer"] == {"name": "sgd", "learning_rate": 0.01, "momentum": 0.5}
    assert changed["train"]["seed"] == 7
    kept = with_values(content, axes, [0.6, "muon"], seed=None)["optimizer"]
    assert kept["nesterov"] is False and kept["momentum"] == 0.6
    assert content == read_content("demo", ["optimizer.nesterov=false"])  # which was copied


def test_tables_in_a_list_replace_each_other():
    models = '[{name="wide_resnet",depth=12,width=1},{name="wide_resnet",depth=18,width=2}]'
    content = read_content("demo", [f"model={models}"])
    (axis,) = take_axes(content)
    second = with_values(content, [axis], [axis.values[1]], seed=None)
    assert second["model"] == {"name": "wide_resnet", "depth": 18, "width": 2}


def test_a_table_of_a_list_is_named_by_its_number():
    content = read_content("demo")
    axis = parse_axis("augment.0.padding=2,8")
    assert with_values(content, [axis], [8], None)["augment"][0]["padding"] == 8
    rotated = parse_axis('augment.0.op="random_rotation","pad_crop"')
    degrees = parse_axis("augment.0.degrees=10.0,20.0")
    changed = with_values(content, [degrees, rotated], [20.0, "random_rotation"], None)
    assert changed["augment"] == [{"op": "random_rotation", "degrees": 20.0}]  # no padding is left
    for key in ("augment.1.padding", "augment.first.padding"):
        with pytest.raises(UserError, match=r"augment has 1, counted from 0; received (1|first)$"):
            with_values(content, [parse_axis(f"{key}=2,8")], [8], None)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["optimizer.learning_rate="], "optimizer.learning_rate has no values to try"),
        (["train.epochs=1,2,1"], "train.epochs has the value 1 twice"),
        (["data.holdout=10,20"], "a sweep cannot vary data.holdout, because its cells must be"),
        (['evaluation.views="none","mirror"'], "cannot vary evaluation.views, because"),
        (["train={epochs=1},{epochs=2}"], "cannot vary train as a whole, which has train.select"),
        (["train.epochs=1", "train.epochs=2"], "has train.epochs twice: give all"),
        (["model.width=1,2", "model={width=3}"], "varies model.width and model, and each sets"),
    ],
)
def test_axes_that_make_no_sense_are_refused(lines, sentence):
    with pytest.raises(UserError, match=sentence):
        check_axes([parse_axis(line) for line in lines])


def test_true_is_not_one():
    check_axes([Axis(("train", "remat"), (True, 1))])  # refused by the recipe, not as equal


def test_names_and_values_for_people():
    keys = ["optimizer.learning_rate", "model.name", "loss.size", "model.size"]
    shown = ["learning_rate", "model.name", "loss.size", "model.size"]
    assert list(short_names(keys).items()) == list(zip(keys, shown, strict=True))
    shown = [value_text(value) for value in (1e-4, 0.123456, 3, True, "sgd", [1, 2])]
    assert shown == ["0.0001", "0.1235", "3", "true", "sgd", "[1, 2]"]
