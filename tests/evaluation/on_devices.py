"""Child of test_per_class.py: evaluates a model file on N virtual devices and prints JSON.

Usage: python on_devices.py NUM_DEVICES MODEL DATA_DIR IMAGES PER_CLASS
"""

import json
import sys

from keras_imnet64.backend.devices import choose_backend, take_devices


def main(num_devices, model, data_dir, images, per_class):
    choose_backend()
    devices = take_devices(virtual=int(num_devices))
    from keras_imnet64 import evaluate, predict

    scores = evaluate(model, data_dir=data_dir, devices=devices, per_class=per_class)
    predicted = predict(model, images, devices=devices)
    print(json.dumps({"devices": devices.names, "scores": scores, "images": predicted["images"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
