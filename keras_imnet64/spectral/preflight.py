"""A look ahead of training: can the network be built, its data be opened, and on which GPUs?

`python -m keras_imnet64.spectral.preflight < request.json`: in a process of its own, which gives
the GPUs back when it ends. A data set that is not packed yet is packed here, for all branches.
"""

import json
import sys

from keras_imnet64.backend.devices import choose_backend, choose_indices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.library_logs import silence_libraries
from keras_imnet64.core.progress_bars import PackingBar
from keras_imnet64.recipe.costs import outline_of
from keras_imnet64.recipe.loading import check_recipe, parse_toml


def look(recipe, devices, where):
    """What is printed.

    Args:
        recipe: TOML text, of all branches.
        devices: as for `take_devices`.
        where: options of `fit`: "data-dir", "cache-dir", "virtual-devices", those that are given.

    Returns:
        {"gpus": the indices of those asked for, among all, [] for the CPU; "mistake": a sentence,
        or None; "failed": whether that is a `RunFailed`}.
    """
    try:
        return {"gpus": _look(recipe, devices, where), "mistake": None, "failed": False}
    except UserError as error:
        return {"gpus": [], "mistake": str(error), "failed": isinstance(error, RunFailed)}


def _look(recipe, devices, where):
    choose_backend()
    virtual = where.get("virtual-devices")
    present = take_devices(None, virtual and int(virtual))
    chosen = choose_indices(devices, present.count, present.kind)
    from keras_imnet64.training.data import load_data, make_stream

    recipe = check_recipe(parse_toml(recipe))
    outline_of(recipe)
    with keras_defaults(), PackingBar() as progress:
        make_stream(
            recipe, load_data(recipe, where.get("data-dir"), where.get("cache-dir"), progress)
        )
    return [] if present.kind == "cpu" else chosen


if __name__ == "__main__":
    silence_libraries()
    print(json.dumps(look(**json.load(sys.stdin))))
