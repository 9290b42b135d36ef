"""The JSON Schema of recipes: shipped ones fit it, and what is refused here is refused there."""

import copy
import json
import re
import tomllib

import pytest

from keras_imnet64.recipe.json_schema import json_schema
from keras_imnet64.recipe.loading import list_recipes, recipes_dir

SCHEMA = json_schema()
TYPES = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}


def fits(value, schema):
    """Whether a value fits a schema, by the keywords of JSON Schema that ours uses."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return fits(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "oneOf" in schema and sum(fits(value, member) for member in schema["oneOf"]) != 1:
        return False
    if "anyOf" in schema and not any(fits(value, member) for member in schema["anyOf"]):
        return False
    if "not" in schema and fits(value, schema["not"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    return of_type(value, schema.get("type")) and within(value, schema)


def of_type(value, name):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in ("number", "integer"):
        return number and (name == "number" or isinstance(value, int))
    return name is None or isinstance(value, TYPES[name])


def within(value, schema):
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= set(value) and all(
            fits(inner, properties.get(key, others)) for key, inner in value.items()
        )
    if isinstance(value, list):
        lengths = schema.get("minItems", 0), schema.get("maxItems", len(value))
        return lengths[0] <= len(value) <= lengths[1] and all(
            fits(inner, schema.get("items", True)) for inner in value
        )
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None
    return value is None or (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and schema.get("exclusiveMinimum", value - 1) < value
        and value < schema.get("exclusiveMaximum", value + 1)
    )


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_fit(name):
    assert fits(tomllib.loads((recipes_dir() / f"{name}.toml").read_text()), SCHEMA)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("model", "dept", 12),
        ("model", "depth", "12"),
        ("model", "name", "resnet18"),  # which has no depth
        ("data", "batch_size", 0),
        ("data", "mirror", "both ways"),
        ("optimizer", "momentum", 1.0),
        ("optimizer", "beta_1", 0.9),  # which is AdamW's
        ("schedule", "epochs", [1]),
        ("train", "checkpoint_every", "daily"),
        ("measured", "tensorflow", {"top": 1.0}),
    ],
)
def test_mistakes_do_not_fit(table, key, value):
    content = tomllib.loads((recipes_dir() / "demo.toml").read_text())
    assert fits(content, SCHEMA)
    content[table][key] = value
    assert not fits(content, SCHEMA)


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "pad_crops"}],
        [{"op": "pad_crop", "paddin": 4}],
        [{"op": "random_rotation"}],
        [{"layer": "os.system"}],
        [{"op": "pad_crop", "layer": "keras.layers.RandomFlip"}],
        [{}],
    ],
)
def test_mistakes_in_steps_do_not_fit(steps):
    content = tomllib.loads((recipes_dir() / "demo.toml").read_text())
    assert not fits(content | {"augment": steps}, SCHEMA)


def test_a_base_has_no_normalization():
    content = tomllib.loads((recipes_dir() / "spectral_resnet34_sub4.toml").read_text())
    wrong = copy.deepcopy(content)
    wrong["model"]["base"]["normalization"] = "imagenet"
    assert fits(content, SCHEMA)
    assert not fits(wrong, SCHEMA)


def test_a_schedule_without_a_name_is_constant():
    content = tomllib.loads((recipes_dir() / "demo.toml").read_text())
    assert fits(content | {"schedule": {"warmup_epochs": 1}}, SCHEMA)


def test_fields_are_described():
    holdout = SCHEMA["$defs"]["DataSection"]["properties"]["holdout"]
    assert holdout["description"] == "Training images that are held out for model selection."
    momentum = SCHEMA["$defs"]["MuonOptions"]["properties"]
    assert momentum["learning_rate"]["description"] == "The peak of the schedule."  # inherited


def test_the_command_prints_it(run):
    status, out, err = run("recipes", "schema")
    assert (status, err) == (0, "")
    assert json.loads(out) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
