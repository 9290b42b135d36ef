"""Recipes and overrides of any content: each works or is refused in one line."""

import os
import tomllib

import pytest
from fuzzing import NUMBERS, damage, edited, fuzz, works_or_is_refused
from hypothesis import given
from hypothesis import strategies as st

from keras_imnet64.core.errors import UserError, printable
from keras_imnet64.recipe.loading import check_recipe, list_recipes, load_recipe, recipes_dir
from keras_imnet64.recipe.optimizers import OPTIMIZER_TABLES, SCHEDULE_TABLES
from keras_imnet64.training.build import check_training

TOML = st.recursive(
    st.booleans() | NUMBERS | st.text(max_size=12) | st.dates() | st.datetimes() | st.times(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
WORDS = st.sampled_from(["sgd", "adamw", "muon", "step", "cosine", "one_cycle", "plateau", "", "a"])
VALUES = TOML | WORDS | st.floats(-2, 2) | st.lists(NUMBERS | st.text(max_size=3), max_size=3)


def shipped(name):
    return (recipes_dir() / f"{name}.toml").read_bytes()


def as_trained(recipe):
    """Whether what the recipe says can be trained, and is what its run folder will say."""
    if recipe:
        works_or_is_refused(check_training, recipe)
        again = tomllib.loads(recipe.to_toml())
        assert check_recipe(again) == recipe


def test_recipes_of_any_bytes(tmp_path):
    path = tmp_path / "mine.toml"

    @fuzz(150)
    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | damage(shipped("demo")))
    def try_one(content):
        path.write_bytes(content)
        as_trained(works_or_is_refused(load_recipe, path))

    try_one()


def check_changed(changed):
    if isinstance(changed, dict):
        as_trained(works_or_is_refused(check_recipe, changed))


def content_of(name):
    return tomllib.loads(shipped(name).decode()) | {"name": name}


def test_recipes_with_any_value_anywhere():
    """Of some recipes, since they have most tables in common."""
    changed = st.sampled_from(list_recipes()).flatmap(lambda n: edited(content_of(n), VALUES))
    fuzz(100)(given(changed)(check_changed))()


@pytest.mark.slow
@pytest.mark.parametrize("name", list_recipes())
def test_each_recipe_with_any_value_anywhere(name):
    fuzz(300)(given(edited(content_of(name), VALUES))(check_changed))()


OPTIONS = [
    *[("optimizer", n, option) for n, t in OPTIMIZER_TABLES.items() for option in t.model_fields],
    *[("schedule", n, option) for n, t in SCHEDULE_TABLES.items() for option in t.model_fields],
]


def test_options_of_any_value():
    content = tomllib.loads(shipped("demo").decode()) | {"name": "demo"}

    @fuzz(80)
    @given(st.sampled_from(OPTIONS), VALUES)
    def try_one(option, value):
        table, name, key = option
        others = {"learning_rate": 0.1} if table == "optimizer" else {}
        changed = content | {table: others | {"name": name, key: value}}
        as_trained(works_or_is_refused(check_recipe, changed))

    try_one()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\x01\x01\x00\xff", "cannot be read as TOML"),
        (b"a." * 100_000 + b"a = 1", "a key has more than 16 parts"),
        (b'"\\""."a b".' * 1000 + b"a = 1", "a key has more than 16 parts"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"[" * 50 + b"]" * 50, "at most 16 tables"),
        (b"a = " + b"9" * 5000, "cannot be read as TOML"),
        (b"train.seed = 0x" + b"f" * 5000, "train.seed must be a number of at most 63 bits"),
        (b"train.seed = 9_223_372_036_854_775_808", "at most 63 bits"),
        (b"optimizer.momentum = [nan]", "optimizer.momentum must be a finite number"),
        (b"optimizer.momentum = 1979-05-27", "optimizer.momentum must be a number, text, list"),
        (b"#" + b" " * 2**20, "more than 1,048,576"),
    ],
)
def test_recipes_that_are_refused(content, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        load_recipe(path)
    assert message in str(refusal.value) and "mine" in str(refusal.value)
    assert printable(refusal.value) == str(refusal.value) and len(str(refusal.value)) < 1600


def test_what_is_no_file_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for path in (tmp_path / "pipe.toml", tmp_path / "folder.toml", "/dev/zero", "~nobody/a.toml"):
        with pytest.raises(UserError, match=r"is not a (regular )?file|is not known"):
            load_recipe(path)
    for path in ("a\0/b.toml", "/" + "x" * 300 + ".toml", "", "."):
        works_or_is_refused(load_recipe, path)


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "demo.toml").write_bytes(b"\xef\xbb\xbf" + shipped("demo"))
    assert load_recipe(tmp_path / "demo.toml") == load_recipe("demo")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-rf", " a", "a/b", "a\\b", "a\nb", "a\0", "\udcff", "x" * 101],
)
def test_names_that_are_no_folders(name):
    content = tomllib.loads(shipped("demo").decode()) | {"name": name}
    with pytest.raises(UserError, match="name must be"):
        check_recipe(content)


def test_overrides_of_any_text():
    keys = st.sampled_from(["train", "train.epochs", "augment", "model.normalization", "name", "x"])
    lines = st.text(max_size=30) | st.builds("{}={}".format, keys, st.text(max_size=12))

    @fuzz(400)
    @given(st.lists(lines, min_size=1, max_size=2))
    def try_one(overrides):
        as_trained(works_or_is_refused(load_recipe, "demo", overrides))

    try_one()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train.epochs", "--set takes key=value"),
        ("=1", "--set takes key=value"),
        ("a..b=1", "--set takes key=value"),
        ("[train]=1", "--set takes key=value"),
        ("train.epochs=1\rtrain.seed=2", "--set takes key=value"),
        ("train.epochs=1\ntrain.seed=2", "--set takes key=value"),
        ("train.seed # x = 1", "--set takes key=value"),
        ("a." * 1000 + "b=1", "--set takes key=value"),
        ("a=" + "[" * 10_000, "--set takes key=value"),
        ("train=3", "train must be a table; received 3"),
        ("train.epochs.x=3", "train.epochs must be a whole number"),
        ("augment.padding=3", "augment must be a list"),
        ("augment=[3]", "augment.0 must be a table"),
        (
            "train.epochs=2_000_000_000",
            "train.epochs must be a whole number from 1 to 1,000,000,000",
        ),
        ("schedule.name='step'", 'schedule "step" needs a value for epochs'),
        ("train.epochs='\udcff'", "train.epochs must be text in UTF-8"),
        ("model.name='os.system'", 'model.name "os.system" is not known'),
        ("optimizer.system='mkdir x'", 'optimizer.system is not an option of "muon"'),
    ],
)
def test_overrides_that_are_refused(line, message):
    with pytest.raises(UserError) as refusal:
        check_training(load_recipe("demo", [line]))
    assert message in str(refusal.value)
    assert printable(refusal.value) == str(refusal.value) and len(str(refusal.value)) < 1600


def test_an_override_may_end_in_a_comment_or_be_a_table():
    assert load_recipe("demo", ["train.epochs=2 # quick"]).train.epochs == 2
    assert load_recipe("demo", ["train={epochs=2}"]).train.epochs == 2
