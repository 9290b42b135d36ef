"""Child of test_statistics.py: measures two normalisations on two devices, as JSON on its output.

Usage: python statistics_on_two_devices.py PIXELS.npy MODE... ; a MODE is global or per_device, and
the output is {mode: [mean, variance, mean, variance]}.
"""

import json
import sys

import numpy as np

from keras_imnet64.backend.devices import choose_backend, take_devices


def main(path, *modes):
    choose_backend()
    devices = take_devices(virtual=2)
    pixels = np.load(path)
    print(json.dumps({mode: measured(pixels, devices, mode) for mode in modes}))


def measured(pixels, devices, mode):
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


if __name__ == "__main__":
    main(*sys.argv[1:])
