"""Finds recipes, reads them from TOML, applies overrides and checks them."""

import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from keras_imnet64.core.errors import UserError, nearest, reason
from keras_imnet64.core.files import decode_text, depth, read_small
from keras_imnet64.core.paths import expand
from keras_imnet64.core.tables import TaggedTable, parse_table
from keras_imnet64.core.types import Json, JsonObject, StrPath
from keras_imnet64.models import parse_network
from keras_imnet64.models.options import FILE, NetworkOptions, ResNetOptions
from keras_imnet64.recipe.optimizers import OptimizerOptions, ScheduleOptions
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.recipe.setting_names import settings_called

MAX_FILE_BYTES = 2**20  # shipped recipes have 2 KB
MAX_DEPTH = 16  # parts of a dotted key, and levels of nested tables and lists
NOT_IN_A_KEY = set("[]#\r")  # an override is one key and one value, not a table or a comment
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_PART}){{{MAX_DEPTH}}}")  # takes tomllib hours
TAGGED_TABLES: dict[str, type[TaggedTable]] = {  # their options depend on their name
    "model": NetworkOptions,
    "optimizer": OptimizerOptions,
    "schedule": ScheduleOptions,
}
# Settings that each run writes and hardly anybody else does, all of them at their defaults too.
RECORDED = {
    "model": {"name", "normalization"},
    "data": {"mirror", "holdout"},
    "loss": {"label_smoothing", "l2"},
    "train": {"dtype", "seed", "batch_norm", "ema", "accumulate_steps", "early_stopping"},
}


def recipes_dir() -> Path:
    """Returns the folder of the shipped recipes, which in the wheel is inside the package."""
    package = Path(__file__).parents[1]
    inside, beside = package / "recipes", package.parent / "recipes"
    return inside if inside.is_dir() else beside


