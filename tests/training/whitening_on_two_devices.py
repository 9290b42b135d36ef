"""Child of test_whitened_runs.py: trains a recipe on two devices, as JSON on its output.

Usage: python whitening_on_two_devices.py RECIPE.toml DATA_DIR RUN_DIR
"""

import json
import sys

import numpy as np

from keras_imnet64.backend.devices import choose_backend, take_devices


def copies_of(variable):
    """The arrays of a variable, one of each device."""
    value = variable.value
    if hasattr(value, "addressable_shards"):
        return [np.asarray(shard.data) for shard in value.addressable_shards]
    return [copy.numpy() for copy in getattr(value, "values", [value])]


def main(recipe_file, data_dir, run_dir):
    choose_backend()
    devices = take_devices(virtual=2)

    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.training.fit import fit
    from keras_imnet64.training.setup import training_setup

    recipe = load_recipe(recipe_file)
    setup = training_setup(recipe, data_dir=data_dir, devices=devices)
    copies = copies_of(setup.network.get_layer("whitening").kernel)
    run = fit(recipe, run_dir, data_dir=data_dir, devices=devices)
    losses = [float(row["loss"]) for row in run.history]
    print(json.dumps({"copies": [copy.tolist() for copy in copies], "losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
