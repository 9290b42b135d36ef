"""Measures how fast a recipe trains on this machine, per backend and dtype, and beside PyTorch.

`bench` checks what is asked and makes the result. `rounds` starts a process for each side and
alternates among them; `worker` is such a process, which `epochs`, `memory` and `stand_in` serve;
`record` is the result and `text` prints it; `sides` are what a comparison can have.
"""

import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from keras_imnet64.bench.record import (
    TUNED_MODE,
    BenchMachine,
    BenchRecord,
    Row,
    Subject,
    check_comparable,
    ratios_of,
    read_result,
    timing_of,
)
from keras_imnet64.bench.rounds import Measured, measure
from keras_imnet64.bench.sides import (
    PEER_MODES,
    check_peer,
    checked_backends,
    our_sides,
    peers,
    with_dtypes,
)
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.datasets import info
from keras_imnet64.doctor import facts
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe

QUIET_LOAD = 0.5  # processes; PyTorch loses most to others, whose cores its threads wait for
CPU_INFO = Path("/proc/cpuinfo")
VERSIONS = ("python", "keras-imnet64", "keras", "tensorflow", "jax", "numpy", "torch")


def bench(
    name_or_path: StrPath,
    overrides: Sequence[str] = (),
    *,
    batch_size: int | None = None,
    backends: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    num_rounds: int = 9,
    block_seconds: float = 1.0,
    peer: bool = False,
    against: Path | None = None,
    devices: str | None = None,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
) -> BenchRecord:
    """Measures forward passes, training steps and input of a recipe in alternating rounds.

    Args:
        name_or_path, overrides: as for `load_recipe`.
        batch_size: in place of the recipe's `data.batch_size`.
        backends: default: the one that other commands would use.
        dtypes: default: the recipe's `train.dtype`.
        block_seconds: that a block takes, about; a round has one block of each figure.
        peer: whether PyTorch is measured too, with the peer of the repository's benchmarks.
        against: a file with an earlier result, which must be comparable; see `check_comparable`.
        devices: as for `take_devices`.

    Raises:
        UserError: what is asked does not fit, or the recipe cannot be trained here.
        RunFailed: a worker failed.
    """
    if batch_size is not None:
        overrides = (*overrides, f"data.batch_size={batch_size}")
    recipe = load_recipe(name_or_path, overrides)
    backends = checked_backends(backends)
    recipes = with_dtypes(recipe, dtypes)
    dataset = info(recipe.data.dataset, data_dir=data_dir, cache_dir=cache_dir)
    has_images = dataset["state"] == "packed"
    machine, subject = this_machine(), subject_of(recipe, dataset["classes"])
    if peer:
        check_peer(devices)
        devices = "1"
    ours = our_sides(recipes, backends, has_images, devices, data_dir, cache_dir)
    if against is not None:
        labels = [side.label for side in ours]
        check_comparable(against, read_result(against), subject, machine, labels)
    if not has_images:
        say(
            f"note: {recipe.data.dataset} is not packed, so steps are measured on random images, "
            "and input is not measured"
        )
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        say(
            f"note: other programs use this machine (load average {load:.1f}), which slows the "
            "sides down unequally: compare on a quiet one"
        )
    with TemporaryDirectory(prefix="bench-") as folder:
        modes = PEER_MODES if machine.gpus else (*PEER_MODES, TUNED_MODE)
        sides = [*peers(recipes, subject, Path(folder), modes), *ours] if peer else ours
        rows = tuple(map(row_of, measure(sides, num_rounds, block_seconds)))
    found = facts.versions()
    return BenchRecord(
        subject=subject,
        overrides=tuple(overrides),
        images=recipe.data.dataset if has_images else "random",
        machine=machine,
        versions={name: version for name in VERSIONS if (version := found.get(name))},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        load=load,
        num_rounds=num_rounds,
        block_seconds=block_seconds,
        rows=rows,
        ratios=tuple(ratios_of(rows)),
    )


def subject_of(recipe: Recipe, num_classes: int | None) -> Subject:
    """Returns what is measured.

    Args:
        num_classes: of the data set; None if its images are not prepared and alone could tell.
    """
    num_classes = recipe.data.classes or num_classes
    if num_classes is None:
        raise UserError(
            f"the number of classes of {recipe.data.dataset} is known from its images alone, which "
            "are not prepared: set data.classes, such as --set data.classes=100"
        )
    return Subject(
        recipe.name,
        {"name": recipe.model.name, **json.loads(json.dumps(recipe.model.options))},
        recipe.image_size,
        num_classes,
        recipe.data.batch_size,
    )


def row_of(measured: Measured) -> Row:
    """Returns what a worker has measured as a row of the result."""
    side, ready = measured.side, measured.facts
    return Row(
        side.name,
        side.dtype,
        side.is_peer,
        tuple(ready.get("devices", ())),
        ready.get("compile_seconds"),
        measured.memory_mb,
        **{task: timing_of(rounds) for task, rounds in measured.seconds.items()},
    )


def this_machine() -> BenchMachine:
    """Returns what makes figures of this machine comparable: CPU, cores and GPUs."""
    machine = facts.machine()
    return BenchMachine(cpu_name(), machine.cpu_cores, tuple(gpu.name for gpu in machine.gpus))


def cpu_name() -> str:
    """Returns the name of the processor, or its architecture where the system does not tell."""
    text = CPU_INFO.read_text(errors="replace") if CPU_INFO.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
