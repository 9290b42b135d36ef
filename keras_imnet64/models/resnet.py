"""ResNet-18 to -152 and wide ResNet-50-2 as torchvision defines them (models/resnet.py, 0.28).

Residual networks of arXiv:1512.03385 whose bottlenecks have the stride in their 3x3 convolution.
The wide network is that of arXiv:1605.07146, with twice the channels inside each bottleneck. The
options are those of timm (models/resnet.py, 1.0.31).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import keras
import numpy as np
from keras import layers

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Options, Tensor
from keras_imnet64.models.options import resnet_stem
from keras_imnet64.models.parts import (
    Normalization,
    classifier,
    conv,
    drop_path,
    kaiming_normal,
    max_pool,
    normalize,
    pixels,
    pytorch_batch_norm,
    pytorch_uniform,
)
from keras_imnet64.models.whitening import whiten

Shortcut: TypeAlias = Callable[[Tensor, int, int, str], Tensor]  # map, channels, stride, name


@dataclass(frozen=True)
class Stem:
    """The first convolution, and whether a pool follows."""

    size: int
    stride: int
    pool: bool


STEMS = {
    "imagenet": Stem(7, 2, pool=True),
    "small": Stem(3, 1, pool=False),
    "small_pool": Stem(3, 1, pool=True),
}


@dataclass(frozen=True)
class Variant:
    """The sizes in which the networks differ."""

    blocks: tuple[int, ...]  # of each stage
    bottleneck: bool
    width: int = 1  # times the channels inside a bottleneck


CHANNELS = 64  # of the stem and the first stage; each further stage has twice as many
VARIANTS = {
    "resnet18": Variant((2, 2, 2, 2), bottleneck=False),
    "resnet34": Variant((3, 4, 6, 3), bottleneck=False),
    "resnet50": Variant((3, 4, 6, 3), bottleneck=True),
    "resnet101": Variant((3, 4, 23, 3), bottleneck=True),
    "resnet152": Variant((3, 8, 36, 3), bottleneck=True),
    "wide_resnet50_2": Variant((3, 4, 6, 3), bottleneck=True, width=2),
}


def build(
    *,
    variant: str,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    stem: str = "auto",
    zero_init: bool = False,
    anti_aliasing: bool = False,
    drop_path_rate: float = 0.0,
    whitening: Options | None = None,
) -> keras.Model:
    """Builds a ResNet of four stages.

    Args:
        variant: a key of VARIANTS.
        image_size: pixels per side, any; at least 2 before each stride with `anti_aliasing`.
        num_classes: K.
        normalization: see `build_model`.
        stem: "imagenet" is 7x7 at stride 2 and a pool; "small" is 3x3 at stride 1 without a
            pool; "small_pool" is 3x3 at stride 1 and the pool; "auto" is "small" up to 64 pixels
            (last maps of 8 pixels for 64, 4 for 32, 2 for 16, 1 for 8), above that "imagenet".
        zero_init: initialise the last gamma of every block to 0, so that each block begins as its
            shortcut.
        anti_aliasing: blur before subsampling (arXiv:1904.11486), as timm's `resnetblur50` does,
            in all places but the 7x7 convolution and the projections.
        drop_path_rate: of the last block; it grows with depth from 0.
        whitening: a fixed convolution in front of a stem of 3x3, see `whitening.whiten`.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the maps are too small for the blur, or the stem is too large for whitening.
    """
    stem = resnet_stem(stem, image_size)
    if whitening is not None and STEMS[stem].size > 3:
        raise UserError(
            f'model.whitening needs a stem of 3x3, "small" or "small_pool"; received stem "{stem}"'
        )
    network = VARIANTS[variant]
    wide = partial(bottleneck_block, width=network.width)
    block = wide if network.bottleneck else basic_block
    rates = iter(np.linspace(0, drop_path_rate, sum(network.blocks)).tolist())

    inputs = pixels(image_size)
    x = whiten(normalize(inputs, normalization), whitening)
    x = apply_stem(x, STEMS[stem], anti_aliasing, width=CHANNELS)
    for stage, num_blocks in enumerate(network.blocks, start=1):
        for number in range(1, num_blocks + 1):
            x = block(
                x,
                CHANNELS * 2 ** (stage - 1),
                stride=2 if stage > 1 and number == 1 else 1,
                zero_init=zero_init,
                anti_aliasing=anti_aliasing,
                drop_path_rate=next(rates),
                name=f"stage{stage}_block{number}",
            )  # [B, H / 2^(stage-1), W / 2^(stage-1), C]
    x = layers.Identity(name="features")(x)  # [B, H, W, C]
    fan_in = x.shape[-1]
    x = classifier(x, num_classes, pytorch_uniform(fan_in), pytorch_uniform(fan_in))
    return keras.Model(inputs, x, name=variant)


def apply_stem(x: Tensor, stem: Stem, anti_aliasing: bool = False, *, width: int) -> Tensor:
    """A convolution to `width` channels and, if the stem has one, a 3x3 pool at stride 2."""
    initializer = kaiming_normal()
    x = conv(x, width, stem.size, stem.stride, kernel_initializer=initializer, name="stem_conv")
    x = layers.ReLU(name="stem_relu")(pytorch_batch_norm(x, "stem_bn"))
    if stem.pool and anti_aliasing:
        x = blur(max_pool(x, 3, 1, padding=1, name="stem_pool"), "stem_blur")
    elif stem.pool:
        x = max_pool(x, 3, 2, padding=1, name="stem_pool")
    return x


def project(x: Tensor, channels: int, stride: int, name: str) -> Tensor:
    """Returns the shortcut: the input where the shapes match, else a 1x1 convolution and BN."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return conv_bn(x, channels, 1, stride, name=f"{name}_shortcut")


