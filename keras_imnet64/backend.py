"""Which backend and which devices: chosen before Keras is imported, taken before any work.

`choose_backend` comes first in every command; `take_devices` is the first that loads TensorFlow or
JAX. TensorFlow spans the devices of one machine with MirroredStrategy, JAX with DataParallel.
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from keras_imnet64.errors import UserError, nearest, reason, shortened
from keras_imnet64.files import JSON_BYTES, denied, expand, parse_json, read_small
from keras_imnet64.quiet import import_tensorflow

BACKENDS = ("tensorflow", "jax", "torch")


def choose_backend(name=None):
    """Settle the backend: `name`, then KERAS_BACKEND, then keras.json, then tensorflow.

    In a process where Keras is imported already its backend stays; asking for another is refused.

    Returns:
        str: the backend, or None where keras.json decides.

    Raises:
        UserError: for a backend that is not known, not installed, or comes too late, and for a
            keras.json that Keras would break on.
    """
    if name and name not in BACKENDS:
        raise UserError(f'backend "{name}" is not known; {nearest(name, BACKENDS)}')
    if "keras" in sys.modules:
        current = sys.modules["keras"].config.backend()
        if name and name != current:
            raise UserError(
                f"Keras is already imported with the {current} backend; received {name}: "
                f"start a new process with KERAS_BACKEND={name}"
            )
        return current
    check_keras_json()
    name = name or os.environ.get("KERAS_BACKEND")
    if name:
        _check_installed(name)
        os.environ["KERAS_BACKEND"] = name
        return name
    settings = keras_settings()
    _check_installed(settings.content.get("backend", "tensorflow"), f" that {settings.path} names")
    return None


def chosen_backend():
    """The name that `choose_backend` has settled, without importing Keras."""
    if "keras" in sys.modules:
        return sys.modules["keras"].config.backend()
    named = os.environ.get("KERAS_BACKEND")
    return named or keras_settings().content.get("backend", "tensorflow")


def _check_installed(name, named_by=""):
    if name not in BACKENDS:
        raise UserError(f'backend "{name}"{named_by} is not known; {nearest(name, BACKENDS)}')
    if find_spec(name) is None:
        raise UserError(
            f"backend {name}{named_by} is not installed; `pip install {name}` provides it"
        )


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
        # As text, because Keras passes over a file that begins with a byte order mark.
        content = parse_json(read_small(path, JSON_BYTES).decode())
        _check_settings(content)
    except (OSError, ValueError) as error:
        wrong = reason(denied(error, path))
        content = content if isinstance(content, dict) else {}
        return KerasSettings(path, True, content, f"{path} does not work for Keras: {wrong}")
    return KerasSettings(path, True, content, None)


def _check_settings(content):
    """Refuse what ends the import of Keras, or what our networks do not work with."""
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    for key, (is_right, words) in SETTINGS.items():
        if key in content and not is_right(content[key]):
            received = shortened(json.dumps(content[key]), 60)
            raise ValueError(f'its "{key}" must be {words}; received {received}')


SETTINGS = {  # {key: (whether a value is right, which are)}; `set_floatx` takes bfloat16 as well
    "backend": (lambda value: isinstance(value, str) and value, f"one of {', '.join(BACKENDS)}"),
    "floatx": (
        lambda value: value in ("float16", "float32", "float64"),
        '"float16", "float32" or "float64"',
    ),
    "epsilon": (
        lambda value: isinstance(value, float) and 0 < value < 1,
        "a fraction between 0 and 1, such as 1e-07",
    ),
    "image_data_format": (lambda value: value == "channels_last", '"channels_last"'),
    "nnx_enabled": (lambda value: not value or find_spec("flax"), "false without flax installed"),
}


def check_keras_json():
    """Refuse a keras.json that the import of Keras would break on.

    Raises:
        UserError: says what is wrong with it.
    """
    fault = keras_settings().fault
    if fault:
        raise UserError(f"{fault}: mend or delete it")


@dataclass(frozen=True)
class Devices:
    """The devices that a process has taken, and how it spans them."""

    backend: str
    kind: str  # "cpu" or "gpu"
    names: tuple
    strategy: Any = None  # tf.distribute.Strategy or keras.distribution.DataParallel, over several

    @property
    def count(self):
        return len(self.names)

    def scope(self):
        """Within it models and optimizers are built on all the devices."""
        if self.strategy is not None:
            return self.strategy.scope()
        return contextlib.nullcontext()

    def check_batch_size(self, batch_size, name="data.batch_size"):
        if batch_size % self.count:
            fits = max(self.count, batch_size - batch_size % self.count)
            raise UserError(
                f"{name} must be divisible by the {self.count} devices; received {batch_size}, "
                f"the nearest below that works is {fits}"
            )


def take_devices(devices=None, virtual=None):
    """Take the GPUs of this machine, or its CPU.

    Args:
        devices: None for all; "N" for the first N; "0,2" for these (a list of one needs a comma:
            "2,"). CUDA_VISIBLE_DEVICES is honoured by the backends themselves.
        virtual: split the CPU into so many devices, to try out what spans several.

    Raises:
        UserError: for devices that are not there, or when the backend cannot span several.
    """
    import_tensorflow()
    import keras

    backend = keras.config.backend()
    if virtual is not None and not 1 <= virtual <= 64:
        raise UserError(f"--virtual-devices must be 1 to 64; received {virtual}")
    take = {"tensorflow": _take_tensorflow, "jax": _take_jax, "torch": _take_torch}
    if backend not in take:
        raise UserError(f"Keras' backend is {backend}; choose one of {', '.join(take)}")
    return take[backend](devices, virtual)


def _take_tensorflow(devices, virtual):
    import tensorflow as tf

    kind = "gpu" if tf.config.list_physical_devices("GPU") and not virtual else "cpu"
    physical = tf.config.list_physical_devices(kind.upper())
    with _before_initialisation("TensorFlow"):
        if virtual:
            tf.config.set_visible_devices([], "GPU")
            parts = [tf.config.LogicalDeviceConfiguration()] * virtual
            tf.config.set_logical_device_configuration(physical[0], parts)
            chosen = choose_indices(devices, virtual, "CPU")
            names = [f"CPU:{index}" for index in chosen]
        elif kind == "gpu":
            chosen = choose_indices(devices, len(physical), "GPU")
            try:
                tf.config.set_visible_devices([physical[index] for index in chosen], "GPU")
                for index in chosen:
                    tf.config.experimental.set_memory_growth(physical[index], True)
            except RuntimeError:
                if devices is not None:
                    raise
                # A notebook has used TensorFlow already: its devices are taken as they are.
                chosen = tf.config.list_logical_devices("GPU")
            names = [f"GPU:{position}" for position in range(len(chosen))]
        else:
            names = ["CPU:0" for _ in choose_indices(devices, 1, "CPU")]
    strategy = tf.distribute.MirroredStrategy(names) if len(names) > 1 else None
    return Devices("tensorflow", kind, tuple(names), strategy)


def hide_gpus_from_tensorflow():
    """For what only feeds data: tf.data needs no GPU, and TensorFlow would take all its memory."""
    import tensorflow as tf

    with _before_initialisation("TensorFlow"):
        tf.config.set_visible_devices([], "GPU")


def _take_jax(devices, virtual):
    import jax
    import keras

    hide_gpus_from_tensorflow()
    if virtual:
        with _before_initialisation("JAX"):
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", virtual)
    present = jax.local_devices()
    kind = present[0].platform
    chosen = [present[index] for index in choose_indices(devices, len(present), kind)]
    names = tuple(f"{kind}:{device.id}" for device in chosen)
    if len(chosen) == 1:
        jax.config.update("jax_default_device", chosen[0])
        return Devices("jax", kind, names)
    strategy = keras.distribution.DataParallel(devices=list(names), auto_shard_dataset=False)
    return Devices("jax", kind, names, strategy)


def _take_torch(devices, virtual):
    import torch

    if devices is not None or virtual:
        raise UserError("--devices and --virtual-devices work with tensorflow and jax, not torch")
    hide_gpus_from_tensorflow()
    return Devices("torch", "gpu" if torch.cuda.is_available() else "cpu", ("default",))


def choose_indices(devices, present, kind="device"):
    """Indices of the devices asked for, out of so many; `devices` as for `take_devices`."""
    if devices is None:
        return list(range(present))
    try:
        if "," in str(devices):
            chosen = [int(part) for part in str(devices).split(",") if part.strip()]
        else:
            chosen = list(range(min(int(devices), present + 1)))
    except ValueError:
        chosen = []
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f'--devices takes a count such as 2, or a list such as 0,2; received "{devices}"'
        )
    if not all(0 <= index < present for index in chosen):
        here = ", ".join(f"{kind}:{index}" for index in range(present))
        raise UserError(
            f'--devices "{devices}" asks for more than the {present} that are here: {here}'
        )
    return chosen


@contextlib.contextmanager
def _before_initialisation(library):
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"{library} has already started in this process, so its devices can no longer be "
            f"chosen: take them in a new process ({error})"
        ) from error
