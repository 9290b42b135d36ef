"""Child of test_not_finite.py: a moving variance overflows in step 10, on two virtual devices.

Usage: python not_finite_on_two_devices.py DATA_DIR RUN_DIR
"""

import sys

from keras_imnet64.backend.devices import choose_backend, take_devices

RECIPE = {
    "name": "parallel",
    "model": {"name": "wide_resnet", "depth": 6, "stages": 1, "width": 0.5},
    "data": {"dataset": "imagenet_resized/16x16", "batch_size": 4, "steps_per_epoch": 20},
    "optimizer": {"name": "sgd", "learning_rate": 0.05},
    "train": {"epochs": 1, "ema": 0.9},
}


def main(data_dir, run_dir):
    choose_backend()
    devices = take_devices(virtual=2)
    from test_not_finite import Overwrite

    from keras_imnet64.core.errors import RunFailed
    from keras_imnet64.recipe.loading import check_recipe
    from keras_imnet64.training.callbacks import finiteness
    from keras_imnet64.training.fit import fit

    finiteness.STEPS_BETWEEN_CHECKS = 4
    overwrite = Overwrite("moving_variance", 0, 10)
    try:
        recipe = check_recipe(RECIPE)
        fit(recipe, run_dir, data_dir=data_dir, devices=devices, callbacks=[overwrite])
    except RunFailed as error:
        print(len(devices.names), "devices:", error)
        print(max(overwrite.steps_seen)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
