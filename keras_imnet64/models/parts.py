"""What families share: the layers at both ends of a network, convolutions that pad as PyTorch does.

Every network has the layers `pixels`, `normalization`, `features` (its last map), `pool` (the
vector [B, D] that the classifier takes) and `logits`.
"""

import math

import keras
import numpy as np
from keras import layers
from keras.initializers import RandomUniform

from keras_imnet64.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# ------------------------------------------------------------------------------------- both ends


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
    """Global average (`pool`) and the dense layer `logits`."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return logits(x, num_classes, kernel_initializer, bias_initializer)


def logits(x, num_classes, kernel_initializer, bias_initializer="zeros"):
    """The last dense layer, which stays float32 under every policy."""
    return layers.Dense(
        num_classes,
        dtype="float32",
        kernel_initializer=kernel_initializer,
        bias_initializer=bias_initializer,
        name="logits",
    )(x)


# ----------------------------------------------------------------------------------- between them


def conv(
    x,
    filters,
    size,
    stride=1,
    *,
    padding=None,
    kernel_initializer,
    use_bias=False,
    bias_initializer="zeros",
    name,
):
    """A convolution padded alike on all sides; `padding` is half its size unless it is given.

    Keras' "same" would pad (0, 1) at stride 2. The pixels of a strided 1x1 convolution are picked
    by a layer of its own: its gradient writes beyond its buffer in TensorFlow 2.21 on AVX-512 CPUs
    where 16 does not divide the input channels, as in WRN-36-0.5.
    """
    padding = size // 2 if padding is None else padding
    keeps_size = stride == 1 and 2 * padding == size - 1
    if size == 1 and stride > 1:
        x, stride = layers.AveragePooling2D(1, stride, name=f"{name}_pick")(x), 1
    elif padding and not keeps_size:
        x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        size,
        stride,
        "same" if keeps_size and size > 1 else "valid",
        use_bias=use_bias,
        kernel_initializer=kernel_initializer,
        bias_initializer=bias_initializer,
        name=name,
    )(x)


def max_pool(x, size, stride, padding=0, *, name):
    """A maximum over windows that fit; padding with zeros is right behind a ReLU alone."""
    if padding:
        x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(size, stride, name=name)(x)


def drop_path(x, rate, name):
    """Stochastic depth (arXiv:1603.09382): in training a branch is dropped for whole pictures."""
    if not rate:
        return x
    return layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x)


def pytorch_uniform(fan_in):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels and biases alike."""
    bound = 1 / math.sqrt(fan_in)
    return RandomUniform(-bound, bound)


def check_rate(option, rate):
    if not 0 <= rate < 1:
        raise UserError(f"model.{option} must be at least 0 and below 1; received {rate}")


def check_map(model, image_size, last_map, smallest):
    """Refuse an image so small that nothing would be left of the last map."""
    if last_map < 1:
        raise UserError(
            f"{model} needs at least {smallest} pixels per side, else no pixel of its last map is "
            f"left; received image size {image_size}"
        )
