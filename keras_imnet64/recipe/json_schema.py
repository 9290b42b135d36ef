"""The JSON Schema of recipes, by which editors complete and check them."""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache

from pydantic.json_schema import GenerateJsonSchema

from keras_imnet64.core.table_errors import JsonSchema
from keras_imnet64.core.tables import Table
from keras_imnet64.core.types import JsonObject
from keras_imnet64.recipe.schema import Recipe


@cache
def json_schema() -> JsonObject:
    """Returns the schema of a recipe's file, in JSON Schema draft 2020-12, always the same dict.

    The string below a field of a table becomes the description of its key.
    """
    schema = Recipe.model_json_schema(schema_generator=JsonSchema)
    schema["required"].remove("name")  # its default is the name of the file
    tables = {"Recipe": schema, **schema["$defs"]}
    for kind in _tables(Table):
        properties = tables.get(kind.__name__, {}).get("properties", {})
        for key, text in _descriptions(kind).items():
            properties.get(key, {})["description"] = text
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def _tables(kind: type[Table]) -> Iterator[type[Table]]:
    for table in kind.__subclasses__():
        yield table
        yield from _tables(table)


def _descriptions(kind: type[Table]) -> dict[str, str]:
    """Returns {key: text} of a table, inherited keys included."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, Table):
            source = inspect.getsource(sys.modules[base.__module__])
            texts |= _texts_below_fields(source).get(base.__name__, {})
    return texts


@cache
def _texts_below_fields(source: str) -> dict[str, dict[str, str]]:
    """Returns {class: {field: text}} of a module."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(ast.Name(key)), ast.Expr(ast.Constant(str(text))):
                    texts[key] = inspect.cleandoc(text).replace("\n", " ")
    return found
