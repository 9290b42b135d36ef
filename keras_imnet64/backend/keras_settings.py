"""Keras' own settings: what keras.json says, and which settings hold while this package computes.

keras.json belongs to all programs of a user, Keras' global settings to all cells of a notebook.
What networks, losses and metrics of this package need of them is set by `keras_defaults` for the
duration of a call; what cannot be set there is refused.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.backend.environment import check_environment
from keras_imnet64.core.errors import UserError, reason, shortened
from keras_imnet64.core.files import (
    JSON_BYTES,
    byte_order_mark,
    decode_text,
    parse_json,
    read_small,
)
from keras_imnet64.core.paths import expand, os_error_text

BACKENDS = ("tensorflow", "jax", "torch")
DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
DTYPE_POLICY = "float32"


@contextlib.contextmanager
def keras_defaults():
    """Compute with Keras' own defaults, whatever keras.json or other cells of a notebook have set.

    For functions that build, load or score models; their settings are back when it ends. As a
    decorator it covers all of a function.

    Raises:
        UserError: for what would change results and cannot be set here, such as a limit of epochs.
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


def _set(config, values, policy):
    for name, value in values.items():
        getattr(config, f"set_{name}")(value)
    config.set_dtype_policy(policy)


def _check_process(config):
    """Refuse what a program that has Keras loaded has asked of it."""
    for limit in ("max_epochs", "max_steps_per_epoch"):
        value = getattr(config, limit)()
        if value is not None:
            raise UserError(
                f"Keras' setting {limit} ends training or evaluation early; received {value}: "
                f"call keras.config.set_{limit}(None) first"
            )
    if config.is_nnx_enabled():
        raise UserError(
            "Keras uses the variables of Flax here, as keras.json or KERAS_NNX_ENABLED asked for: "
            "start a new process without it"
        )


# --------------------------------------------------------------------------------------- keras.json


@dataclass(frozen=True)
class KerasSettings:
    """What keras.json says."""

    path: Path
    exists: bool
    content: dict  # empty where it is not there, or is no JSON object
    fault: str | None  # a sentence: why Keras, or our networks, would not work with it


def keras_settings():
    """Keras' own settings, from where its import will take them; whatever lies there is survived.

    The backend is not judged beyond its type: a variable or an option may overrule it.
    """
    home = os.environ.get("KERAS_HOME")  # the rule of keras/src/backend/config.py, an empty one too
    if home is None:
        base = os.path.expanduser("~")
        home = os.path.join(base if os.access(base, os.W_OK) else "/tmp", ".keras")
    path = expand(os.path.join(home, "keras.json"))
    if not os.path.exists(path):
        return KerasSettings(path, False, {}, None)
    content = {}
    try:
        content = parse_json(_unmarked(read_small(path, JSON_BYTES)))
        _check_settings(content)
    except (OSError, ValueError) as error:
        wrong = reason(os_error_text(error, path))
        content = content if isinstance(content, dict) else {}
        return KerasSettings(path, True, content, f"{path} does not work for Keras: {wrong}")
    return KerasSettings(path, True, content, None)


def _unmarked(content):
    """The text of keras.json, which Keras passes over where a byte order mark begins it."""
    encoding = byte_order_mark(content)
    if encoding:
        raise ValueError(
            f"it begins with the byte order mark of {encoding}: save it as UTF-8 alone"
        )
    return decode_text(content)


def _check_settings(content):
    """Refuse what ends the import of Keras, or what `keras_defaults` cannot set."""
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    for key, (is_right, words) in SETTINGS.items():
        if key in content and not is_right(content[key]):
            received = shortened(json.dumps(content[key]), 60)
            raise ValueError(f'its "{key}" must be {words}; received {received}')


SETTINGS = {  # {key: (whether Keras takes a value, which it takes)}
    "backend": (lambda value: isinstance(value, str) and value, f"one of {', '.join(BACKENDS)}"),
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


def check_keras_json():
    """Refuse a keras.json that the import of Keras would break on, or that would change results.

    Raises:
        UserError: says what is wrong with it.
    """
    fault = keras_settings().fault
    if fault:
        raise UserError(f"{fault}: mend or delete it")
