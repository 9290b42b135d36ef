"""Child of test_ship.py: load model files with Keras alone, where this package cannot be imported.

Usage: python load_plainly.py INPUTS.npz MODEL.keras... ; prints {path: [logits, logits]} for uint8
and for float pixels.
"""

import json
import sys

import numpy as np


class Absent:
    """An import hook that makes keras_imnet64 impossible to import."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras_imnet64":
            raise ImportError("keras_imnet64 is not installed here")


sys.meta_path.insert(0, Absent())
import keras

pixels = np.load(sys.argv[1])["pixels"]
logits = {}
for path in sys.argv[2:]:
    model = keras.saving.load_model(path)  # safe mode is Keras' default
    outputs = [model.predict(x, verbose=0) for x in (pixels, pixels.astype("float32"))]
    assert outputs[0].dtype == "float32"
    logits[path] = [output.tolist() for output in outputs]
print(json.dumps({"keras": keras.__version__, "logits": logits}))
