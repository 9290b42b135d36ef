"""A small residual network for small images on CPUs, whose widths suit their vector units.

A basic block of arXiv:1512.03385 in each stage, with the shortcut of ResNet-D (arXiv:1812.01187):
where the map shrinks, 2x2 pixels are averaged before the 1x1 convolution, so that no pixel is left
out. All widths are multiples of 64, which oneDNN's bfloat16 kernels fill completely.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from keras_imnet64.core.types import Options, Tensor
from keras_imnet64.models.parts import (
    Normalization,
    classifier,
    normalize,
    pixels,
    pytorch_uniform,
)
from keras_imnet64.models.resnet import Stem, apply_stem, basic_block, conv_bn
from keras_imnet64.models.whitening import whiten


def build(
    *,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (1, 1, 1, 1),
    stem_stride: int = 2,
    zero_init: bool = False,
    drop_path_rate: float = 0.0,
    whitening: Options | None = None,
) -> keras.Model:
    """Builds the network: a 3x3 stem, stages of basic blocks, the average of the last map.

    Args:
        image_size: pixels per side, any.
        num_classes: K.
        normalization: see `build_model`.
        widths: channels of each stage; the stem has those of the first.
        blocks: the number of blocks of each stage.
        stem_stride: 2, or 1 for images of 32 pixels and fewer.
        zero_init: initialise the last gamma of every block to 0, so that each block begins as its
            shortcut.
        drop_path_rate: of the last block; it grows with depth from 0.
        whitening: a fixed convolution in front of the stem, see `whitening.whiten`.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].
    """
    rates = iter(np.linspace(0, drop_path_rate, sum(blocks)).tolist())
    inputs = pixels(image_size)
    x = whiten(normalize(inputs, normalization), whitening)
    x = apply_stem(x, Stem(3, stem_stride, pool=False), width=widths[0])
    for stage, (width, num_blocks) in enumerate(zip(widths, blocks, strict=True), start=1):
        for number in range(1, num_blocks + 1):
            x = basic_block(
                x,
                width,
                stride=2 if stage > 1 and number == 1 else 1,
                project=average_and_project,
                zero_init=zero_init,
                drop_path_rate=next(rates),
                name=f"stage{stage}_block{number}",
            )  # [B, H / 2^(stage-1), W / 2^(stage-1), C]
    x = layers.Identity(name="features")(x)  # [B, H, W, C]
    fan_in = x.shape[-1]
    x = classifier(x, num_classes, pytorch_uniform(fan_in), pytorch_uniform(fan_in))
    return keras.Model(inputs, x, name="small_resnet")


def average_and_project(x: Tensor, channels: int, stride: int, name: str) -> Tensor:
    """The shortcut of ResNet-D; an average at the edge of an odd map is of the pixels there."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    if stride > 1:
        x = layers.AveragePooling2D(stride, stride, "same", name=f"{name}_shortcut_average")(x)
    return conv_bn(x, channels, 1, name=f"{name}_shortcut")
