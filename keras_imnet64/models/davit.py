"""DaViT, dual attention vision transformers (arXiv:2204.03645), as timm defines them (1.0.31).

Blocks come in pairs: the first attends within windows of the map, the second between the channels
of the whole map. Axes: B images, H W the map, C its channels; T windows of N tokens; h heads of
D = 32 channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np
from keras import layers, ops
from keras.initializers import RandomNormal

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.parts import (
    Normalization,
    check_image_size,
    drop_path,
    normalize,
    pixels,
    pytorch_conv,
    pytorch_uniform,
)

HEAD_CHANNELS = 32
MLP_RATIO = 4


@dataclass(frozen=True)
class Variant:
    """The sizes in which the networks differ."""

    channels: int  # of the first stage; each later stage has twice as many
    pairs: tuple[int, ...]  # of blocks in each stage


VARIANTS = {
    "davit_tiny": Variant(96, (1, 1, 3, 1)),
    "davit_small": Variant(96, (1, 1, 9, 1)),
    "davit_base": Variant(128, (1, 1, 9, 1)),
    "davit_large": Variant(192, (1, 1, 9, 1)),
    "davit_huge": Variant(256, (1, 1, 9, 1)),
    "davit_giant": Variant(384, (1, 1, 12, 3)),
}


@dataclass(frozen=True)
class Stem:
    """The first convolution."""

    size: int
    stride: int
    padding: int


STEMS = {
    "imagenet": Stem(7, 4, 3),
    "small": Stem(7, 2, 3),
    "small_3x3": Stem(3, 2, 1),
    "full_3x3": Stem(3, 1, 1),
    "full_15x15": Stem(15, 1, 3),  # 64 pixels -> 56, as "imagenet" does 224 pixels
}


def build(
    *,
    variant: str,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    stem: str = "auto",
    window: int | Literal["auto"] = "auto",
    drop_path_rate: float = 0.0,
) -> keras.Model:
    """Builds a DaViT of four stages.

    Args:
        variant: a key of VARIANTS.
        image_size: pixels per side, any; at least 9 for stem "full_15x15".
        num_classes: K.
        normalization: see `build_model`.
        stem: "imagenet" is 7x7 at stride 4, as published; "small" is 7x7 and "small_3x3" 3x3, both
            at stride 2; "full_3x3" and "full_15x15" have stride 1 and map 64 pixels to 64 and 56.
            "auto" is "small" up to 64 pixels, above that "imagenet".
        window: tokens per side of a window, 1 to 64. A number is used in every stage: maps that it
            does not divide are padded with zeros, which take part in the attention, as in timm.
            "auto" is 7 where 7 divides the first map and else 8, at most the size of the map.
        drop_path_rate: of the last block; it grows from 0 evenly over all blocks, as in the
            authors' code (dingmyu/davit), whose train.py has 0.1. In timm both blocks of a pair
            have the same rate.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the image is too small for the stem.
    """
    network = VARIANTS[variant]
    rates = iter(np.linspace(0, drop_path_rate, 2 * sum(network.pairs)).tolist())

    inputs = pixels(image_size)
    x = normalize(inputs, normalization)
    if stem == "auto":
        stem = "small" if image_size <= 64 else "imagenet"
    x = apply_stem(x, network.channels, stem, variant)
    first_map = x.shape[1]
    for stage, num_pairs in enumerate(network.pairs, start=1):
        if stage > 1:
            x = downsample(x, network.channels * 2 ** (stage - 1), f"stage{stage}_downsample")
        for pair in range(1, num_pairs + 1):
            name = f"stage{stage}_block{pair}"
            size = window_size(window, first_map, x.shape[1])
            x = window_block(x, size, drop_path_rate=next(rates), name=f"{name}_window")
            x = channel_block(x, drop_path_rate=next(rates), name=f"{name}_channel")
    x = layers.Identity(name="features")(x)  # [B, H, W, C]
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layer_norm(x, "head_norm")
    x = dense(x, num_classes, "logits", dtype="float32")
    return keras.Model(inputs, x, name=variant)


def window_size(window: int | Literal["auto"], first_map: int, this_map: int) -> int:
    if window == "auto":
        return min(8 if first_map % 7 else 7, this_map)
    return window


# ------------------------------------------------------------------------------- between stages


def apply_stem(x: Tensor, channels: int, stem: str, variant: str) -> Tensor:
    first = STEMS[stem]
    check_image_size(f'{variant} with stem "{stem}"', x.shape[1], first.size - 2 * first.padding)
    x = pad_to_multiple(x, first.stride, "stem_pad_to_stride")
    x = pytorch_conv(x, channels, first.size, first.stride, padding=first.padding, name="stem_conv")
    return layer_norm(x, "stem_norm")


def downsample(x: Tensor, channels: int, name: str) -> Tensor:
    """Layer normalisation, then a 2x2 convolution at stride 2."""
    x = layer_norm(x, f"{name}_norm")
    x = pad_to_multiple(x, 2, f"{name}_pad")
    return pytorch_conv(x, channels, 2, 2, padding=0, name=f"{name}_conv")


def pad_to_multiple(x: Tensor, multiple: int, name: str) -> Tensor:
    """Pads the right and the bottom with zeros until `multiple` divides the map."""
    height, width = (-size % multiple for size in x.shape[1:3])
    if not height and not width:
        return x
    return layers.ZeroPadding2D(((0, height), (0, width)), name=name)(x)


# ----------------------------------------------------------------------------------------- blocks


def window_block(
    x: Tensor,
    window: int,
    *,
    name: str,
    drop_path_rate: float = 0.0,
    head_channels: int = HEAD_CHANNELS,
) -> Tensor:
    """Attention of each token to those of its window, then an MLP."""

    def attend(x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        x = pad_to_multiple(x, window, f"{name}_pad")
        padded = x.shape
        x = dense(x, 3 * channels, f"{name}_qkv")  # [B, H, W, 3 C]
        x = split_windows(x, window, name)  # [B, T, N, 3 C]
        q, k, v = ops.split(x, 3, axis=-1)  # [B, T, N, C] each
        q = split_heads(q, head_channels, f"{name}_query")  # [B, T, h, N, D]
        k = split_heads(k, head_channels, f"{name}_key", transpose=True)  # [B, T, h, D, N]
        v = split_heads(v, head_channels, f"{name}_value")  # [B, T, h, N, D]
        x = attention(q, k, v, head_channels, name)  # [B, T, h, N, D]
        x = layers.Permute((1, 3, 2, 4), name=f"{name}_tokens")(x)  # [B, T, N, h, D]
        x = merge_windows(x, window, padded[1:3], channels, name)  # [B, H, W, C]
        x = dense(x, channels, f"{name}_project")
        if padded[1:3] != (height, width):
            below, right = padded[1] - height, padded[2] - width
            x = layers.Cropping2D(((0, below), (0, right)), name=f"{name}_crop")(x)
        return x

    return residual_block(x, attend, drop_path_rate, name)


def channel_block(
    x: Tensor, *, name: str, drop_path_rate: float = 0.0, head_channels: int = HEAD_CHANNELS
) -> Tensor:
    """Attention of each channel to those of its head, over the whole map, then an MLP.

    The scale is D^-0.5 as in the window blocks, though the products sum over the map.
    """

    def attend(x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        x = dense(x, 3 * channels, f"{name}_qkv")  # [B, H, W, 3 C]
        x = layers.Reshape((1, height * width, 3 * channels), name=f"{name}_window")(x)
        q, k, v = ops.split(x, 3, axis=-1)  # [B, 1, N, C] each
        q = split_heads(q, head_channels, f"{name}_query", transpose=True)  # [B, 1, h, D, N]
        k = split_heads(k, head_channels, f"{name}_key", transpose=True)  # [B, 1, h, D, N]
        v = split_heads(v, head_channels, f"{name}_value")  # [B, 1, h, N, D]
        x = attention(k, v, q, head_channels, name)  # [B, 1, h, D, N]
        x = layers.Permute((1, 4, 2, 3), name=f"{name}_tokens")(x)  # [B, 1, N, h, D]
        x = layers.Reshape((height, width, channels), name=f"{name}_map")(x)  # [B, H, W, C]
        return dense(x, channels, f"{name}_project")

    return residual_block(x, attend, drop_path_rate, name)


def residual_block(
    x: Tensor, attend: Callable[[Tensor], Tensor], drop_path_rate: float, name: str
) -> Tensor:
    """Position encoding, attention, position encoding, MLP, each added to its input."""
    x = encode_position(x, f"{name}_position1")
    branch = attend(layer_norm(x, f"{name}_norm1"))
    branch = drop_path(branch, drop_path_rate, f"{name}_drop_path1")
    x = layers.Add(name=f"{name}_add1")([x, branch])
    x = encode_position(x, f"{name}_position2")
    branch = mlp(layer_norm(x, f"{name}_norm2"), name)
    branch = drop_path(branch, drop_path_rate, f"{name}_drop_path2")
    return layers.Add(name=f"{name}_add2")([x, branch])


def encode_position(x: Tensor, name: str) -> Tensor:
    """Adds a depthwise 3x3 convolution, whose zero padding encodes the distance to the border."""
    encoding = layers.DepthwiseConv2D(
        3,
        padding="same",
        depthwise_initializer=pytorch_uniform(3 * 3),
        bias_initializer=pytorch_uniform(3 * 3),
        name=name,
    )(x)
    return layers.Add(name=f"{name}_add")([x, encoding])


def mlp(x: Tensor, name: str) -> Tensor:
    channels = x.shape[-1]
    x = dense(x, MLP_RATIO * channels, f"{name}_mlp1")
    x = layers.Activation("gelu", name=f"{name}_gelu")(x)  # exact, with erf
    return dense(x, channels, f"{name}_mlp2")


# -------------------------------------------------------------------------------------- attention


def attention(a: Tensor, b: Tensor, c: Tensor, head_channels: int, name: str) -> Tensor:
    """Returns softmax(a b / sqrt(D)) c for every head, the softmax over the last axis of a b."""
    if b.shape[-1] == 1:  # the softmax of one number is 1
        return c
    a = layers.Rescaling(head_channels**-0.5, name=f"{name}_scale")(a)
    weights = layers.Softmax(name=f"{name}_softmax")(ops.matmul(a, b))
    return ops.matmul(weights, c)


def split_heads(x: Tensor, head_channels: int, name: str, transpose: bool = False) -> Tensor:
    """[B, T, N, C] -> [B, T, h, N, D], or [B, T, h, D, N]."""
    _, windows, tokens, channels = x.shape
    heads = channels // head_channels
    x = layers.Reshape((windows, tokens, heads, head_channels), name=f"{name}_split")(x)
    order = (1, 3, 4, 2) if transpose else (1, 3, 2, 4)
    return layers.Permute(order, name=f"{name}_heads")(x)


def split_windows(x: Tensor, window: int, name: str) -> Tensor:
    """[B, H, W, C] -> [B, T, N, C], windows row by row."""
    _, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = layers.Reshape((rows, window, columns, window, channels), name=f"{name}_grid")(x)
    x = layers.Permute((1, 3, 2, 4, 5), name=f"{name}_tiles")(x)
    # [B, rows, columns, window, window, C]
    return layers.Reshape((rows * columns, window * window, channels), name=f"{name}_windows")(x)


def merge_windows(
    x: Tensor, window: int, size: tuple[int, int], channels: int, name: str
) -> Tensor:
    """[B, T, N, h, D] -> [B, H, W, C], undoes `split_windows`."""
    rows, columns = size[0] // window, size[1] // window
    x = layers.Reshape((rows, columns, window, window, channels), name=f"{name}_tiles_out")(x)
    x = layers.Permute((1, 3, 2, 4, 5), name=f"{name}_grid_out")(x)
    # [B, rows, window, columns, window, C]
    return layers.Reshape((*size, channels), name=f"{name}_map")(x)


# ----------------------------------------------------------------------------------------- layers


def dense(x: Tensor, units: int, name: str, dtype: str | None = None) -> Tensor:
    """Multiplies every pixel of a map [B, H, W, C] by a kernel drawn from N(0, 0.02).

    The reference truncates this normal at +-2, a hundred standard deviations away. It multiplies
    windows instead of maps, with the same result; windows folded to [B, 1, N, C] crash TensorFlow
    2.21 under Keras 3.4.
    """
    initializer = RandomNormal(stddev=0.02)
    return layers.Dense(units, kernel_initializer=initializer, dtype=dtype, name=name)(x)


def layer_norm(x: Tensor, name: str) -> Tensor:
    return layers.LayerNormalization(epsilon=1e-5, name=name)(x)
