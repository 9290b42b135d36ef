"""Chooses the backend before Keras is imported, and takes the devices before any computation.

Every command calls `choose_backend` first. `take_devices` is the first call that imports TensorFlow
or JAX. TensorFlow spans the devices of one machine with MirroredStrategy, JAX those of one machine
or of several with DataParallel.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

from keras_imnet64.backend.cluster import ALONE, Cluster, join
from keras_imnet64.backend.environment import check_environment
from keras_imnet64.backend.keras_settings import BACKENDS, check_keras_json, keras_settings
from keras_imnet64.backend.launchers import Place, check_backend
from keras_imnet64.backend.loading import chosen_backend, import_tensorflow
from keras_imnet64.backend.programs import keep_jax_programs, program_settings
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError, nearest, reason
from keras_imnet64.core.invocation import program_name


def choose_backend(name: str | None = None) -> None:
    """Chooses the backend: `name`, else KERAS_BACKEND, else keras.json, else tensorflow.

    If Keras is imported already, its backend stays, and another name is refused.

    Raises:
        UserError: the backend is not known, not installed, or Keras runs another one already; or
            keras.json or the environment has settings that break Keras or change results.
    """
    if name and name not in BACKENDS:
        raise UserError(f'backend "{name}" is not known; {nearest(name, BACKENDS)}')
    program_settings()  # refuses a wrong bound
    if "keras" in sys.modules:
        current: str = sys.modules["keras"].config.backend()
        if name and name != current:
            raise UserError(
                f"Keras is already imported with the {current} backend; received {name}: "
                f"start a new process with KERAS_BACKEND={name}"
            )
        check_environment(current)
        return
    check_keras_json()
    name = name or os.environ.get("KERAS_BACKEND")
    if name:
        check_installed(name)
        check_environment(name)
        os.environ["KERAS_BACKEND"] = name
        return
    settings = keras_settings()
    named = settings.content.get("backend", "tensorflow")
    check_installed(named, f" that {settings.path} names")
    check_environment(named)


def check_installed(name: str, named_by: str = "") -> None:
    if name not in BACKENDS:
        raise UserError(f'backend "{name}"{named_by} is not known; {nearest(name, BACKENDS)}')
    if find_spec(name) is None:
        raise UserError(
            f"backend {name}{named_by} is not installed; `pip install {name}` provides it"
        )


DEVICE_KINDS: dict[str, tuple[str, ...]] = {  # environment variables that choose kinds of devices
    "tensorflow": ("TF_ENABLED_DEVICE_TYPES",),
    "jax": ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"),
}


@dataclass(frozen=True)
class Devices:
    """The devices that a process, or several processes that train one run, have taken.

    Attributes:
        backend: "tensorflow", "jax" or "torch".
        kind: "cpu", "gpu" or another platform of JAX.
        names: as the backend spells them, such as "GPU:0".
        strategy: spans several devices, a tf.distribute.MirroredStrategy or a
            keras.distribution.DataParallel; None for one device.
        cluster: the processes whose devices these are; use it as a context around what they do.
    """

    backend: str
    kind: str
    names: tuple[str, ...]
    strategy: Any = None  # of one backend or the other; neither has types
    cluster: Cluster = ALONE

    @property
    def count(self) -> int:
        """Number of devices, those of all processes."""
        return len(self.names)

    def __str__(self) -> str:
        """Names the devices, or how many there are on several machines."""
        num_processes = self.cluster.num_processes
        if num_processes == 1:
            return ", ".join(self.names)
        return f"{self.count} {self.kind}s of {num_processes} processes"

    def scope(self) -> AbstractContextManager[object]:
        """Returns a context in which models and optimizers are built on all the devices."""
        if self.cluster is not ALONE:
            import keras

            keras.utils.set_random_seed(0)  # JAX checks that processes create the same variables
        if self.strategy is not None:
            scope: AbstractContextManager[object] = self.strategy.scope()
            return scope
        return contextlib.nullcontext()

    def check_batch_size(self, batch_size: int, name: str = "data.batch_size") -> None:
        """Raises a UserError if the devices cannot share a batch equally.

        Args:
            name: the setting, for the message.
        """
        if batch_size % self.count:
            fits = max(self.count, batch_size - batch_size % self.count)
            raise UserError(
                f"{name} must be divisible by the {self.count} devices; received {batch_size}, "
                f"the nearest that works is {fits}"
            )


def take_devices(
    devices: str | int | None = None,
    virtual: int | None = None,
    *,
    reads_data: bool = True,
    place: Place | None = None,
) -> Devices:
    """Takes the GPUs of this machine, or its CPU where there are none.

    Args:
        devices: None for all; "2" for the first two; "0,2" for these two ("2," for the third
            alone). The backends themselves honour CUDA_VISIBLE_DEVICES.
        virtual: number of devices into which the CPU is split, to try training on several.
        reads_data: whether this process reads a data set, for which JAX needs TensorFlow beside it.
            False leaves TensorFlow out of a JAX process that has its batches from elsewhere.
        place: where this process stands among those that train one run, see
            `launchers.find_place`; the devices are then those of all of them. None: it is alone.

    Raises:
        UserError: the devices do not exist, the backend cannot be loaded, or it cannot span several
            devices or machines; or the processes do not come together.
    """
    if virtual is not None and not 1 <= virtual <= 64:
        raise UserError(f"--virtual-devices must be 1 to 64; received {virtual}")
    if place is not None:
        check_backend(place, chosen_backend())
    take: dict[str, Callable[[str | int | None, int | None], Devices]]
    take = {
        "tensorflow": _take_tensorflow,
        "jax": partial(_take_jax, place=place),
        "torch": _take_torch,
    }
    with Activity(f"loading {chosen_backend()}", at_once="keras" not in sys.modules):
        backend = _import_backend(reads_data)
        if backend not in take:
            raise UserError(f"Keras' backend is {backend}; choose one of {', '.join(take)}")
        if backend == "jax" and reads_data:
            hide_gpus_from_tensorflow()
        return take[backend](devices, virtual)


def _import_backend(reads_data: bool) -> str:
    """Imports Keras with its backend, TensorFlow for the data; returns the name of the backend."""
    try:
        if reads_data or chosen_backend() != "jax":
            import_tensorflow()
        import keras
    except Exception as error:  # a broken installation, or a variable that cannot be parsed
        raise UserError(
            f"Keras with {chosen_backend()} cannot be loaded ({reason(error)}): "
            f"`{program_name()} doctor` examines this installation"
        ) from error
    return str(keras.config.backend())


@contextlib.contextmanager
def _looking_for_devices(backend: Literal["tensorflow", "jax"]) -> Iterator[None]:
    """Raises a UserError if a backend finds no device; it names the variables to unset."""
    try:
        yield
    except Exception as error:  # its type varies; even an AssertionError without a message
        variables = [name for name in DEVICE_KINDS[backend] if os.environ.get(name)]
        settings = ", ".join(f"{name}={os.environ[name]}" for name in variables)
        received = f" with {settings}" if settings else ""
        examine = f"`{program_name()} doctor` examines it"
        remedy = f"`unset {' '.join(variables)}`" if variables else examine
        raise UserError(
            f"{backend} finds no device{received} ({reason(error)}): {remedy}"
        ) from error


def _take_tensorflow(devices: str | int | None, virtual: int | None) -> Devices:
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
            # Threads of their own for launching kernels: decoding images does not delay them.
            os.environ.setdefault("TF_GPU_THREAD_MODE", "gpu_private")
            try:
                tf.config.set_visible_devices([physical[index] for index in chosen], "GPU")
                for index in chosen:
                    tf.config.experimental.set_memory_growth(physical[index], True)
            except RuntimeError:
                if devices is not None:
                    raise
                # A notebook has used TensorFlow already: take the devices that it has.
                chosen = tf.config.list_logical_devices("GPU")
            names = [f"GPU:{position}" for position in range(len(chosen))]
        else:
            names = ["CPU:0" for _ in choose_indices(devices, 1, "CPU")]
    strategy = tf.distribute.MirroredStrategy(names) if len(names) > 1 else None
    return Devices("tensorflow", kind, tuple(names), strategy)


def hide_gpus_from_tensorflow() -> None:
    """Keeps TensorFlow, where it only reads data, from taking all memory of a GPU."""
    import tensorflow as tf

    with _looking_for_devices("tensorflow"), _before_initialisation("TensorFlow"):
        tf.config.set_visible_devices([], "GPU")


def _take_jax(
    devices: str | int | None, virtual: int | None, place: Place | None = None
) -> Devices:
    import jax

    keep_jax_programs()
    if virtual:
        with _before_initialisation("JAX"):
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", virtual)
    if place is None:
        return _span_jax_devices(devices, ALONE)
    with _before_initialisation("JAX"):
        cluster = join(place)
    try:
        return _span_jax_devices(devices, cluster)
    except BaseException as error:
        cluster.__exit__(type(error), error, None)  # tells the others
        raise


def _span_jax_devices(devices: str | int | None, cluster: Cluster) -> Devices:
    """Takes devices of this process, and those that the others take at the same time."""
    import jax
    import keras

    with _looking_for_devices("jax"):
        present = jax.local_devices()
    kind = present[0].platform
    chosen = [present[index] for index in choose_indices(devices, len(present), kind)]
    names = tuple(f"{kind}:{device.id}" for device in chosen)
    cluster.agree(
        {
            "number of processes": str(cluster.num_processes),
            "kind of devices": kind,
            "number of devices": f"{len(names)} of {len(present)}",
        },
        "start the same command everywhere, with --devices, --virtual-devices or "
        "CUDA_VISIBLE_DEVICES where machines have more devices than others",
    )
    if cluster.num_processes == 1 and len(chosen) == 1:
        jax.config.update("jax_default_device", chosen[0])
        return Devices("jax", kind, names)
    if kind == "gpu":
        _overlap_reductions()
    names = tuple(name for of_process in cluster.gather(list(names)) for name in of_process)
    strategy = keras.distribution.DataParallel(devices=list(names), auto_shard_dataset=False)
    return Devices("jax", kind, names, strategy, cluster)


def _overlap_reductions() -> None:
    """Makes XLA sum gradients over GPUs while it computes others: its latency-hiding scheduler.

    The scheduler is off in jaxlib 0.10 and on from the optimisation level O1. The level is JAX's
    own setting. A flag in XLA_FLAGS would be read by TensorFlow's XLA too, and a flag that one of
    the two does not know ends the process. A level that the user has chosen stays.
    """
    import jax

    if jax.config.values["jax_optimization_level"] == "UNKNOWN":
        jax.config.update("jax_optimization_level", "O1")


def _take_torch(devices: str | int | None, virtual: int | None) -> Devices:
    import torch

    if devices is not None or virtual:
        raise UserError("--devices and --virtual-devices work with tensorflow and jax, not torch")
    hide_gpus_from_tensorflow()
    return Devices("torch", "gpu" if torch.cuda.is_available() else "cpu", ("default",))


def choose_indices(devices: str | int | None, num_present: int, kind: str = "device") -> list[int]:
    """Returns the indices of the requested devices among those present; see `take_devices`."""
    if devices is None:
        return list(range(num_present))
    try:
        if "," in str(devices):
            chosen = [int(part) for part in str(devices).split(",") if part.strip()]
        else:
            chosen = list(range(min(int(devices), num_present + 1)))
    except ValueError:
        chosen = []
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f'--devices takes a count such as 2, or a list such as 0,2; received "{devices}"'
        )
    if not all(0 <= index < num_present for index in chosen):
        existing = ", ".join(f"{kind}:{index}" for index in range(num_present))
        raise UserError(
            f'--devices "{devices}" asks for more than the {num_present} that exist: {existing}'
        )
    return chosen


@contextlib.contextmanager
def _before_initialisation(library: str) -> Iterator[None]:
    """Raises a UserError if a library has already initialised its devices."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"{library} has already started in this process, so its devices can no longer be "
            f"chosen ({error}): start a new process and choose them first"
        ) from error
