"""Words the error message for a wrong table from its JSON Schema, which editors use too."""

from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, ErrorDetails

from keras_imnet64.core.errors import nearest
from keras_imnet64.core.types import Json, JsonObject

TAGS = ("name", "op")  # the keys that decide which options a table has
KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text in quotes",
    "boolean": "true or false",
}


class JsonSchema(GenerateJsonSchema):
    """pydantic's JSON Schema, in which only titles that say more than the key are kept."""

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:
        return False


@dataclass(frozen=True)
class _Place:
    """Where an error is: the key without pydantic's own labels, and the JSON Schemas around it."""

    keys: tuple[str | int, ...]
    node: JsonObject  # the schema of the value
    table: JsonObject  # the schema of the table that holds the value
    table_values: Json


def error_message(
    error: ValidationError, kind: type[BaseModel], values: Json, where: str = ""
) -> str:
    """Returns what is wrong first in a table, what was received and what would work.

    Args:
        error: what pydantic raised when it validated `values` as a `kind`.
        where: the dotted key of the table; "" for a whole recipe.
    """
    schema = Schema(kind.model_json_schema(schema_generator=JsonSchema))
    errors = error.errors()
    first = _first(errors)
    place = schema.locate(first["loc"], values)
    path = ".".join(map(str, [where, *place.keys] if where else place.keys))
    return _about_keys(first, errors, place, path) or (
        f"{path} must be {_expected(first, schema.in_words(place.node))}; "
        f"received {_as_toml(first['input'])}"
    )


def _about_keys(
    error: ErrorDetails, errors: list[ErrorDetails], place: _Place, path: str
) -> str | None:
    """Returns the message about missing, unknown or conflicting keys; None for other errors."""
    tag, received = _tag(place.table, place.table_values), error["input"]
    match error["type"]:
        case "missing" if tag:
            table = error["loc"][:-1]
            missing = [e["loc"] for e in errors if e["type"] == "missing"]
            keys = [str(loc[-1]) for loc in missing if loc[:-1] == table]
            return f'{path.rpartition(".")[0]} "{tag}" needs a value for {", ".join(keys)}'
        case "missing":
            return f"{path} is missing"
        case "extra_forbidden":
            of = f'an option of "{tag}"' if tag else "a known key"
            return f"{path} is not {of}; {nearest(place.keys[-1], place.table['properties'])}"
        case "union_tag_not_found":
            return f"{path}.{place.node['discriminator']['propertyName']} is missing"
        case "union_tag_invalid":
            union = place.node["discriminator"]
            name = received[union["propertyName"]]
            if not isinstance(name, str):
                what = f"must be text in quotes; received {_as_toml(name)}"
                return f"{path}.{union['propertyName']} {what}"
            remedy = nearest(name, union["mapping"])
            return f'{path}.{union["propertyName"]} "{name}" is not known; {remedy}'
        case "broken_rule":
            return f'{path} "{_tag(place.node, received)}" {error["msg"]}'
    return None


def _expected(error: ErrorDetails, described: str) -> str:
    """Returns what a value must be: the words of a validator, or those of the schema."""
    if error["type"] == "expected":
        return error["msg"]
    if error["type"] == "finite_number":
        return described.replace("a number", "a finite number", 1)
    return described


def _first(errors: list[ErrorDetails]) -> ErrorDetails:
    """Returns the error to report: the first, unless another one says more about the same mistake.

    Where a value may be a word or a table, what is wrong inside the table says more than that it is
    no word. An unknown key says more than a missing one, which it probably misspells.
    """
    likely = [e for e in errors if (e["type"], type(e["input"])) != ("literal_error", dict)]
    first = (likely or errors)[0]
    if first["type"] != "missing":
        return first
    table = first["loc"][:-1]
    misspelt = [e for e in errors if e["type"] == "extra_forbidden" and e["loc"][:-1] == table]
    return (misspelt or [first])[0]


def _tag(table: JsonObject, values: Json) -> str | None:
    """Returns the value of the key that decides which options a table has; None without one."""
    for tag in TAGS:
        if {"const", "enum"} & table.get("properties", {}).get(tag, {}).keys():
            return values.get(tag, table["properties"][tag].get("default"))
    return None


def _as_toml(value: Json) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


class Schema:
    """A JSON Schema made by pydantic: locates errors in it, and describes its values in words."""

    def __init__(self, schema: JsonObject) -> None:
        self.root = schema
        self.definitions = schema.get("$defs", {})

    def locate(self, location: tuple[str | int, ...], values: Json) -> _Place:
        """Returns the place of an error. pydantic's locations also name the members of unions."""
        keys: list[str | int] = []
        node = table = self.resolve(self.root)
        table_values = values
        for part in location:
            if "anyOf" in node or "oneOf" in node:
                node = self.member(node, str(part))
                continue
            keys.append(part)
            if node.get("type") == "array":
                node = node["items"]
            else:
                table, table_values = node, values
                others = node.get("additionalProperties") or {}
                node = node.get("properties", {}).get(part, others)
            node = self.resolve(node)
            values = _inside(values, part)
        return _Place(tuple(keys), node, table, table_values)

    def resolve(self, node: JsonObject) -> JsonObject:
        """Returns the schema behind a reference or an optional value."""
        while True:
            members = [m for m in node.get("anyOf", []) if m.get("type") != "null"]
            if "$ref" in node:
                node = self.definitions[node["$ref"].rpartition("/")[2]]
            elif len(members) == 1:
                node = {key: node[key] for key in node if key != "anyOf"} | members[0]
            else:
                return node

    def member(self, union: JsonObject, label: str) -> JsonObject:
        """Returns the member with pydantic's label: a tag, a class, or a key that the table has."""
        mapping = union.get("discriminator", {}).get("mapping", {})
        if label in mapping:
            return self.resolve({"$ref": mapping[label]})
        for member in union.get("oneOf") or union["anyOf"]:
            resolved = self.resolve(member)
            of_key = resolved.get("discriminator", {}).get("propertyName") == label
            if member.get("$ref", "").endswith(f"/{label}") or of_key:
                return resolved
            if "oneOf" in union and label in resolved.get("properties", {}):
                return resolved
        return union

    def in_words(self, node: JsonObject) -> str:
        """Returns what a value must be, such as "a whole number from 1 to 64"."""
        node = self.resolve(node)
        if "anyOf" in node:
            members = [m for m in node["anyOf"] if m.get("type") != "null"]
            return " or ".join(map(self.in_words, members))
        if "const" in node or "enum" in node:
            words = [f'"{word}"' for word in node.get("enum") or [node["const"]]]
            return f"one of {', '.join(words)}" if len(words) > 2 else " or ".join(words)
        if "oneOf" in node:
            return node.get("title", "a table")
        if node["type"] == "object":  # whose title is the name of the class
            return "a table"
        if node["type"] == "array":
            limits = _limits_in_words(self.resolve(node["items"]))
            return node["title"] + limits if "title" in node else "a list"
        return (node.get("title") or KINDS[node["type"]]) + _limits_in_words(node)


def _inside(values: Json, key: str | int) -> Json:
    try:
        return values[key]
    except (KeyError, IndexError, TypeError):
        return None


def _limits_in_words(node: JsonObject) -> str:
    if "minimum" in node and "maximum" in node:
        return f" from {node['minimum']:,} to {node['maximum']:,}"
    named = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{words} {node[key]:,}" for key, words in named.items() if key in node]
    return f" {' and '.join(limits)}" if limits else ""
