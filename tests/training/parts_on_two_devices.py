"""Child of test_two_devices.py: asks parts of the product about two devices, as JSON on its output.

Usage: python parts_on_two_devices.py PIXELS.npy RECIPE.toml DATA_DIR RUN_DIR
"""

import json
import sys

import numpy as np

from keras_imnet64.backend.devices import choose_backend, take_devices


def measured(pixels, devices, mode):
    """Mean and variance of two normalisations, with a square between them."""
    import keras

    from keras_imnet64.training.statistics import remeasure

    with devices.scope():
        inputs = keras.Input(pixels.shape[1:])
        norms = [keras.layers.BatchNormalization(name=name) for name in ("first", "second")]
        x = norms[1](keras.ops.square(norms[0](inputs)))
        model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
        remeasure(model, iter([pixels]), 1, devices, per_device=mode == "per_device")
    found = [each for norm in norms for each in (norm.moving_mean, norm.moving_variance)]
    return [keras.ops.convert_to_numpy(each).tolist() for each in found]


def filters_of(recipe, data_dir, devices):
    """The filters of the whitening layer, as each device holds them."""
    from keras_imnet64.training.setup import training_setup

    setup = training_setup(recipe, data_dir=data_dir, devices=devices)
    value = setup.network.get_layer("whitening").kernel.value
    return [copy.numpy().tolist() for copy in value.values]


def failed(recipe, data_dir, run_dir, devices):
    """(sentence, last step) of a run whose moving variance overflows in step 10."""
    from test_not_finite import Overwrite

    from keras_imnet64.core.errors import RunFailed
    from keras_imnet64.training.callbacks import finiteness
    from keras_imnet64.training.fit import fit

    finiteness.STEPS_BETWEEN_CHECKS = 4
    overwrite = Overwrite("moving_variance", 0, 10)
    try:
        fit(recipe, run_dir, data_dir=data_dir, devices=devices, callbacks=[overwrite])
    except RunFailed as error:
        return str(error), max(overwrite.steps_seen)[1]
    raise AssertionError("the run did not fail")


def main(pixels, recipe_file, data_dir, run_dir):
    choose_backend()
    devices = take_devices(virtual=2)

    from keras_imnet64.recipe.loading import load_recipe

    recipe, pixels = load_recipe(recipe_file), np.load(pixels)
    found = {
        "devices": list(devices.names),
        "statistics": {mode: measured(pixels, devices, mode) for mode in ("global", "per_device")},
        "filters": filters_of(recipe, data_dir, devices),
        "failed": failed(recipe, data_dir, run_dir, devices),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