def list_recipes() -> list[str]:
    """Returns the names of the shipped recipes."""
    files = os.listdir(recipes_dir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


@cache
def shipped_recipes() -> dict[str, Recipe]:
    """Returns all shipped recipes by name; they are read once."""
    return {name: load_recipe(name) for name in list_recipes()}


def load_recipe(name_or_path: StrPath, overrides: Iterable[str] = ()) -> Recipe:
    """Reads, overrides and checks a recipe.

    Args:
        name_or_path: a shipped recipe's name, or a path to a TOML file.
        overrides: lines of TOML such as "optimizer.learning_rate = 0.05".

    Raises:
        UserError: one sentence naming the recipe, the key, what was received and what would work.
    """
    return check_recipe(read_content(name_or_path, overrides))


def read_content(name_or_path: StrPath, overrides: Iterable[str] = ()) -> JsonObject:
    """Returns the nested plain values of a recipe with its overrides, which are not checked.

    Raises:
        UserError: there is no such recipe, its file is no TOML, or an override is not key=value.
    """
    path = find_recipe(name_or_path)
    if isinstance(overrides, str):
        raise UserError(f'overrides are a list of lines: pass ["{overrides}"]')
    try:
        content = parse_toml(decode_text(read_small(path, MAX_FILE_BYTES)))
    except (OSError, ValueError) as error:
        raise UserError(f"recipe {path} cannot be read as TOML: {reason(error)}") from error
    if is_record(content):
        keep_earlier_defaults(content["model"])
    changes: JsonObject = {}
    for line in overrides:
        merge(changes, parse_override(line))
    override(content, changes)
    content.setdefault("name", path.stem)
    return content


def parse_toml(text: str) -> JsonObject:
    """Returns nested plain values; ValueError if the text is no TOML or nested too deeply."""
    if DEEP_KEY.search(text):
        raise ValueError(f"a key has more than {MAX_DEPTH} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_record(content: JsonObject) -> bool:
    """Returns whether a run wrote this content as its `recipe.toml`, which states every setting."""
    return all(
        isinstance(content.get(table), dict) and keys <= content[table].keys()
        for table, keys in RECORDED.items()
    )


def keep_earlier_defaults(model: JsonObject) -> None:
    """Gives the ResNet of an earlier version's run the stem that was the default then.

    Runs state the stem since "auto" is the default; before, they left out "imagenet".
    """
    network = model.get("base") if model.get("name") == "spectral" else model
    if isinstance(network, dict) and network.get("name") in ResNetOptions.tags():
        network.setdefault("stem", "imagenet")


def check_recipe(content: JsonObject) -> Recipe:
    """Returns the recipe with these nested plain values; raises UserError if they are wrong."""
    try:
        _check_values(content)
        recipe = parse_table(Recipe, content)
    except UserError as error:
        raise UserError(f"recipe {content.get('name')}: {error}") from error
    return as_recipe(recipe)


def as_recipe(recipe: Recipe | StrPath) -> Recipe:
    """Returns a checked recipe as its run records it, from a recipe or its name or path.

    A program that changes a recipe with `model_copy` has neither checked it nor resolved its stem.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe)
    try:
        recipe.check()
    except UserError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from error
    return recipe.resolved()


def check_model(name: str, options: JsonObject) -> NetworkOptions:
    """Returns the table `model` of a network with these options; raises UserError."""
    _check_values({"model": options})
    return parse_network(name, options)


def _check_values(content: JsonObject) -> None:
    """Refuses values that no key of a recipe takes."""
    if depth(content) > MAX_DEPTH:
        raise UserError(f"it must have at most {MAX_DEPTH} tables within each other")
    for where, value in _keys_and_values(content):
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{where} must be a number of at most 63 bits; received a longer one")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where} must be a finite number; received {value}")
        if isinstance(value, str) and not _is_text(value):
            raise UserError(f"{where} must be text in UTF-8 without NUL; received {value!r}")
        if not isinstance(value, str | int | float | None):
            kind = type(value).__name__
            raise UserError(f"{where} must be a number, text, list or table; received a {kind}")


def _keys_and_values(content: Json, where: str = "") -> Iterator[tuple[str, Json]]:
    """Yields (dotted key of the table, key) and (dotted key, plain value), at all levels."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield where, str(key)
            yield from _keys_and_values(value, f"{where}.{key}".lstrip("."))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _keys_and_values(value, where)
    else:
        yield where, content


def _is_text(value: str) -> bool:
    try:
        return "\0" not in value.encode().decode()
    except UnicodeEncodeError:  # a lone surrogate, from a command line that is not UTF-8
        return False


def find_recipe(name_or_path: StrPath) -> Path:
    """Returns the file of a recipe from a shipped recipe's name or a path."""
    text = str(name_or_path)
    if text in list_recipes():
        return recipes_dir() / f"{text}.toml"
    path = expand(text)
    if path.suffix == ".toml" or "/" in text:
        if os.path.exists(path) and not os.path.isdir(path):
            return path
        raise UserError(f"{path} is not a file; --recipe takes a name or the path of a TOML file")
    raise UserError(f'recipe "{text}" is not known; {nearest(text, list_recipes())}')


def parse_override(line: str, *, of_network: bool = False) -> JsonObject:
    """Returns {"optimizer": {"learning_rate": 0.05}} for "optimizer.learning_rate=0.05".

    Args:
        of_network: whether the keys are options of a network, and not those of a recipe.
    """
    try:
        content = parse_assignment(line)
    except ValueError:
        raise UserError(
            f"--set takes key=value in TOML, such as optimizer.learning_rate=0.05 "
            f"or 'model.name=\"wide_resnet\"'; received {line!r}{_in_toml(line)}"
        ) from None
    (word,) = content
    if of_network or word in Recipe.model_fields:
        return content
    if meant := settings_called(word):
        raise UserError(f'a recipe has no key "{word}" at its top; did you mean "{meant[0]}"?')
    return content


def _in_toml(line: str) -> str:
    """Returns a clause with a line as TOML has it, if its value is a bare word; else nothing."""
    key, _, value = line.partition("=")
    if not re.fullmatch(r"\s*[\w.-]+\s*=\s*[A-Za-z~./][\w~./-]*\s*", line):
        return ""
    words = {"True": "true", "False": "false"}
    value = words.get(value.strip()) or f'"{value.strip()}"'
    return f": write --set '{key.strip()}={value}'"


def parse_assignment(line: str) -> JsonObject:
    """Returns what `parse_override` does; ValueError if the line is not one key and one value."""
    key, equals, value = line.partition("=")
    if not equals or NOT_IN_A_KEY & set(key) or "\n" in line:
        raise ValueError("it is not key=value")
    return parse_toml(f"{key.strip()} = {value.strip()}")


def override(content: JsonObject, changes: JsonObject) -> None:
    """Merges `changes` into `content`; a new model, optimizer or schedule drops the old options.

    Normalisation is no option of a model from a file, which has its own. Other images drop the
    results of the recipe, which are not of them.
    """
    data, changed = content.get("data"), changes.get("data")
    if isinstance(data, dict) and isinstance(changed, dict):
        keys = [key for key in ("dataset", "classes") if key in changed]
        if any(changed[key] != data.get(key) for key in keys):
            for results in ("reference", "measured"):
                content.pop(results, None)
    for key, kind in TAGGED_TABLES.items():
        old, new = content.get(key), changes.get(key)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            continue
        before, after = old.get("name"), new.get("name", old.get("name"))
        if after != before:
            kept = kind.shared_keys - ({"normalization"} if FILE in (before, after) else set())
            content[key] = {k: v for k, v in old.items() if k in kept}
    _drop_other_base(content.get("model"), changes.get("model"))
    merge(content, changes)


def _drop_other_base(model: Json, changed: Json) -> None:
    """Drops the options of the network behind a band if another one takes its place."""
    old, new = (each.get("base") if isinstance(each, dict) else None for each in (model, changed))
    if isinstance(old, dict) and isinstance(new, dict) and isinstance(model, dict):
        model["base"] = old if new.get("name", old.get("name")) == old.get("name") else {}


def merge(content: JsonObject, changes: JsonObject) -> None:
    """Merges `changes` into `content`, table by table; any other value is replaced.

    A table whose keys are numbers changes the items of a list: {"augment": {"0": {"padding": 2}}}.
    """
    for key, value in changes.items():
        old = content.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            merge(old, value)
        elif isinstance(old, list) and _is_numbered(value):
            for number, change in value.items():
                merge_item(old, index_in(old, number, key), change)
        else:
            content[key] = value


def _is_numbered(value: Json) -> bool:
    """Returns whether a value is a table whose keys are numbers."""
    return isinstance(value, dict) and bool(value) and all(map(str.isdecimal, value))


def merge_item(items: list[Json], index: int, change: Json) -> None:
    """Merges a change into an item of a list; another operation or layer drops the old options."""
    old = items[index]
    if (
        isinstance(old, dict)
        and isinstance(change, dict)
        and all(change.get(key, old.get(key)) == old.get(key) for key in ("op", "layer"))
    ):
        merge(old, change)
    else:
        items[index] = change


def index_in(items: list[Json], number: str, where: str) -> int:
    """Returns the place in a list that a dotted key names, such as "augment.0".

    Args:
        where: the dotted key of the list.
    """
    if not number.isdecimal() or int(number) >= len(items):
        raise UserError(
            f"{where}.{number} names no table: {where} has {len(items)}, counted from 0; "
            f"received {number}"
        )
    return int(number)
