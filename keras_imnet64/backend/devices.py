"""Which backend and which devices: chosen before Keras is imported, taken before any work.

`choose_backend` comes first in every command; `take_devices` is the first that loads TensorFlow or
JAX. TensorFlow spans the devices of one machine with MirroredStrategy, JAX with DataParallel.
"""

import contextlib
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from keras_imnet64.backend.environment import check_environment
from keras_imnet64.backend.keras_settings import BACKENDS, check_keras_json, keras_settings
from keras_imnet64.core.errors import UserError, nearest, reason
from keras_imnet64.core.library_logs import import_tensorflow


def choose_backend(name=None):
    """Settle the backend: `name`, then KERAS_BACKEND, then keras.json, then tensorflow.

    In a process where Keras is imported already its backend stays; asking for another is refused.

    Returns:
        str: the backend, or None where keras.json decides.

    Raises:
        UserError: for a backend that is not known, not installed, or comes too late, and for
            settings of keras.json or the environment that Keras would break on, or that would
            change results.
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
        check_environment(current)
        return current
    check_keras_json()
    name = name or os.environ.get("KERAS_BACKEND")
    if name:
        _check_installed(name)
        check_environment(name)
        os.environ["KERAS_BACKEND"] = name
        return name
    settings = keras_settings()
    named = settings.content.get("backend", "tensorflow")
    _check_installed(named, f" that {settings.path} names")
    check_environment(named)
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


DEVICE_KINDS = {  # variables that choose which kinds of device a backend looks for
    "tensorflow": ("TF_ENABLED_DEVICE_TYPES",),
    "jax": ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"),
}


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
        UserError: for devices that are not there, when the backend cannot span several, or cannot
            be loaded at all.
    """
    backend = _import_backend()
    if virtual is not None and not 1 <= virtual <= 64:
        raise UserError(f"--virtual-devices must be 1 to 64; received {virtual}")
    take = {"tensorflow": _take_tensorflow, "jax": _take_jax, "torch": _take_torch}
    if backend not in take:
        raise UserError(f"Keras' backend is {backend}; choose one of {', '.join(take)}")
    return take[backend](devices, virtual)


def _import_backend():
    """Load TensorFlow and Keras with its backend, and return the backend's name."""
    try:
        import_tensorflow()
        import keras
    except Exception as error:  # a library that is half installed, a variable that it cannot read
        raise UserError(
            f"Keras with {chosen_backend()} cannot be loaded ({reason(error)}): "
            "`python cli.py doctor` examines this installation"
        ) from error
    return keras.config.backend()


@contextlib.contextmanager
def _looking_for_devices(backend):
    """Say in a sentence that a backend finds none, and which variables asked for others."""
    try:
        yield
    except Exception as error:  # of many kinds, an AssertionError without a word too
        asked = [name for name in DEVICE_KINDS[backend] if os.environ.get(name)]
        received = ", ".join(f"{name}={os.environ[name]}" for name in asked)
        cure = f"`unset {' '.join(asked)}`" if asked else "`python cli.py doctor` examines it"
        raise UserError(
            f"{backend} finds no device{f' with {received}' if asked else ''} ({reason(error)}): "
            + cure
        ) from error


def _take_tensorflow(devices, virtual):
    import tensorflow as tf

    with _looking_for_devices("tensorflow"):
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

    with _looking_for_devices("tensorflow"), _before_initialisation("TensorFlow"):
        tf.config.set_visible_devices([], "GPU")


def _take_jax(devices, virtual):
    import jax
    import keras

    hide_gpus_from_tensorflow()
    if virtual:
        with _before_initialisation("JAX"):
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", virtual)
    with _looking_for_devices("jax"):
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
