"""A first convolution whose fixed filters decorrelate patches of the images (arXiv:2404.00498).

The filters are the eigenvectors of the mean product of two numbers of a k x k patch, over the
patches of normalised training images: each divided by the root of its eigenvalue plus epsilon,
and each with its negative, 2 * 3 * k * k in all. A ReLU follows, which of every such pair lets one
through, so that nothing is lost; then the network's own stem. Training leaves the filters as they
are.
"""

from collections.abc import Iterable, Mapping

import keras
import numpy as np
from keras import layers

from keras_imnet64.core.types import Options, Tensor
from keras_imnet64.models.options import WHITENING, Whitening
from keras_imnet64.models.parts import Normalization, mean_and_std


def whiten(x: Tensor, whitening: Options | None) -> Tensor:
    """Applies the layer `whitening`, whose filters are zeros until `set_filters`, and a ReLU.

    A map keeps its size: 3x3 patches are padded with zeros on all sides, 2x2 below and on the
    right. The layer is float32 under every policy, because it amplifies small differences.

    Args:
        x: normalised pixels [B, H, W, 3].
        whitening: the option of a network; None returns `x`.

    Returns:
        [B, H, W, 6 * k * k]
    """
    if whitening is None:
        return x
    size = Whitening.model_validate(whitening).size
    x = layers.Conv2D(
        2 * 3 * size**2,
        size,
        padding="same",
        use_bias=False,
        kernel_initializer="zeros",
        trainable=False,
        dtype="float32",
        name=WHITENING,
    )(x)
    return layers.ReLU(name=f"{WHITENING}_relu")(x)


def set_filters(
    model: keras.Model,
    batches: Iterable[np.ndarray],
    normalization: Normalization,
    whitening: Whitening | Mapping[str, object],
) -> None:
    """Measures training images and gives the layer `whitening` of a network its filters.

    Args:
        batches: pixels 0..255 [B, H, W, 3].
        normalization: that of the network, see `build_model`.
        whitening: as `build_model` has been given it, such as {"size": 2}.
    """
    whitening = Whitening.model_validate(whitening)
    mean, std = mean_and_std(normalization, model.input.shape[1:])
    normalized = ((batch / 255 - mean) / std for batch in batches)
    moments = patch_moments(normalized, whitening.size)
    model.get_layer(WHITENING).kernel.assign(filters(moments, whitening.epsilon))


def is_unmeasured(model: keras.Model) -> bool:
    """Returns whether a model has the layer `whitening` and no filters in it yet."""
    layer = next((each for each in model.layers if each.name == WHITENING), None)
    return isinstance(layer, layers.Conv2D) and not keras.ops.any(layer.kernel)


def patch_moments(batches: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Returns the mean product of every two numbers of a patch, over all patches of all images.

    Args:
        batches: float64 [B, H, W, 3].
        size: k, the pixels per side of a patch.

    Returns:
        float64 [3 * k * k, 3 * k * k]; the numbers of a patch are in the order [k, k, 3].
    """
    length = 3 * size**2
    total, count = np.zeros((length, length)), 0
    for images in batches:
        patches = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
        patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, length)
        total += patches.T @ patches
        count += len(patches)
    return total / max(1, count)


def filters(moments: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns the kernel of the convolution.

    An eigenvector is determined up to its sign: here the first of its numbers that is at least half
    as large as the largest is positive.

    Args:
        moments: see `patch_moments`.
        epsilon: is added to the eigenvalues.

    Returns:
        float32 [k, k, 3, 6 * k * k], by falling eigenvalue, then their negatives in the same order.
    """
    values, vectors = np.linalg.eigh(moments)
    values, vectors = values[::-1], vectors[:, ::-1]  # in columns
    large = np.abs(vectors) >= np.abs(vectors).max(axis=0) / 2
    first = np.take_along_axis(vectors, large.argmax(axis=0)[None], axis=0)
    scaled = vectors * np.sign(first) / np.sqrt(np.maximum(values, 0) + epsilon)
    size = round(np.sqrt(len(moments) / 3))
    kernel = np.concatenate([scaled, -scaled], axis=1)
    return kernel.reshape(size, size, 3, -1).astype("float32")
