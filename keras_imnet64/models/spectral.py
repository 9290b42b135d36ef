"""Spectral sub-networks: any network behind one frequency band of the image.

After Liu, Wang, Yuan, Han, TNNLS 2024 (github.com/YangletLiu/Tensor_Layer_Neural_Networks).

The image is split into S x S sub-images of every S-th pixel; a DCT-II of length M = S^2 across
them, not normalised, gives M bands of H/S x W/S pixels. A sub-network sees only one band. One
kernel selects both the pixels and the frequency, so a band is a depthwise convolution at stride S.
"""

from collections.abc import Iterable
from typing import Literal

import keras
import numpy as np
from keras import layers

from keras_imnet64.core.branches import branch_name
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Options
from keras_imnet64.models import find_model
from keras_imnet64.models.join import join
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.parts import IMAGENET_MEAN, IMAGENET_STD, MIN_STD, Normalization, pixels


def build(
    *,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    factor: int,
    base: Options,
    band: int | Literal["all"] = "all",
) -> keras.Model:
    """Builds a network that sees one band of the image, or one such network for each band.

    Args:
        image_size: pixels per side of the whole image; `factor` divides it.
        num_classes: K.
        normalization: of the band, see `build_model`; an array is [H / S, W / S, 3]. "imagenet"
            normalises the pixels before they are split into bands, as published.
        factor: S; the image has S^2 bands.
        base: {"name": one of `list_models()`, and its options}.
        band: 0 to S^2 - 1, by rising frequency; or "all": one network for each band, joined by
            the mean of their logits.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: `factor` does not divide the image size, or the base cannot be built.
    """
    if band == "all":
        members = {
            branch_name(number): build(
                image_size=image_size,
                num_classes=num_classes,
                normalization=normalization,
                factor=factor,
                base=base,
                band=number,
            )
            for number in range(factor**2)
        }
        return join(members, [1 / len(members)] * len(members), "spectral")
    size, rest = divmod(image_size, factor)
    if rest:
        raise UserError(
            f"the image size must be divisible by model.factor = {factor}; received {image_size}, "
            f"the nearest below that works is {image_size - rest}"
        )
    name, options = base["name"], {key: base[key] for key in base if key != "name"}
    with without_weights():
        network = find_model(name).build(
            image_size=size,
            num_classes=num_classes,
            normalization=normalization_of_band(normalization, factor, band),
            **options,
        )
    inputs = pixels(image_size)
    x = layers.DepthwiseConv2D(
        factor,
        factor,
        use_bias=False,
        depthwise_initializer=keras.initializers.Constant(kernel(factor, band).tolist()),
        trainable=False,
        dtype="float32",
        name="band",
    )(inputs)  # [B, H / S, W / S, 3]
    whole = keras.Model(inputs, network.call(x), name="spectral")
    return keras.models.clone_model(whole)  # with weights, and one call of each layer


def kernel(factor: int, band: int) -> np.ndarray:
    """Returns 2 cos(pi k (2n + 1) / 2M) for the pixel in row r, column c, n = rS + c, k the band.

    The convolution computes `scipy.fft.dct(x, axis=n)[k]`, the same for the three channels.

    Returns:
        float64 [S, S, 3, 1].
    """
    num_bands = factor**2
    basis = 2 * np.cos(np.pi * band * (2 * np.arange(num_bands) + 1) / (2 * num_bands))
    return np.repeat(basis.reshape(factor, factor, 1, 1), 3, axis=2)


def band_of(images: np.ndarray, factor: int, band: int) -> np.ndarray:
    """Returns a band of images [..., H, W, 3], float32 [..., H / S, W / S, 3]."""
    *batch, height, width, _ = images.shape
    parts = images.reshape(*batch, height // factor, factor, width // factor, factor, 3)
    weights = kernel(factor, band)[:, :, 0, 0].astype("float32")
    return np.einsum("...hrwsc,rs->...hwc", parts.astype("float32"), weights, optimize=True)


def normalization_of_band(normalization: Normalization, factor: int, band: int) -> Normalization:
    """Returns the normalization of the base; "imagenet" becomes the mean and std of the band."""
    if normalization != "imagenet":
        return normalization
    gain = kernel(factor, band)[:, :, 0, 0].sum()  # 2M for band 0, 0 for all others
    return {"mean": [gain * mean for mean in IMAGENET_MEAN], "std": IMAGENET_STD}


def band_mean_and_std(
    batches: Iterable[np.ndarray], factor: int, band: int
) -> dict[str, list[float]]:
    """Measures a band over batches [B, H, W, 3] of pixels, on the 0..1 scale.

    Returns:
        {"mean": [3], "std": [3]}; std is 1 where the band does not vary, as in images of one
        colour.
    """
    count, total, squares = 0, np.zeros(3), np.zeros(3)
    for images in batches:
        values = band_of(images, factor, band).reshape(-1, 3).astype("float64") / 255
        count, total = count + len(values), total + values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return {"mean": mean.tolist(), "std": np.where(std < MIN_STD, 1.0, std).tolist()}
