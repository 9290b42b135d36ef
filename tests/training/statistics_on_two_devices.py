"""Child of test_statistics.py: measures two normalisations on two devices, as JSON on its output.

Usage: python statistics_on_two_devices.py PIXELS.npy global|per_device
"""

import json
import sys

import numpy as np

from keras_imnet64.backend.devices import choose_backend, take_devices


def main(path, mode):
    choose_backend()
    devices = take_devices(virtual=2)
    import keras

    from keras_imnet64.training.statistics import remeasure

    pixels = np.load(path)
    with devices.scope():
        inputs = keras.Input(pixels.shape[1:])
        norms = [keras.layers.BatchNormalization(name=name) for name in ("first", "second")]
        x = norms[1](keras.ops.square(norms[0](inputs)))
        model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
        remeasure(model, iter([pixels]), 1, devices, per_device=mode == "per_device")
    found = [each for norm in norms for each in (norm.moving_mean, norm.moving_variance)]
    print(json.dumps([keras.ops.convert_to_numpy(each).tolist() for each in found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
