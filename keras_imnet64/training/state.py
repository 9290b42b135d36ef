"""Reads and writes the state of a run: its variables as arrays by path, and checkpoint files.

The format is the same for every backend: a safetensors file with one tensor for each variable of
the model (seed generators included), the optimizer and the metrics. The header holds the run's
state as JSON (`records.RunState`), the names, types, shapes and offsets of the tensors, and a
SHA-256 of everything. Tensors and header are one file, renamed into place, so that they always
match. `checkpoints` decides when checkpoints are written.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.types import Json, JsonObject, Variable
from keras_imnet64.core.validation import parse_record, to_json
from keras_imnet64.models.paths import by_path
from keras_imnet64.records import CheckpointMetadata, RunState

NUM_KEPT = 2  # if the newest checkpoint is damaged, a run resumes from the other
NAME = "epoch-{epoch:04d}-step-{step:07d}.safetensors"
PATTERN = re.compile(r"epoch-(\d{4,})-step-(\d{7,})\.safetensors")

Arrays: TypeAlias = dict[str, np.ndarray]  # by variable path
Variables: TypeAlias = dict[str, Variable]  # by path


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    path: Path
    arrays: Arrays
    run_state: RunState


def variables_by_path(model: keras.Model, metrics: Iterable[keras.metrics.Metric]) -> Variables:
    """Returns {"model/...": v, "optimizer/...": v, "metrics/...": v} of a compiled model.

    Args:
        metrics: the model's metrics. `model.metrics` would not do, because the variables of some
            metrics that it lists do not exist before the first step.
    """
    variables = {f"model/{path}": v for path, v in by_path(model).items()}
    variables |= {v.path: v for v in model.optimizer.variables}
    for metric in metrics:
        variables |= {f"metrics/{metric.name}/{v.name}": v for v in metric.variables}
    return variables


def read_variables(model: keras.Model, variables: Variables) -> Arrays:
    """Returns copies of the variables' values; call it between two steps, from the main thread."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    return {path: np.array(ops.convert_to_numpy(v)) for path, v in variables.items()}


def assign_variables(variables: Variables, arrays: Arrays, source: object) -> None:
    """Assigns arrays to the variables of their paths.

    Args:
        source: the origin of the arrays, for the error message.

    Raises:
        UserError: the paths or shapes of the two differ.
    """
    differing = sorted(set(variables) ^ set(arrays))
    differing += [
        path
        for path, variable in variables.items()
        if path in arrays and tuple(variable.shape) != arrays[path].shape
    ]
    if differing:
        raise UserError(
            f"{source} does not fit this network: {differing[0]} and {len(differing) - 1} more "
            "differ; it was written by another recipe, or by a model of your own that needs fixed "
            "names, as its layers do (Keras' default names depend on what the process built before)"
        )
    for path, variable in variables.items():
        variable.assign(arrays[path].astype(variable.dtype))


def save_checkpoint(folder: Path, arrays: Arrays, run_state: RunState) -> Path:
    """Writes a checkpoint, whole or not at all, and deletes all but the newest two.

    Args:
        folder: the run's `checkpoints`.
        run_state: its epoch and step are those at which training resumes.

    Returns:
        The file's path.
    """
    from safetensors.numpy import save

    path = folder / NAME.format(epoch=run_state.epoch, step=run_state.step)
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    progress = json.dumps(to_json(run_state))
    metadata = CheckpointMetadata(progress, _digest(arrays, progress))
    folder.mkdir(exist_ok=True)  # a user may have deleted it
    write_atomic(path, save(arrays, metadata=to_json(metadata)))
    for old in list_checkpoints(folder)[:-NUM_KEPT]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoint files, ordered by the epoch and step at which training resumes."""
    found = [path for path in folder.glob("*.safetensors") if PATTERN.fullmatch(path.name)]
    return sorted(found, key=epoch_and_step)


def epoch_and_step(path: Path) -> tuple[int, int]:
    """Returns the epoch and step, both counted from 0, at which training resumes from a file."""
    match = PATTERN.fullmatch(path.name)
    assert match is not None, path  # it comes from `list_checkpoints`
    return int(match[1]), int(match[2])


def newest_checkpoint(
    folder: Path, decisions: JsonObject, before: tuple[int, int] | None = None
) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint of this recipe, or None if there is no checkpoint.

    Newer files that are damaged or of another recipe are renamed, with a message for each.

    Args:
        folder: the run's `checkpoints`.
        decisions: of the recipe, see `recipe.difference`.
        before: (epoch, step); checkpoints of that step and later ones are deleted.

    Raises:
        UserError: none of the files can be used; they are left as they are.
        OSError: a file cannot be read.
    """
    unusable: list[tuple[Path, UserError]] = []
    for path in reversed(list_checkpoints(folder)):
        if before is not None and epoch_and_step(path) >= before:
            continue
        try:
            checkpoint = load_checkpoint(path)
            _check_recipe(checkpoint, decisions)
        except UserError as error:
            unusable.append((path, error))
            continue
        for other, problem in unusable:
            say(f"skipped: {problem}")
            other.rename(other.with_name(f"{other.name}.damaged"))
        for other in list_checkpoints(folder):
            if epoch_and_step(other) > epoch_and_step(path):
                other.unlink()
        return checkpoint
    if unusable:
        raise UserError(
            f"no checkpoint in {folder} can be used: {unusable[0][1]}; start over with --fresh"
        )
    return None


def _check_recipe(checkpoint: Checkpoint, decisions: JsonObject) -> None:
    """Refuses the checkpoint of another recipe; compares only settings that both have."""
    found = checkpoint.run_state.recipe
    if not _agree(found, decisions):
        raise UserError(f"the checkpoint {checkpoint.path} is of another recipe")


def _agree(a: Json, b: Json) -> bool:
    """Returns whether values are equal, of tables those that both have, at all levels."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_agree(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_agree, a, b))
    return bool(a == b)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint file; raises a UserError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    open(path, "rb").close()  # an OSError here does not mean that the file is damaged
    try:
        with safe_open(path, "numpy") as file:
            metadata = parse_record(CheckpointMetadata, json.dumps(file.metadata() or {}))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _digest(arrays, metadata.progress) != metadata.sha256:
            raise ValueError("its checksum does not match its content")
        run_state = parse_record(RunState, metadata.progress)
        if NAME.format(epoch=run_state.epoch, step=run_state.step) != path.name:
            raise ValueError("its name states another epoch or step than its content")
        return Checkpoint(path, arrays, run_state)
    except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint {path} is damaged ({reason(error)})") from error


def _digest(arrays: Mapping[str, np.ndarray], progress: str) -> str:
    """Returns the SHA-256 of a checkpoint's content; safetensors has no checksum of its own."""
    sha = hashlib.sha256(progress.encode())
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.asarray(array, order="C").data)
    return sha.hexdigest()
