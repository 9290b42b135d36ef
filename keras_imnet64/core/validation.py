"""Validates JSON from files and processes: the result is a typed record, or a ValueError.

Records are frozen dataclasses, most of them in `records`; pydantic checks a JSON text against their
annotations. Callers add the name of the file to the error. `core.tables` does the same for recipes.
"""

from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from keras_imnet64.core.files import MAX_JSON_BYTES, parse_json, read_small
from keras_imnet64.core.types import JsonObject, StrPath

Record = TypeVar("Record")

PLAIN_TYPES = ("bool", "int", "float", "str")
_adapter = lru_cache(TypeAdapter[Any])  # building one takes milliseconds


def parse_record(kind: type[Record], text: str | bytes) -> Record:
    """Returns the record that a JSON text holds.

    Types are strict: a number in quotes is no number. Keys that the record does not have are
    ignored, so that files of later versions can be read.

    Args:
        kind: a dataclass.

    Raises:
        ValueError: the text is no JSON, is nested too deeply, or names the first key that is wrong.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    try:
        return _validator(kind).validate_python(content)  # type: ignore[arg-type]  # hashable
    except ValidationError as error:
        raise ValueError(_describe(error)) from None


def read_record(kind: type[Record], path: StrPath, max_bytes: int = MAX_JSON_BYTES) -> Record:
    """Returns the record in a JSON file of at most `max_bytes` bytes; see `parse_record`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such record.
    """
    return parse_record(kind, read_small(path, max_bytes))


def to_json(record: object, *, omit_none: bool = False) -> JsonObject:
    """Returns a record as the plain values that its file holds, by their keys in the file.

    Args:
        omit_none: leave out fields that are None.
    """
    adapter = _adapter(type(record))  # type: ignore[arg-type]  # classes are hashable
    plain = adapter.dump_python(record, mode="json", by_alias=True, exclude_none=omit_none)
    assert isinstance(plain, dict)
    return plain


@lru_cache
def _validator(kind: type[object]) -> SchemaValidator:
    """Returns the validator of a record's parsed JSON, strict about plain values.

    pydantic would parse the text itself, but refuses file names that are not UTF-8, which
    `paths.portable` writes as lone surrogates.
    """
    schema = _adapter(kind).core_schema  # type: ignore[arg-type]  # classes are hashable
    return SchemaValidator(_with_strict_plain_types(schema))


def _with_strict_plain_types(schema: Any) -> Any:  # a part of a pydantic schema
    if isinstance(schema, list):
        return [_with_strict_plain_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {"strict": True} if schema.get("type") in PLAIN_TYPES else {}
    return {key: _with_strict_plain_types(value) for key, value in schema.items()} | strict


def _describe(error: ValidationError) -> str:
    """Returns what is wrong with the first field, for a reader who knows the file."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f'its "{where}" is missing'
    if first["type"] == "value_error" and not where:  # raised by the record's __post_init__
        return str(first["ctx"]["error"])
    return f'its "{where}" is wrong'