def basic_block(
    x: Tensor,
    channels: int,
    *,
    stride: int,
    name: str,
    project: Shortcut = project,
    zero_init: bool = False,
    anti_aliasing: bool = False,
    drop_path_rate: float = 0.0,
) -> Tensor:
    """Two 3x3 convolutions, the first strided, added to the shortcut, which `project` makes."""
    shortcut = project(x, channels, stride, name)
    conv_stride = 1 if anti_aliasing else stride
    x = conv_bn(x, channels, 3, conv_stride, name=name, number=1)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    if conv_stride < stride:
        x = blur(x, f"{name}_blur")
    x = conv_bn(x, channels, 3, name=name, number=2, zero_init=zero_init)
    return add(x, shortcut, drop_path_rate, name)


def bottleneck_block(
    x: Tensor,
    channels: int,
    *,
    stride: int,
    name: str,
    width: int = 1,
    zero_init: bool = False,
    anti_aliasing: bool = False,
    drop_path_rate: float = 0.0,
) -> Tensor:
    """1x1, 3x3 (strided) and 1x1 convolutions to four times the channels, added to the shortcut."""
    shortcut = project(x, 4 * channels, stride, name)
    conv_stride = 1 if anti_aliasing else stride
    x = conv_bn(x, width * channels, 1, name=name, number=1)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = conv_bn(x, width * channels, 3, conv_stride, name=name, number=2)
    x = layers.ReLU(name=f"{name}_relu2")(x)
    if conv_stride < stride:
        x = blur(x, f"{name}_blur")
    x = conv_bn(x, 4 * channels, 1, name=name, number=3, zero_init=zero_init)
    return add(x, shortcut, drop_path_rate, name)


def conv_bn(
    x: Tensor,
    filters: int,
    size: int,
    stride: int = 1,
    *,
    name: str,
    number: int | str = "",
    zero_init: bool = False,
) -> Tensor:
    initializer = kaiming_normal()
    x = conv(x, filters, size, stride, kernel_initializer=initializer, name=f"{name}_conv{number}")
    gamma = "zeros" if zero_init else "ones"
    return pytorch_batch_norm(x, f"{name}_bn{number}", gamma_initializer=gamma)


def add(x: Tensor, shortcut: Tensor, drop_path_rate: float, name: str) -> Tensor:
    x = drop_path(x, drop_path_rate, f"{name}_drop_path")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_out")(x)


def blur(x: Tensor, name: str) -> Tensor:
    """Blurs with [1, 2, 1] / 4 in both directions and keeps every second pixel.

    Averaging two neighbours twice is that filter: sizes H + 2 (reflected), H + 1, ceil(H / 2).
    """
    if x.shape[1] < 2:
        raise UserError(
            "model.anti_aliasing needs maps of at least 2 pixels per side before each stride; "
            "give larger images or a smaller stem"
        )
    x = reflect(reflect(x, 1, f"{name}_rows"), 2, f"{name}_columns")
    x = layers.AveragePooling2D(2, 1, name=f"{name}_1")(x)
    return layers.AveragePooling2D(2, 2, name=f"{name}_2")(x)


def reflect(x: Tensor, axis: int, name: str) -> Tensor:
    """Pads an axis by one reflected pixel at either end: H -> H + 2 for axis 1."""
    inner = x.shape[axis] - 2

    def crop(before: int, after: int, suffix: str) -> Tensor:
        cropping = [(0, 0), (0, 0)]
        cropping[axis - 1] = (before, after)
        return layers.Cropping2D(cropping, name=f"{name}_{suffix}")(x)

    second, last_but_one = crop(1, inner, "second"), crop(inner, 1, "last_but_one")
    return layers.Concatenate(axis, name=name)([second, x, last_but_one])
