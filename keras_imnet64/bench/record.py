"""The result of a benchmark as records, as `bench --json` prints it and `--against` reads it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from keras_imnet64.bench.rounds import TASKS
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import JsonObject
from keras_imnet64.core.validation import read_record

MAX_FILE_BYTES = 2**24
TUNED_MODE = "tuned"  # of PyTorch, on a CPU alone; see benchmarks/torch_peer.py


@dataclass(frozen=True)
class Timing:
    """The seconds of one batch.

    Attributes:
        rounds: one mean over a block of batches for each round, in their order.
        spread: half the distance between the quartiles of the rounds, as a share of the median.
    """

    median: float
    spread: float
    rounds: tuple[float, ...]


def timing_of(rounds: Sequence[float]) -> Timing:
    """Returns the median and spread of the rounds."""
    lower, median, upper = np.percentile(rounds, [25, 50, 75]).tolist()
    return Timing(median, (upper - lower) / 2 / median, tuple(rounds))


@dataclass(frozen=True)
class Row:
    """What was measured of one side under one dtype.

    Attributes:
        name: "tensorflow", "jax", "torch eager", "torch compile" or "torch tuned".
        compile_seconds: until the end of the first step, from the built model on; tracing is part.
        peak_memory_mb: of compiling and making steps, without what the framework itself holds; None
            where the system does not count.
        both: a step fed by the input pipeline. `input` and `both` are None without images.
    """

    name: str
    dtype: str
    is_peer: bool
    devices: tuple[str, ...]
    compile_seconds: float | None
    peak_memory_mb: float | None
    forward: Timing | None = None
    step: Timing | None = None
    input: Timing | None = None
    both: Timing | None = None

    @property
    def label(self) -> str:
        return f"{self.name} {self.dtype}"

    def values(self) -> Iterator[tuple[str, float]]:
        """Yields (name, median) of every figure that was measured; less is better in each."""
        for task in TASKS:
            timing: Timing | None = getattr(self, task)
            if timing is not None:
                yield task, timing.median
        if self.compile_seconds is not None:
            yield "compile", self.compile_seconds
        if self.peak_memory_mb is not None:
            yield "memory", self.peak_memory_mb


@dataclass(frozen=True)
class Ratio:
    """How one of our rows stands beside PyTorch under the same dtype.

    Attributes:
        step, forward: speed of ours by that of the fastest of PyTorch's modes; above 1 ours is
            faster.
        step_as_installed: as `step`, without the mode in which PyTorch's allocator is tuned.
        memory: peak of ours by the smallest of PyTorch's; below 1 ours needs less.
    """

    name: str
    dtype: str
    step: float
    forward: float
    memory: float | None
    step_as_installed: float


@dataclass(frozen=True)
class BenchMachine:
    """The machine that measured, by what makes figures comparable."""

    cpu: str
    cores: int | None
    gpus: tuple[str, ...]

    @property
    def in_words(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.cores} cores of {self.cpu}{gpus}"


@dataclass(frozen=True)
class Subject:
    """What was measured: results are compared only if this is equal.

    Attributes:
        model: name and options of the network.
        batch_size: images of a step.
    """

    recipe: str
    model: JsonObject
    image_size: int
    num_classes: int
    batch_size: int

    @property
    def in_words(self) -> str:
        return (
            f"{self.recipe} at {self.batch_size} images of {self.image_size} px per step, "
            f"{self.num_classes} classes"
        )


@dataclass(frozen=True)
class BenchRecord:
    """The result of `bench`.

    Attributes:
        overrides: as --set gave them.
        images: the data set, or "random" where it is not prepared.
        date: ISO 8601 with the time zone.
        load: the system's load average of a minute, before anything was measured.
        block_seconds: that a block took, about; a round has one block of each figure.
        ratios: empty without --peer.
    """

    subject: Subject
    overrides: tuple[str, ...]
    images: str
    machine: BenchMachine
    versions: dict[str, str]
    date: str
    load: float
    num_rounds: int
    block_seconds: float
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...] = ()
    kind: Literal["keras_imnet64 bench"] = "keras_imnet64 bench"


def ratios_of(rows: Sequence[Row]) -> Iterator[Ratio]:
    """Yields how each of our rows stands beside PyTorch's rows of its dtype, if there are any."""
    for row in rows:
        peers = [peer for peer in rows if peer.is_peer and peer.dtype == row.dtype]
        if row.is_peer or not peers:
            continue
        ours = dict(row.values())
        best = {name: min(found) for name in ours if (found := values_of(peers, name))}
        as_installed = [peer for peer in peers if TUNED_MODE not in peer.name]
        yield Ratio(
            row.name,
            row.dtype,
            best["step"] / ours["step"],
            best["forward"] / ours["forward"],
            ours["memory"] / best["memory"] if "memory" in best else None,
            min(values_of(as_installed, "step")) / ours["step"],
        )


def values_of(rows: Sequence[Row], name: str) -> list[float]:
    """Returns a figure of those rows that have it."""
    return [value for row in rows for figure, value in row.values() if figure == name]


@dataclass(frozen=True)
class Change:
    """What a figure is now, by what it was: below 1 it takes less time or memory than before."""

    name: str
    dtype: str
    figure: str
    ratio: float


def changes(before: BenchRecord, after: BenchRecord) -> Iterator[Change]:
    """Yields the change of each figure that both results have."""
    old = {row.label: dict(row.values()) for row in before.rows}
    for row in after.rows:
        for name, value in row.values():
            if name in old.get(row.label, {}):
                yield Change(row.name, row.dtype, name, value / old[row.label][name])


def differences(before: BenchRecord, after: BenchRecord) -> Iterator[str]:
    """Yields what else may have changed the figures: settings, images and versions."""
    if before.overrides != after.overrides:
        then, now = (" ".join(record.overrides) or "none" for record in (before, after))
        yield f"overrides were {then}, and are {now}"
    if before.images != after.images:
        yield f"images were {before.images}, and are {after.images}"
    then_on = {row.label: row.devices for row in before.rows}
    for row in after.rows:
        if row.devices != then_on.get(row.label, row.devices):
            then, now = (", ".join(names) for names in (then_on[row.label], row.devices))
            yield f"{row.label} ran on {then}, and runs on {now}"
    for name in before.versions.keys() | after.versions.keys():
        then, now = (record.versions.get(name, "missing") for record in (before, after))
        if then != now:
            yield f"{name} was {then}, and is {now}"


def read_result(path: Path) -> BenchRecord:
    """Returns the result in a file that holds the output of `bench --json`."""
    try:
        return read_record(BenchRecord, path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} holds no result of `bench --json` ({reason(os_error_text(error, path))}): "
            "--against takes a file into which one was written"
        ) from error


def check_comparable(
    path: Path,
    before: BenchRecord,
    subject: Subject,
    machine: BenchMachine,
    labels: Sequence[str],
) -> None:
    """Refuses a result of something else, or of another machine.

    Args:
        labels: of the rows to measure.
    """
    if before.machine != machine:
        raise UserError(
            f"{path} was measured on another machine, {before.machine.in_words}, and this one is "
            f"{machine.in_words}: measure both results on one machine"
        )
    if before.subject != subject:
        model = "" if before.subject.model == subject.model else " and another network"
        raise UserError(
            f"{path} is of {before.subject.in_words}{model}; received {subject.in_words}: measure "
            "both results with the same recipe and batch"
        )
    known = [row.label for row in before.rows]
    if not set(known) & set(labels):
        raise UserError(
            f"{path} has {', '.join(known)}; received {', '.join(labels)}: measure a backend and "
            "dtype that it has"
        )
