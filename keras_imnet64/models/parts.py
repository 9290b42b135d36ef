"""What families share: the layers at both ends of a network, and layers as PyTorch has them.

Every network has the layers `pixels`, `normalization`, `features` (its last map), `pool` (that map
as a vector [B, D], averaged or flattened) and `logits`.
"""

import math

import keras
import numpy as np
from keras import layers
from keras.initializers import RandomUniform, VarianceScaling

from keras_imnet64.core.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALLEST_STD = 1e-6  # on the 0..1 scale; below it float32 gives out


# ------------------------------------------------------------------------------------- both ends


def pixels(image_size):
    """The input: float32 pixels 0..255 [B, H, W, 3]. uint8 arrays are taken and cast."""
    return keras.Input((image_size, image_size, 3), name="pixels", dtype="float32")


def normalize(x, normalization):
    """(pixels / 255 - mean) / std, float32 under every policy; the numbers are in the config."""
    mean, std = mean_and_std(normalization, x.shape[1:])
    axis = (1, 2, 3) if mean.ndim == 3 else -1  # per pixel and channel, or per channel
    mean, variance = (mean * 255).astype("float32"), np.square(std * 255).astype("float32")
    return layers.Normalization(
        axis, mean.tolist(), variance.tolist(), dtype="float32", name="normalization"
    )(x)


def mean_and_std(normalization, shape):
    """Two float64 arrays, [3] or [H, W, 3], of what `build_model` takes; UserError else."""
    if isinstance(normalization, str) and normalization == "imagenet":
        normalization = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    try:
        mean, std = (np.asarray(normalization[key], "float64") for key in ("mean", "std"))
        mean, std = np.broadcast_arrays(mean, std)
        if mean.ndim < 3:
            mean, std = (np.broadcast_to(array, (3,)) for array in (mean, std))
        usable = (np.abs(mean) <= 1 / SMALLEST_STD) & (std >= SMALLEST_STD) & (std < np.inf)
        fits = mean.shape in ((3,), tuple(shape)) and usable.all()
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(
            'normalization must be "imagenet" or {"mean": m, "std": s}, each a number, three '
            f"numbers or an array {list(shape)}, std at least {SMALLEST_STD}; received "
            f"{normalization!r}"
        )
    return mean, std


def classifier(x, num_classes, kernel_initializer, bias_initializer="zeros"):
    """Global average (`pool`) and the dense layer `logits`, which stays float32."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(
        num_classes,
        dtype="float32",
        kernel_initializer=kernel_initializer,
        bias_initializer=bias_initializer,
        name="logits",
    )(x)


def pytorch_logits(x, num_classes):
    """The layer `logits`, float32 under every policy."""
    return pytorch_dense(x, num_classes, "logits", dtype="float32")


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
    """A maximum over windows that fit; behind a ReLU zeros pad as well as PyTorch's -inf."""
    if padding:
        x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(size, stride, name=name)(x)


def drop_path(x, rate, name):
    """Stochastic depth (arXiv:1603.09382): in training a branch is dropped for whole images."""
    if not rate:
        return x
    return layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x)


# --------------------------------------------------------------------------------- as in PyTorch
# An initialiser of Keras gives all its variables the same numbers, so each gets one of its own.


def pytorch_conv(x, filters, size, stride=1, *, padding=None, name):
    """A convolution with bias, both drawn as PyTorch does by default."""
    fan_in = size * size * x.shape[-1]
    return conv(
        x,
        filters,
        size,
        stride,
        padding=padding,
        kernel_initializer=pytorch_uniform(fan_in),
        use_bias=True,
        bias_initializer=pytorch_uniform(fan_in),
        name=name,
    )


def pytorch_dense(x, units, name, **options):
    """A dense layer, its kernel and bias drawn as PyTorch does by default."""
    fan_in = x.shape[-1]
    return layers.Dense(
        units,
        kernel_initializer=pytorch_uniform(fan_in),
        bias_initializer=pytorch_uniform(fan_in),
        name=name,
        **options,
    )(x)


def pytorch_batch_norm(x, name, **options):
    """Its defaults: epsilon 1e-5, and the momentum of 0.1 that Keras calls 0.9."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name, **options)(x)


def pytorch_uniform(fan_in):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels and biases alike."""
    bound = 1 / math.sqrt(fan_in)
    return RandomUniform(-bound, bound)


def kaiming_normal():
    """N(0, 2 / fan_out), torchvision's choice for convolutions before a ReLU."""
    return VarianceScaling(2.0, "fan_out", "untruncated_normal")


def check_smallest(model, image_size, smallest):
    """Refuse an image so small that nothing would be left of the last map."""
    if image_size < smallest:
        raise UserError(
            f"{model} needs at least {smallest} pixels per side, else no pixel of its last map is "
            f"left; received image size {image_size}"
        )
