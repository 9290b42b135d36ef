"""DaViT, dual attention vision transformers (arXiv:2204.03645), as timm defines them (1.0.31).

Pairs of blocks: the first attends within windows of the map, the second between the channels of the
whole map. Axes: B pictures, H W the map, C its channels, W windows, N tokens of a window, h heads,
D channels per head, which are 32.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops
from keras.initializers import RandomNormal

from keras_imnet64.errors import UserError
from keras_imnet64.models.parts import (
    check_map,
    check_rate,
    conv,
    drop_path,
    logits,
    normalize,
    pixels,
    pytorch_uniform,
)

HEAD_CHANNELS = 32
MLP_RATIO = 4
# The reference cuts this normal at +-2, a hundred deviations away.
NORMAL = RandomNormal(stddev=0.02)


@dataclass(frozen=True)
class Variant:
    channels: int  # of the first stage; each following has twice as many
    pairs: tuple  # of blocks in each stage


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
    size: int
    stride: int
    padding: int


STEMS = {
    "imagenet": Stem(7, 4, 3),
    "small": Stem(7, 2, 3),
    "small_3x3": Stem(3, 2, 1),
    "full_3x3": Stem(3, 1, 1),
    "full_15x15": Stem(15, 1, 3),  # 64 pixels -> 56, a quarter of 224 as behind the first
}


def build(
    *,
    variant,
    image_size,
    num_classes,
    normalization,
    stem="auto",
    window="auto",
    drop_path_rate=0.0,
):
    """A DaViT of four stages.

    Args:
        variant: a key of VARIANTS.
        image_size: pixels per side, any.
        num_classes: K.
        normalization: see `build_model`.
        stem: "imagenet" is 7x7 at stride 4, as published; "small" 7x7 at stride 2, "small_3x3" 3x3
            at stride 2; "full_3x3" and "full_15x15" keep all pixels, or 56 of 64. "auto" is "small"
            up to 64 pixels, above that "imagenet".
        window: tokens per side of a window. A number holds in every stage: maps that it does not
            divide are padded with zeros, which take part in the attention, as in the reference.
            "auto" is 7 where 7 divides the first map and else 8, and never more than the map.
        drop_path_rate: of the last block; it grows with depth from 0. The paper has 0.1 for tiny.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the image is too small for the stem, or an option is out of range.
    """
    check_rate("drop_path_rate", drop_path_rate)
    network = VARIANTS[variant]
    rates = iter(np.linspace(0, drop_path_rate, 2 * sum(network.pairs)).tolist())

    inputs = pixels(image_size)
    x = normalize(inputs, normalization)
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
    return keras.Model(inputs, logits(x, num_classes, NORMAL), name=variant)


def window_size(window, first_map, this_map):
    if window == "auto":
        return min(8 if first_map % 7 else 7, this_map)
    if window != int(window) or not 1 <= window <= 64:
        raise UserError(
            f'model.window must be a whole number from 1 to 64, or "auto"; received {window}'
        )
    return int(window)


# ------------------------------------------------------------------------------- between stages


def apply_stem(x, channels, stem, variant):
    image_size = x.shape[1]
    if stem == "auto":
        stem = "small" if image_size <= 64 else "imagenet"
    stem_size = STEMS[stem]
    smallest = max(1, stem_size.size - 2 * stem_size.padding)
    check_map(
        f'{variant} with stem "{stem}"',
        image_size,
        last_map=int(image_size >= smallest),
        smallest=smallest,
    )
    x = pad_to_multiple(x, stem_size.stride, "stem_pad_to_stride")
    default = pytorch_uniform(stem_size.size**2 * 3)
    x = conv(
        x,
        channels,
        stem_size.size,
        stem_size.stride,
        padding=stem_size.padding,
        kernel_initializer=default,
        use_bias=True,
        bias_initializer=default,
        name="stem_conv",
    )
    return layer_norm(x, "stem_norm")


def downsample(x, channels, name):
    """Normalise, then a 2x2 convolution at stride 2."""
    default = pytorch_uniform(2 * 2 * x.shape[-1])
    x = layer_norm(x, f"{name}_norm")
    x = pad_to_multiple(x, 2, f"{name}_pad")
    return conv(
        x,
        channels,
        2,
        2,
        padding=0,
        kernel_initializer=default,
        use_bias=True,
        bias_initializer=default,
        name=f"{name}_conv",
    )


def pad_to_multiple(x, multiple, name):
    """Zeros at the right and the bottom until `multiple` divides the map."""
    height, width = (-size % multiple for size in x.shape[1:3])
    if not height and not width:
        return x
    return layers.ZeroPadding2D(((0, height), (0, width)), name=name)(x)


# ----------------------------------------------------------------------------------------- blocks


def window_block(x, window, *, name, drop_path_rate=0.0, head_channels=HEAD_CHANNELS):
    """Attention of each token to those of its window, then an MLP."""

    def attend(x):
        _, height, width, _ = x.shape
        x = pad_to_multiple(x, window, f"{name}_pad")
        padded = x.shape
        x = dense(x, 3 * padded[-1], f"{name}_qkv")  # [B, H, W, 3 C]
        q, k, v = thirds(windows_of(x, window))  # [B, W, N, C] each
        q = split_heads(q, head_channels)  # [B, W, h, N, D]
        k = split_heads(k, head_channels, transpose=True)  # [B, W, h, D, N]
        v = split_heads(v, head_channels)  # [B, W, h, N, D]
        x = mix(q, k, v, head_channels)  # [B, W, h, N, D]
        x = layers.Permute((1, 3, 2, 4))(x)  # [B, W, N, h, D]
        x = map_of(x, window, padded)  # [B, H, W, C]
        x = dense(x, padded[-1], f"{name}_project")
        if padded[1:3] != (height, width):
            below, right = padded[1] - height, padded[2] - width
            x = layers.Cropping2D(((0, below), (0, right)), name=f"{name}_crop")(x)
        return x

    return residual_block(x, attend, drop_path_rate, name)


def channel_block(x, *, name, drop_path_rate=0.0, head_channels=HEAD_CHANNELS):
    """Attention of each channel to those of its head, over the whole map, then an MLP.

    The scale is D^-0.5 as in the window blocks, though the products sum over the map.
    """

    def attend(x):
        _, height, width, channels = x.shape
        x = dense(x, 3 * channels, f"{name}_qkv")  # [B, H, W, 3 C]
        q, k, v = thirds(windows_of(x, height))  # [B, 1, N, C] each: one window
        q = split_heads(q, head_channels, transpose=True)  # [B, 1, h, D, N]
        k = split_heads(k, head_channels, transpose=True)  # [B, 1, h, D, N]
        v = split_heads(v, head_channels)  # [B, 1, h, N, D]
        x = mix(k, v, q, head_channels)  # [B, 1, h, D, N]
        x = layers.Permute((1, 4, 2, 3))(x)  # [B, 1, N, h, D]
        x = layers.Reshape((height, width, channels))(x)  # [B, H, W, C]
        return dense(x, channels, f"{name}_project")

    return residual_block(x, attend, drop_path_rate, name)


def residual_block(x, attend, drop_path_rate, name):
    """Position encoding, attention, position encoding, MLP, each added to what it is given."""
    x = encode_position(x, f"{name}_position1")
    branch = attend(layer_norm(x, f"{name}_norm1"))
    branch = drop_path(branch, drop_path_rate, f"{name}_drop_path1")
    x = layers.Add(name=f"{name}_add1")([x, branch])
    x = encode_position(x, f"{name}_position2")
    branch = mlp(layer_norm(x, f"{name}_norm2"), name)
    branch = drop_path(branch, drop_path_rate, f"{name}_drop_path2")
    return layers.Add(name=f"{name}_add2")([x, branch])


def encode_position(x, name):
    """A depthwise 3x3 convolution, added: zeros at the border tell where a token is."""
    default = pytorch_uniform(3 * 3)
    encoding = layers.DepthwiseConv2D(
        3,
        padding="same",
        depthwise_initializer=default,
        bias_initializer=default,
        name=name,
    )(x)
    return layers.Add(name=f"{name}_add")([x, encoding])


def mlp(x, name):
    channels = x.shape[-1]
    x = dense(x, MLP_RATIO * channels, f"{name}_mlp1")
    x = layers.Activation("gelu", name=f"{name}_gelu")(x)  # exact, with erf
    return dense(x, channels, f"{name}_mlp2")


# -------------------------------------------------------------------------------------- attention


def mix(a, b, c, head_channels):
    """softmax(a b / sqrt(D)) c, for every head."""
    scores = ops.matmul(layers.Rescaling(head_channels**-0.5)(a), b)
    return ops.matmul(layers.Softmax()(scores), c)


def thirds(x):
    """Queries, keys and values, [B, W, N, C] each, of [B, W, N, 3 C].

    Cropping2D is the layer that slices; told that channels come first, it slices the last axis.
    """
    channels = x.shape[-1] // 3
    crops = ((0, 2 * channels), (channels, channels), (2 * channels, 0))
    return [layers.Cropping2D(((0, 0), crop), data_format="channels_first")(x) for crop in crops]


def split_heads(x, head_channels, transpose=False):
    """[B, W, N, C] -> [B, W, h, N, D], or [B, W, h, D, N]."""
    _, windows, tokens, channels = x.shape
    heads = channels // head_channels
    x = layers.Reshape((windows, tokens, heads, head_channels))(x)  # [B, W, N, h, D]
    return layers.Permute((1, 3, 4, 2) if transpose else (1, 3, 2, 4))(x)


def windows_of(x, window):
    """[B, H, W, C] -> [B, W, N, C], windows row by row."""
    _, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = layers.Reshape((rows, window, columns, window, channels))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)  # [B, rows, columns, window, window, C]
    return layers.Reshape((rows * columns, window * window, channels))(x)


def map_of(x, window, shape):
    """[B, W, N, h, D] -> [B, H, W, C], undoes `windows_of`."""
    _, height, width, channels = shape
    rows, columns = height // window, width // window
    x = layers.Reshape((rows, columns, window, window, channels))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)  # [B, rows, window, columns, window, C]
    return layers.Reshape((height, width, channels))(x)


# ----------------------------------------------------------------------------------------- layers


def dense(x, units, name):
    """For every pixel of a map. Folded into windows, [B, 1, N, C], it would end some processes:

    TensorFlow 2.21 crashes in the product that Keras 3.4 makes of it, outside XLA on x86.
    """
    return layers.Dense(units, kernel_initializer=NORMAL, name=name)(x)


def layer_norm(x, name):
    return layers.LayerNormalization(epsilon=1e-5, name=name)(x)
