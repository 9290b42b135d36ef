"""What a comparison passes on and keeps in files. Needs no Keras.

`Trajectory` holds the steps of one side, `StepRecord` one step of it tensor by tensor. Of each
tensor a record keeps at most `MAX_ELEMENTS` numbers, at positions that depend on its name and
shape alone, so that two sides keep the same ones.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np

from keras_imnet64.core.files import atomic_file
from keras_imnet64.core.validation import parse_record, to_json

MAX_ELEMENTS = 2**16  # of a tensor that are kept: 256 KB
PACKAGES = ("keras-imnet64", "keras", "tensorflow", "jax", "numpy")  # that decide the numbers
OPTIONAL_PACKAGES = ("torch",)  # if a side is of this backend
NUM_RUNS = 5  # of the yardstick, the unchanged one included

Arrays: TypeAlias = dict[str, np.ndarray]  # by the path of a variable


@dataclass(frozen=True)
class Trajectory:
    """The first steps of one side, from the shared start.

    Attributes:
        devices: as the backend spells them.
        versions: of packages, by name.
        losses: what training minimises, of each step, before its update.
        rates: the learning rate of each step.
        digests: the SHA-256 of each step's images and labels.
        seconds: of each step, with its input and the wait for its result; the first one compiles.
        seconds_to_first_step: from the start of the process to the end of the first step.
        peak_memory_mb: of the process; of the allocator on a GPU; None where it is not counted.
        start_difference: the largest distance of a weight that this side drew itself from the
            shared start, in units of the largest weight of its variable.
        start_variable: the path of that variable.
        untrained: why the backend does not train the recipe, in words; there are then no losses,
            and the side is compared forward only. None for a side that trains.
    """

    devices: tuple[str, ...]
    versions: dict[str, str]
    losses: tuple[float, ...]
    rates: tuple[float, ...]
    digests: tuple[str, ...]
    seconds: tuple[float, ...]
    seconds_to_first_step: float
    peak_memory_mb: float | None = None
    start_difference: float = 0.0
    start_variable: str | None = None
    untrained: str | None = None


@dataclass(frozen=True)
class Yardstick:
    """The losses of further runs of a side, whose starts differ from its own in the last bits.

    Attributes:
        disturbance: 0; or, of runs from the side's own start, by how much of itself each weight is
            moved while a step computes its gradients.
    """

    losses: tuple[tuple[float, ...], ...]
    disturbance: float = 0.0


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer or an operation in the network's graph."""

    name: str
    kind: str  # the name of its class
    variables: tuple[str, ...] = ()  # paths of the trainable ones


@dataclass(frozen=True)
class StepFacts:
    """The numbers of a step that are no tensors.

    Attributes:
        step: counted from 0, over all epochs.
        loss: None where the side computes the forward pass alone.
        rate: likewise.
        calls: of the network's graph, in topological order.
        magnitudes: the largest absolute value of each trainable variable before the step.
    """

    step: int
    loss: float | None
    rate: float | None
    calls: tuple[LayerCall, ...]
    magnitudes: dict[str, float]


@dataclass(frozen=True)
class StepRecord:
    """A step from a given state, tensor by tensor.

    Attributes:
        images: uint8 [B, H, W, 3]; `labels` integers [B] or floats [B, 3].
        activations: the output of each call, of the calls' order.
        gradients: of the loss, by trainable variable, before the optimizer changes them.
        held: those gradients if each call with a kink, such as a ReLU, takes the input that it has
            on the first side; empty if no call has one.
        statistics: the variables that are not trained, after the step: moving averages.
        updates: what the optimizer adds to each trainable variable, given the same gradients on all
            sides: those of the first side.
    """

    facts: StepFacts
    images: np.ndarray
    labels: np.ndarray
    activations: tuple[np.ndarray, ...]
    gradients: Arrays
    statistics: Arrays
    updates: Arrays
    held: Arrays = field(default_factory=dict)


def versions(backends: Collection[str]) -> dict[str, str]:
    """Returns the versions of the packages that decide the numbers of some backends, by name."""
    optional = [name for name in OPTIONAL_PACKAGES if name in backends]
    return {name: version(name) for name in (*PACKAGES, *optional)}


def sample(array: np.ndarray, name: str) -> np.ndarray:
    """Returns at most `MAX_ELEMENTS` numbers of an array, float32 [M].

    Args:
        name: determines, with the size, which.
    """
    flat = np.asarray(array).reshape(-1).astype("float32")
    return flat if flat.size <= MAX_ELEMENTS else flat[positions(name, flat.size, MAX_ELEMENTS)]


def positions(name: str, size: int, count: int) -> np.ndarray:
    """Returns `count` sorted positions of 0..size-1, int64, drawn by name; all if there are fewer.

    A fault in a few channels or at a border is met almost surely: each number is as likely as any
    other.
    """
    if count >= size:
        return np.arange(size)
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.Philox(key))
    return np.unique(rng.integers(0, size, count))


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Returns the SHA-256 of a batch."""
    sha = hashlib.sha256()
    for array in (images, labels):
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


# ------------------------------------------------------------------------------------------- files


def write_step(path: Path, record: StepRecord) -> None:
    """Writes the record of a step as an .npz file, whole or not at all."""
    arrays = {"images": record.images, "labels": record.labels}
    arrays |= {f"activations/{i:05d}": array for i, array in enumerate(record.activations)}
    for kind in ("gradients", "held", "statistics", "updates"):
        arrays |= {f"{kind}/{name}": array for name, array in getattr(record, kind).items()}
    facts = np.frombuffer(json.dumps(to_json(record.facts)).encode(), "uint8")
    write_arrays(path, {"facts": facts} | arrays)


def read_step(path: Path) -> StepRecord:
    """Reads what `write_step` wrote."""
    arrays = read_arrays(path)

    def of(kind: str) -> Arrays:
        prefix = f"{kind}/"
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    return StepRecord(
        facts=parse_record(StepFacts, arrays["facts"].tobytes()),
        images=arrays["images"],
        labels=arrays["labels"],
        activations=tuple(array for _, array in sorted(of("activations").items())),
        gradients=of("gradients"),
        statistics=of("statistics"),
        updates=of("updates"),
        held=of("held"),
    )


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Writes arrays by name as an .npz file, whole or not at all."""
    with atomic_file(path) as file:
        # A sign before each name: np.savez would take one such as "file" for its own argument.
        np.savez(file, **{f"={name}": array for name, array in arrays.items()})  # type: ignore[arg-type]  # its allow_pickle


def read_arrays(path: Path) -> Arrays:
    """Reads what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name.removeprefix("="): file[name] for name in file.files}


def scale_of(arrays: Sequence[np.ndarray]) -> float:
    """Returns the largest absolute value of several arrays; 0 for none."""
    return max((float(np.abs(array).max()) for array in arrays if array.size), default=0.0)
