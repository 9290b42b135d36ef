"""All state of a training run as a flat mapping from variable path to array, and its files.

The format is the same for every backend: a safetensors file with one tensor for each variable of
the model (seed generators included), the optimizer and the metrics, and the run's progress (where
it is, history, best score) as JSON in the header. One file, renamed into place, so that a
checkpoint that exists is whole.
"""

import hashlib
import json
import re

import numpy as np
from keras import ops

from keras_imnet64.errors import UserError, reason
from keras_imnet64.files import check_fields, parse_json, write_atomic
from keras_imnet64.models.paths import by_path

KEPT = 2  # checkpoints that always exist, once there are so many
NAME = "epoch-{epoch:04d}-step-{step:07d}.safetensors"
PATTERN = re.compile(r"epoch-(\d{4,})-step-(\d{7,})\.safetensors")


def variables_by_path(model, metrics):
    """{"model/...": v, "optimizer/...": v, "metrics/...": v} of a compiled model.

    Args:
        metrics: the model's metrics; their variables exist from the start, which those that Keras
            lists before the first step do not.
    """
    variables = {f"model/{path}": v for path, v in by_path(model).items()}
    variables |= {v.path: v for v in model.optimizer.variables}
    for metric in metrics:
        variables |= {f"metrics/{metric.name}/{v.name}": v for v in metric.variables}
    return variables


def read_state(variables):
    """{path: NumPy array}."""
    return {path: np.asarray(ops.convert_to_numpy(v)) for path, v in variables.items()}


def write_state(variables, state, source):
    """Assign a state to the variables of its paths; UserError if the two do not match."""
    missing = sorted(set(variables) ^ set(state))
    wrong = [p for p in variables if p in state and tuple(variables[p].shape) != state[p].shape]
    if missing or wrong:
        raise UserError(
            f"{source} does not fit this network: {(missing + wrong)[0]} and "
            f"{len(missing + wrong) - 1} more differ; was it written by another recipe, or by a "
            "model of your own without names for its layers, which Keras numbers on in a process?"
        )
    for path, variable in variables.items():
        variable.assign(state[path].astype(variable.dtype))


def save_checkpoint(folder, state, progress):
    """Write a checkpoint, whole or not at all, and remove all but the last two.

    Args:
        folder: the run's `checkpoints`.
        state: {path: array}.
        progress: JSON-able dict with at least "epoch" and "step", where training goes on.
    """
    from safetensors.numpy import save

    path = folder / NAME.format(**progress)
    state = {name: np.asarray(array, order="C") for name, array in state.items()}
    text = json.dumps(progress)
    metadata = {"progress": text, "sha256": _digest(state, text)}
    write_atomic(path, save(state, metadata=metadata))
    for old in list_checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def list_checkpoints(folder):
    """Checkpoint files, oldest first by where training goes on from them."""
    found = [path for path in folder.glob("*.safetensors") if PATTERN.fullmatch(path.name)]
    return sorted(found, key=lambda path: [int(n) for n in PATTERN.fullmatch(path.name).groups()])


def load_checkpoint(path):
    """(state {path: array}, progress dict) of a checkpoint file; UserError if it is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            check_fields(metadata, {"progress": str, "sha256": str})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _digest(state, metadata["progress"]) != metadata["sha256"]:
            raise ValueError("it is not what was saved")
        return state, parse_json(metadata["progress"])
    except (SafetensorError, OSError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"the checkpoint {path} is damaged ({reason(error)}); remove it to go on from the one "
            "before"
        ) from error


def _digest(state, progress):
    """SHA-256 (hex) of what a checkpoint holds; safetensors has no sum of its own."""
    sha = hashlib.sha256(progress.encode())
    for name, array in sorted(state.items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.asarray(array, order="C").data)
    return sha.hexdigest()
