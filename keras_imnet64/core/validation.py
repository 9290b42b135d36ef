"""Validates JSON that is read from outside: the result is a typed record, or a ValueError.

Records are frozen dataclasses, most of them in `records`; pydantic checks a JSON text against their
annotations. Callers add the name of the file to the error. `core.tables` does the same for recipes.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from keras_imnet64.core.files import JSON_BYTES, parse_json, read_small
from keras_imnet64.core.types import JsonObject, StrPath

Record = TypeVar("Record")

_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(TypeAdapter[Any])  # of any record; slow


def parse_record(kind: type[Record], text: str | bytes) -> Record:
    """Returns the record that a JSON text holds.

    Types are strict: a number in quotes is no number. Keys that the record does not have are
    ignored, so that files of later versions can be read.

    Args:
        kind: a dataclass.

    Raises:
        ValueError: the text is no JSON, is nested too deeply, or names the first key that is wrong.
    """
    if not isinstance(parse_json(text), dict):
        raise ValueError("it is not a JSON object")
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def read_record(kind: type[Record], path: StrPath, most: int = JSON_BYTES) -> Record:
    """Returns the record in a JSON file of at most `most` bytes; see `parse_record`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such record.
    """
    return parse_record(kind, read_small(path, most))


def to_json(record: object, *, omit_none: bool = False) -> JsonObject:
    """Returns a record as the plain values that its file holds, by the names that they have there.

    Args:
        omit_none: leave out fields that are None.
    """
    plain = _adapter(type(record)).dump_python(
        record, mode="json", by_alias=True, exclude_none=omit_none
    )
    assert isinstance(plain, dict)
    return plain


def _sentence(error: ValidationError) -> str:
    """Returns what is wrong with the first field, for a reader who knows the file."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f'its "{where}" is missing'
    return f'its "{where}" is wrong'
