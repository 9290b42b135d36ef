"""Turns an error of pydantic into a sentence for the person who wrote the recipe."""

from typing import Any, get_args

from keras_imnet64.core.errors import nearest
from keras_imnet64.recipe.schema import Recipe, Section

EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "too_short": "three numbers",
    "too_long": "three numbers",
}


def first_error(error):
    """The first of pydantic's errors; of a table, not that it is none of some words."""
    return next(
        (e for e in error.errors() if (e["type"], type(e["input"])) != ("literal_error", dict)),
        error.errors()[0],
    )


def sentence(error: dict[str, Any]):
    """One of pydantic's errors as a sentence of ours."""
    location = [part for part in error["loc"] if not _is_of_a_union(part)] or error["loc"]
    where, received = ".".join(str(part) for part in location), error["input"]
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where} is not a known key; {nearest(location[-1], _keys_at(location))}"
    if kind == "literal_error":
        expected = f"one of {context['expected']}"
    elif kind == "value_error":
        return f"{where}: {context['error']}; received {_toml_value(received)}"
    elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        expected = error["msg"].removeprefix("Input should be ")
    else:
        expected = EXPECTED.get(kind, error["msg"].removeprefix("Input should be "))
    return f"{where} must be {expected}; received {_toml_value(received)}"


def _is_of_a_union(part):
    """Whether pydantic put this part there to say which of several types it tried."""
    return isinstance(part, str) and ("[" in part or part == "ChannelNormalization")


def _keys_at(location):
    """The keys that are known in the table where an unknown one was found."""
    section = Recipe
    for part in location[:-1]:
        if part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section.model_fields


def _section_in(annotation):
    """The Section among the types of an annotation such as `Section | None`; None if none is."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((section for section in found if section), None)


def _toml_value(value):
    return f'"{value}"' if isinstance(value, str) else repr(value)
