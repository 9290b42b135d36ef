"""Reads keras.json, and sets Keras' own defaults while this package computes.

All programs of a user share keras.json, and all cells of a notebook share Keras' global settings.
For the duration of a call `keras_defaults` sets what our networks, losses and metrics need; it
refuses settings that it cannot change.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from keras_imnet64.backend.environment import check_environment
from keras_imnet64.core.errors import UserError, reason, shortened
from keras_imnet64.core.files import (
    MAX_JSON_BYTES,
    byte_order_mark,
    decode_text,
    parse_json,
    read_small,
)
from keras_imnet64.core.paths import expand, os_error_text
from keras_imnet64.core.types import Json, JsonObject

BACKENDS = ("tensorflow", "jax", "torch")
DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
DTYPE_POLICY = "float32"


@contextlib.contextmanager
def keras_defaults() -> Iterator[None]:
    """Computes with Keras' own defaults, whatever keras.json or a notebook has set.

    Decorates functions that build, load or score models, or serves as a context. The previous
    settings are restored at the end.

    Raises:
        UserError: a setting that changes results and cannot be set here, such as a limit of epochs.
    """
    from keras import config

    check_environment(config.backend())
    _check_process(config)
    before = {name: getattr(config, name)() for name in DEFAULTS}
    policy = config.dtype_policy()
    try:
        _set(config, DEFAULTS, DTYPE_POLICY)
        yield
    finally:
        _set(config, before, policy)


def _set(config: ModuleType, values: Mapping[str, Json], policy: Json) -> None:
    for name, value in values.items():
        getattr(config, f"set_{name}")(value)
    config.set_dtype_policy(policy)


def _check_process(config: ModuleType) -> None:
    """Refuses settings that the process has changed after importing Keras."""
    for limit in ("max_epochs", "max_steps_per_epoch"):
        value = getattr(config, limit)()
        if value is not None:
            raise UserError(
                f"Keras' setting {limit} ends training or evaluation early; received {value}: "
                f"call keras.config.set_{limit}(None) first"
            )
    if config.is_nnx_enabled():
        raise UserError(
            "Keras uses the variables of Flax, as keras.json or KERAS_NNX_ENABLED has set: start a "
            "new process without that setting"
        )


# --------------------------------------------------------------------------------------- keras.json


@dataclass(frozen=True)
class KerasSettings:
    """The content of keras.json.

    Attributes:
        content: empty if the file does not exist or holds no JSON object.
        fault: a sentence that says why Keras, or our networks, would not work with the file.
    """

    path: Path
    exists: bool
    content: JsonObject
    fault: str | None


def keras_settings() -> KerasSettings:
    """Reads keras.json from where Keras will read it; raises nothing, whatever the file holds.

    Of the backend only the type is checked, because a variable or an option may override it.
    """
    home = os.environ.get("KERAS_HOME")  # the rule of keras/src/backend/config.py, also if empty
    if home is None:
        base = os.path.expanduser("~")
        home = os.path.join(base if os.access(base, os.W_OK) else "/tmp", ".keras")
    path = expand(os.path.join(home, "keras.json"))
    if not os.path.exists(path):
        return KerasSettings(path, False, {}, None)
    content = {}
    try:
        content = parse_json(_without_mark(read_small(path, MAX_JSON_BYTES)))
        _check_settings(content)
    except (OSError, ValueError) as error:
        wrong = reason(os_error_text(error, path))
        content = content if isinstance(content, dict) else {}
        return KerasSettings(path, True, content, f"{path} does not work for Keras: {wrong}")
    return KerasSettings(path, True, content, None)


def _without_mark(content: bytes) -> str:
    """Decodes keras.json; refuses a byte order mark, with which Keras ignores the file."""
    encoding = byte_order_mark(content)
    if encoding:
        raise ValueError(
            f"it begins with the byte order mark of {encoding}: save it as UTF-8 alone"
        )
    return decode_text(content)


def _check_settings(content: Json) -> None:
    """Refuses values that break the import of Keras, or that `keras_defaults` cannot replace."""
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    for key, (is_right, words) in SETTINGS.items():
        if key in content and not is_right(content[key]):
            received = shortened(json.dumps(content[key]), 60)
            raise ValueError(f'its "{key}" must be {words}; received {received}')


SETTINGS: dict[str, tuple[Callable[[Json], bool], str]]
SETTINGS = {  # {key: (whether a value is valid, the valid values)}
    "backend": (
        lambda value: isinstance(value, str) and value != "",
        f"one of {', '.join(BACKENDS)}",
    ),
    "floatx": (
        lambda value: value in ("float16", "float32", "float64"),
        '"float16", "float32" or "float64"',
    ),
    "epsilon": (
        lambda value: isinstance(value, float) and 0 < value < 1,
        "a fraction between 0 and 1, such as 1e-07",
    ),
    "image_data_format": (
        lambda value: value in ("channels_last", "channels_first"),
        '"channels_last" or "channels_first"',
    ),
    "nnx_enabled": (lambda value: not value, "false"),
}


def check_keras_json() -> None:
    """Raises a UserError if keras.json would break the import of Keras or change results."""
    fault = keras_settings().fault
    if fault:
        raise UserError(f"{fault}: fix or delete it")
