"""Fills a new network from a model file, for fine-tuning, and reports what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.paths import expand
from keras_imnet64.core.types import StrPath
from keras_imnet64.models.info import head_problem, read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.models.options import WHITENING
from keras_imnet64.models.paths import SEED_STATE, by_path

if TYPE_CHECKING:
    import keras

# Settings of layers that change what a network computes, but not the shape of a weight.
COMPARED_SETTINGS = {"strides", "pool_size", "mean", "variance"}
MAX_CHARACTERS = 60  # of two settings in a message: a mean image would fill the screen


def find_weights(path: StrPath) -> Path:
    """Returns the file of initial weights, whose path may begin with ~; raises UserError."""
    file = expand(path)
    if not file.is_file():
        raise UserError(f"train.initial_weights: {path} is not a file; a .keras file is needed")
    return file


def warm_start(
    model: keras.Model, path: StrPath, wnids: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Fills `model` from a `.keras` file by layer path.

    The head `logits` is filled only if the file states the same class ids in the same order.

    Args:
        model: the network to fill.
        path: the `.keras` file.
        wnids: class ids of the model's logits.

    Returns:
        (skipped, differences), in words for the user: the variables that keep their fresh values
        because the file lacks them or has another shape, such as the head for other classes; and
        the layers that were filled but compute something else in the file's network, for example
        with another stride.

    Raises:
        UserError: no variable of the model is in the file.
    """
    from keras import ops

    loaded = load_model(find_weights(path))
    try:
        source = by_path(loaded)
    except ValueError as error:
        raise UserError(f"train.initial_weights: {path} cannot be read: {error}") from None
    their_wnids = read_model_info(find_weights(path)).wnids
    same_classes = their_wnids == tuple(wnids)
    skipped, num_filled = [], 0
    # Layers that are not trainable are part of the network, such as the band of a spectral one, but
    # for the filters that were measured for the weights behind them.
    fixed = tuple(
        f"{layer.name}/"
        for layer in model.layers
        if not layer.trainable and layer.name != WHITENING
    )
    for name, variable in by_path(model).items():
        if variable.name == SEED_STATE or name.startswith(fixed):
            continue
        shape = tuple(variable.shape)
        if not same_classes and name.startswith("logits/"):
            skipped.append(f"{name}: {head_problem(their_wnids)}")
        elif name in source and tuple(source[name].shape) == shape:
            variable.assign(ops.convert_to_numpy(source[name]))
            num_filled += 1
        else:
            in_file = tuple(source[name].shape) if name in source else "nothing"
            skipped.append(f"{name}: {shape} here, {in_file} in the file")
    if not num_filled:
        raise UserError(
            f"train.initial_weights: no layer of {path} has the name and shape of one of this "
            f"network; the first that differs is {skipped[0]}"
        )
    return skipped, _differences(model, loaded)


def _differences(model: keras.Model, loaded: keras.Model) -> list[str]:
    """Describes layers of one name that compute different things, and pools in one model only."""
    ours = {layer.name: layer.get_config() for layer in model.layers}
    theirs = {layer.name: layer.get_config() for layer in loaded.layers}
    found = []
    for name in ours.keys() & theirs.keys():
        for key in COMPARED_SETTINGS & ours[name].keys() & theirs[name].keys():
            if ours[name][key] != theirs[name][key]:
                both = f"{key} {theirs[name][key]} in the file, {ours[name][key]} here"
                short = both if len(both) < MAX_CHARACTERS else f"another {key}"
                found.append(f"{name} has {short}")
    our_pools = {name for name, config in ours.items() if "pool_size" in config}
    their_pools = {name for name, config in theirs.items() if "pool_size" in config}
    found += [f"{name} is only in the file" for name in their_pools - our_pools]
    found += [f"{name} is only in this network" for name in our_pools - their_pools]
    return sorted(found)
