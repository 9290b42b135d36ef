"""Wide residual networks WRN-N-k as trained on ImageNet16/32/64 (arXiv:1707.08819).

The reference is the authors' Lasagne script (PatrykChrabaszcz/Imagenet32_Scripts), which differs
from Zagoruyko's Lua network: the stem has its own BN and ReLU, projections take the raw block
input, and the second convolution of every block has a bias. With `stages = 3` at any size it is
WRN-N-k of arXiv:1605.07146 but for these differences.
"""

import math
from typing import Literal

import keras
from keras import layers
from keras.initializers import GlorotUniform, VarianceScaling

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Options, Tensor
from keras_imnet64.models.parts import Normalization, classifier, conv, normalize, pixels
from keras_imnet64.models.whitening import whiten

LAST_MAP = 8  # pixels per side of the last feature map, unless `stages` is given
MAX_DEPTH, MAX_WIDTH = 1204, 100  # larger networks would take hours to build


def build(
    *,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    depth: int,
    width: float,
    stages: int | Literal["auto"] = "auto",
    dropout: float = 0.0,
    whitening: Options | None = None,
) -> keras.Model:
    """Builds a WRN-N-k with pre-activation blocks.

    Args:
        image_size: pixels per side, 8 times a power of 2; any with `stages`.
        num_classes: K.
        normalization: see `build_model`.
        depth: N = 4 + 2 * blocks per stage * stages; the paper has 4 blocks: 20, 28 and 36.
        width: k, the multiplier of the 16, 32, 64, ... filters; 0.5 is the paper's narrowest.
        stages: "auto" is 1, 2, 3, 4, 5 for 8, 16, 32, 64, 128 pixels, so that the last map is 8x8.
            WRN-28-10 of arXiv:1605.07146 has 3.
        dropout: rate between the two convolutions of a block; the paper uses none.
        whitening: a fixed convolution in front of the stem, see `whitening.whiten`.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: no whole number of stages fits the size, or no whole number of blocks the depth.
    """
    number_of_stages = num_stages(image_size) if stages == "auto" else stages
    blocks = num_blocks(depth, number_of_stages, image_size)
    filters = [stage_filters(stage, width) for stage in range(1, number_of_stages + 1)]

    inputs = pixels(image_size)
    x = whiten(normalize(inputs, normalization), whitening)
    x = conv3x3(x, 16, name="stem_conv")
    x = bn_relu(x, "stem")
    for stage, num_filters in enumerate(filters, start=1):
        for block in range(1, blocks + 1):
            x = residual_block(
                x,
                num_filters,
                stride=2 if stage > 1 and block == 1 else 1,
                project=block == 1,
                preactivate=(stage, block) != (1, 1),  # the stem ends with BN and ReLU
                dropout=dropout,
                name=f"stage{stage}_block{block}",
            )  # [B, H / 2^(stage-1), W / 2^(stage-1), F]
    x = batch_norm(x, "final_bn")
    x = layers.ReLU(name="features")(x)  # [B, H, W, F]
    logits = classifier(x, num_classes, VarianceScaling(1.0, "fan_in", "untruncated_normal"))
    return keras.Model(inputs, logits, name="wide_resnet")


def residual_block(
    x: Tensor,
    filters: int,
    *,
    stride: int,
    project: bool,
    preactivate: bool,
    dropout: float,
    name: str,
) -> Tensor:
    """BN-ReLU-conv, BN-ReLU-conv with bias, added to the raw input or its 1x1 projection."""
    shortcut = x
    if project:
        shortcut = conv1x1(x, filters, stride, name=f"{name}_shortcut")
    if preactivate:
        x = bn_relu(x, f"{name}_1")
    x = conv3x3(x, filters, stride, name=f"{name}_conv1")
    x = bn_relu(x, f"{name}_2")
    if dropout:
        x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    x = conv3x3(x, filters, use_bias=True, name=f"{name}_conv2")
    return layers.Add(name=f"{name}_add")([x, shortcut])


def conv3x3(
    x: Tensor, filters: int, stride: int = 1, use_bias: bool = False, *, name: str
) -> Tensor:
    he_normal = VarianceScaling(2.0, "fan_in", "untruncated_normal")
    return conv(x, filters, 3, stride, kernel_initializer=he_normal, use_bias=use_bias, name=name)


def conv1x1(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    return conv(x, filters, 1, stride, kernel_initializer=GlorotUniform(), name=name)


def bn_relu(x: Tensor, prefix: str) -> Tensor:
    x = batch_norm(x, f"{prefix}_bn")
    return layers.ReLU(name=f"{prefix}_relu")(x)


def batch_norm(x: Tensor, name: str) -> Tensor:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-4, name=name)(x)


def stage_filters(stage: int, width: float) -> int:
    if not 0 < width <= MAX_WIDTH:
        raise UserError(f"model.width must be above 0 and at most {MAX_WIDTH}; received {width}")
    filters = 16 * 2 ** (stage - 1) * width
    if filters != int(filters):
        raise UserError(
            f"model.width must give whole numbers of filters (16, 32, ... times width); "
            f"received {width}; 0.5, 1, 2, 5 and 10 are the paper's"
        )
    return int(filters)


def num_stages(image_size: int) -> int:
    """Returns 1 + log2(image_size / 8): all stages but the first halve the map, down to 8x8."""
    stages = 1 + round(math.log2(max(1, image_size / LAST_MAP)))
    if image_size != LAST_MAP * 2 ** (stages - 1):
        raise UserError(
            f"wide_resnet works at 8, 16, 32, 64, 128, ... pixels per side, where its last map is "
            f"8x8, and at any other size with a number for model.stages; received image size "
            f"{image_size}, the nearest is {LAST_MAP * 2 ** (stages - 1)}"
        )
    return stages


def num_blocks(depth: int, stages: int, image_size: int) -> int:
    """Returns the blocks per stage of a network of this depth: (N - 4) / (2 * stages)."""
    if not 0 < depth <= MAX_DEPTH:
        raise UserError(f"model.depth must be above 0 and at most {MAX_DEPTH}; received {depth}")
    blocks = max(1, round((depth - 4) / (2 * stages)))
    fits = 4 + 2 * blocks * stages
    if depth != fits:
        raise UserError(
            f"model.depth must be 4 + {2 * stages} x blocks with {stages} stages at "
            f"{image_size} pixels; received {depth}; the nearest that fits is {fits}"
        )
    return blocks
