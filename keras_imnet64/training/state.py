"""All state of a training run as a flat mapping from variable path to array, and its files.

The format is the same for every backend: a safetensors file with one tensor for each variable of
the model (seed generators included), the optimizer and the metrics, and the run's progress (where
it is, history, best score) as JSON in the header, which is also the manifest: names, kinds, shapes
and places of the tensors, and a SHA-256 of all. One file, renamed into place, so that nothing can
come between it and its manifest. When they are written is told in `checkpoints`.
"""

import hashlib
import json
import re

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import check_fields, parse_json, write_atomic
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


def read_state(model, variables):
    """{path: NumPy array}, copies, between two steps of training."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    return {path: np.array(ops.convert_to_numpy(v)) for path, v in variables.items()}


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


def is_finite(state):
    """Whether no number of a state is infinite or none."""
    return all(np.isfinite(array).all() for array in state.values())


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
    folder.mkdir(exist_ok=True)  # somebody may have deleted it
    write_atomic(path, save(state, metadata=metadata))
    for old in list_checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder):
    """Checkpoint files, oldest first by where training goes on from them."""
    found = [path for path in folder.glob("*.safetensors") if PATTERN.fullmatch(path.name)]
    return sorted(found, key=place_of)


def place_of(path):
    """[epoch, step], where training goes on."""
    return [int(number) for number in PATTERN.fullmatch(path.name).groups()]


def newest_checkpoint(folder, recipe, before=None):
    """The newest checkpoint that is whole and of this recipe.

    Newer ones that are not are named, set aside under another name, and passed over.

    Args:
        folder: the run's `checkpoints`.
        recipe: its `difference.decisions`.
        before: (epoch, step), of which and after which none is wanted; they are deleted.

    Returns:
        (path, state {path: array}, progress dict), or None where there is none at all.

    Raises:
        UserError: there are some, and none of them will do; they are left as they are.
        OSError: one cannot be read.
    """
    passed_over = []
    for path in reversed(list_checkpoints(folder)):
        if before is not None and place_of(path) >= list(before):
            continue
        try:
            state, progress = load_checkpoint(path)
            _check_recipe(path, progress.get("recipe"), recipe)
        except UserError as error:
            passed_over.append((path, error))
            continue
        for other, error in passed_over:
            say(f"passed over: {error}")
            other.rename(other.with_name(f"{other.name}.damaged"))
        for other in list_checkpoints(folder):
            if place_of(other) > place_of(path):
                other.unlink()
        return path, state, progress
    if passed_over:
        raise UserError(
            f"no checkpoint in {folder} will do: {passed_over[0][1]}; begin anew with --fresh"
        )
    return None


def _check_recipe(path, found, recipe):
    """Settings that neither knows of are those of every version."""
    found = found if isinstance(found, dict) else {}
    if any(found.get(key, value) != value for key, value in recipe.items()):
        raise UserError(f"the checkpoint {path} is of another recipe")


def load_checkpoint(path):
    """(state {path: array}, progress dict) of a checkpoint file; UserError if it is not whole."""
    from safetensors import SafetensorError, safe_open

    open(path, "rb").close()  # what the system refuses is no damage
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            check_fields(metadata, {"progress": str, "sha256": str})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _digest(state, metadata["progress"]) != metadata["sha256"]:
            raise ValueError("it is not what was saved")
        progress = parse_json(metadata["progress"])
        if NAME.format(**progress) != path.name:
            raise ValueError("it is of another place in training than its name says")
        return state, progress
    except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint {path} is damaged ({reason(error)})") from error


def _digest(state, progress):
    """SHA-256 (hex) of what a checkpoint holds; safetensors has no sum of its own."""
    sha = hashlib.sha256(progress.encode())
    for name, array in sorted(state.items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.asarray(array, order="C").data)
    return sha.hexdigest()
