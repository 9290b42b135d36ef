"""What every family shares: the layers at both ends of a network, from pixels and to logits."""

import keras
import numpy as np
from keras import layers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def pixels(image_size):
    """The input: float32 pixels 0..255 [B, H, W, 3]. uint8 arrays are taken and cast."""
    return keras.Input((image_size, image_size, 3), name="pixels", dtype="float32")


def normalize(x, normalization):
    """(pixels / 255 - mean) / std, float32 under every policy; the numbers are in the config."""
    if normalization == "imagenet":
        normalization = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    mean = np.asarray(normalization["mean"], "float64") * 255
    std = np.asarray(normalization["std"], "float64") * 255
    mean, std = np.broadcast_arrays(np.atleast_1d(mean), np.atleast_1d(std))
    if mean.shape == (1,):
        mean, std = np.repeat(mean, 3), np.repeat(std, 3)
    axis = (1, 2, 3) if mean.ndim == 3 else -1  # per pixel and channel, or per channel
    mean, variance = mean.astype("float32"), np.square(std).astype("float32")
    return layers.Normalization(
        axis, mean.tolist(), variance.tolist(), dtype="float32", name="normalization"
    )(x)


def classifier(x, num_classes, kernel_initializer, bias_initializer="zeros"):
    """Global average (`pool`) and a dense layer (`logits`), which stays float32."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(
        num_classes,
        dtype="float32",
        kernel_initializer=kernel_initializer,
        bias_initializer=bias_initializer,
        name="logits",
    )(x)
