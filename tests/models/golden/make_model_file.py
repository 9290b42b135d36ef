"""Writes trained.keras and trained.npz beside this file: a model file as commit cf31b5e wrote it.

    git worktree add ../before cf31b5e
    PYTHONPATH=../before KERAS_BACKEND=tensorflow python tests/models/golden/make_model_file.py

With Keras 3.15.1 and TensorFlow 2.21.0 on a CPU, this made the files in the tree. The file holds
what a finished run states about its model; the test reads that, loads the network with the code of
today and compares its logits with those that the old code computed.
"""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
from keras_imnet64.data.pictures import View

from keras_imnet64.models.init import initialize
from keras_imnet64.models.parts import classifier, conv, max_pool, normalize, pixels
from keras_imnet64.models.ship import fill, plain_twin, ship
from keras_imnet64.recipe import load_recipe
from keras_imnet64.training.model import model_info_of

HERE = Path(__file__).parent
SIZE = 8


def main():
    model = network()
    initialize(model, 7)
    plain = plain_twin(model)
    fill(plain, model)
    train = SimpleNamespace(
        wnids=["n00000002", "n00000000", "n00000001"],
        class_names=["owl", "cat", "Bär"],
        store=SimpleNamespace(dataset="image_folder/pets", verified=True),
    )
    view = View(SIZE, "bicubic", 10, ten_crop=True)
    data = SimpleNamespace(train=train, image_size=SIZE, view=view)
    info = model_info_of(load_recipe("demo"), data, own_model=False)
    ship(plain, HERE / "trained.keras", info | {"epoch": 3})
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), "uint8")
    logits = keras.saving.load_model(HERE / "trained.keras").predict(images, verbose=0)
    np.savez_compressed(HERE / "trained.npz", images=images, logits=logits)


def network():
    """Every kind of layer at both ends of a network, and a convolution between them."""
    inputs = pixels(SIZE)
    x = normalize(inputs, "imagenet")
    x = conv(x, 4, 3, kernel_initializer="he_normal", use_bias=True, name="stem_conv")
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    x = max_pool(keras.layers.ReLU(name="stem_relu")(x), 2, 2, name="features")
    return keras.Model(inputs, classifier(x, 3, "he_normal"), name="small")


if __name__ == "__main__":
    main()
