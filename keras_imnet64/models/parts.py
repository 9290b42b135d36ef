"""Layers that families share: those at both ends of a network, and those with PyTorch's defaults.

Every network has the layers `pixels`, `normalization`, `features` (its last map), `pool` (that map
as a vector [B, D], averaged or flattened) and `logits`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import keras
import numpy as np
from keras import layers
from keras.initializers import RandomUniform, VarianceScaling
from numpy.typing import ArrayLike

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Tensor

Normalization: TypeAlias = str | Mapping[str, ArrayLike]  # as `build_model` takes it
Initializer: TypeAlias = str | keras.Initializer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_STD = 1e-6  # on the 0..1 scale; float32 is too coarse below
MAX_MEAN = 2.0  # a mean on the 0..255 scale would leave no image in bfloat16
_input_size: ContextVar[int | None] = ContextVar("input_size", default=None)


# ------------------------------------------------------------------------------------- both ends


def pixels(image_size: int) -> Tensor:
    """Returns the input: float32 pixels 0..255 [B, H, W, 3]. uint8 arrays are accepted and cast."""
    size = _input_size.get() or image_size
    return keras.Input((size, size, 3), name="pixels", dtype="float32")


@contextmanager
def input_size(size: int | None) -> Iterator[None]:
    """Lets networks built in the block take images of another size than they are designed for.

    What a family decides by its `image_size`, such as the number of stages, stays as it is.
    """
    token = _input_size.set(size)
    try:
        yield
    finally:
        _input_size.reset(token)


def normalize(x: Tensor, normalization: Normalization) -> Tensor:
    """Returns (pixels / 255 - mean) / std, float32 under every policy."""
    mean, std = mean_and_std(normalization, x.shape[1:])
    axis = (1, 2, 3) if mean.ndim == 3 else -1  # per pixel and channel, or per channel
    mean, variance = (mean * 255).astype("float32"), np.square(std * 255).astype("float32")
    return layers.Normalization(
        axis, mean.tolist(), variance.tolist(), dtype="float32", name="normalization"
    )(x)


def mean_and_std(
    normalization: Normalization, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std, float64 [3] or [H, W, 3].

    Args:
        shape: [H, W, 3] of the pixels.

    Raises:
        UserError: they have another shape, are not finite, or std is too small.
    """
    stated = normalization
    if isinstance(stated, str):
        stated = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if stated == "imagenet" else {}
    try:
        mean, std = (np.asarray(stated[key], "float64") for key in ("mean", "std"))
        mean, std = np.broadcast_arrays(mean, std)
        if mean.ndim < 3:
            mean, std = (np.broadcast_to(array, (3,)) for array in (mean, std))
        usable = (np.abs(mean) <= 1 / MIN_STD) & (std >= MIN_STD) & (std < np.inf)
        fits = mean.shape in ((3,), tuple(shape)) and usable.all()
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(
            'normalization must be "imagenet" or {"mean": m, "std": s}, each a number, three '
            f"numbers or an array {list(shape)}, std at least {MIN_STD}; received "
            f"{normalization!r}"
        )
    return mean, std


def check_scale(normalization: Normalization) -> None:
    """Refuses a mean of pixels from 0 to 255, where it is one of pixels from 0 to 1."""
    if isinstance(normalization, str):
        return
    try:
        largest = np.abs(np.asarray(normalization["mean"], "float64")).max()
    except (KeyError, TypeError, ValueError):
        return  # `mean_and_std` says what is wrong
    if largest > MAX_MEAN:
        raise UserError(
            "normalization has the mean and std of pixels from 0 to 1, so divide both by 255; "
            f"received a mean of up to {largest:g}"
        )


def classifier(
    x: Tensor,
    num_classes: int,
    kernel_initializer: Initializer,
    bias_initializer: Initializer = "zeros",
) -> Tensor:
    """Global average (`pool`) and the dense layer `logits`, which stays float32."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(
        num_classes,
        dtype="float32",
        kernel_initializer=kernel_initializer,
        bias_initializer=bias_initializer,
        name="logits",
    )(x)


def pytorch_logits(x: Tensor, num_classes: int) -> Tensor:
    """The layer `logits`, float32 under every policy."""
    return pytorch_dense(x, num_classes, "logits", dtype="float32")


# ----------------------------------------------------------------------------------- between them


def conv(
    x: Tensor,
    filters: int,
    size: int,
    stride: int = 1,
    *,
    padding: int | None = None,
    kernel_initializer: Initializer,
    use_bias: bool = False,
    bias_initializer: Initializer = "zeros",
    name: str,
) -> Tensor:
    """A convolution with the same padding on all sides, by default half the kernel's size.

    Keras' "same" would pad (0, 1) at stride 2. A strided 1x1 convolution is split into a layer that
    subsamples and a convolution at stride 1, because its gradient writes beyond its buffer in
    TensorFlow 2.21 on AVX-512 CPUs where 16 does not divide the input channels, as in WRN-36-0.5.
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


def max_pool(x: Tensor, size: int, stride: int, padding: int = 0, *, name: str) -> Tensor:
    """A maximum over whole windows; after a ReLU, padding with zeros equals PyTorch's -inf."""
    if padding:
        x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(size, stride, name=name)(x)


def drop_path(x: Tensor, rate: float, name: str) -> Tensor:
    """Stochastic depth (arXiv:1603.09382): training drops a branch for whole images."""
    if not rate:
        return x
    return layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x)


# --------------------------------------------------------------------------------- as in PyTorch
# A Keras initialiser draws the same numbers at each call, so each variable has its own initialiser.


def pytorch_conv(
    x: Tensor,
    filters: int,
    size: int,
    stride: int = 1,
    *,
    padding: int | None = None,
    name: str,
) -> Tensor:
    """A convolution with bias; both are drawn from PyTorch's default distribution."""
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


def pytorch_dense(
    x: Tensor, units: int, name: str, activation: str | None = None, dtype: str | None = None
) -> Tensor:
    """A dense layer; kernel and bias are drawn from PyTorch's default distribution."""
    fan_in = x.shape[-1]
    return layers.Dense(
        units,
        activation,
        kernel_initializer=pytorch_uniform(fan_in),
        bias_initializer=pytorch_uniform(fan_in),
        dtype=dtype,
        name=name,
    )(x)


def pytorch_batch_norm(
    x: Tensor,
    name: str,
    *,
    center: bool = True,
    scale: bool = True,
    gamma_initializer: Initializer = "ones",
) -> Tensor:
    """PyTorch's defaults: epsilon 1e-5, and the momentum of 0.1 that Keras calls 0.9."""
    return layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        center=center,
        scale=scale,
        gamma_initializer=gamma_initializer,
        name=name,
    )(x)


def pytorch_uniform(fan_in: int) -> RandomUniform:
    """Returns U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels and biases."""
    bound = 1 / math.sqrt(fan_in)
    return RandomUniform(-bound, bound)


def kaiming_normal() -> VarianceScaling:
    """Returns N(0, 2 / fan_out), torchvision's choice for convolutions before a ReLU."""
    return VarianceScaling(2.0, "fan_out", "untruncated_normal")


def check_image_size(name: str, image_size: int, min_image_size: int) -> None:
    """Refuses an image so small that the last map would be empty."""
    if image_size < min_image_size:
        raise UserError(
            f"{name} needs at least {min_image_size} pixels per side, otherwise its last map is "
            f"empty; received image size {image_size}"
        )
