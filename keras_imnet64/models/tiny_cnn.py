"""Two small convolutional networks for Tiny ImageNet, after a list of their layers.

Their source code was never published. That list gives the second one 512 features at 64 pixels,
where four pools leave 2,048: it is consistent only with a pool after every convolution.
"""

from collections.abc import Callable

import keras
from keras import layers

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.parts import (
    Normalization,
    check_image_size,
    max_pool,
    normalize,
    pixels,
    pytorch_batch_norm,
    pytorch_conv,
    pytorch_dense,
    pytorch_logits,
)


def build(
    *,
    variant: str,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    dropout: float = 0.5,
) -> keras.Model:
    """Builds tiny_cnn1 or tiny_cnn2, with five convolutions and two dense layers each.

    Args:
        variant: "tiny_cnn1" or "tiny_cnn2".
        image_size: pixels per side; at least 8 for the first, 32 for the second.
        num_classes: K.
        normalization: see `build_model`.
        dropout: rate before the last dense layer. The list states 0.5 for the second network and
            nothing for the first, which has 0.5 here too.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the image is too small.
    """
    inputs = pixels(image_size)
    x = normalize(inputs, normalization)
    x = VARIANTS[variant](x, dropout)
    return keras.Model(inputs, pytorch_logits(x, num_classes), name=variant)


def tiny_cnn1(x: Tensor, dropout: float) -> Tensor:
    """Pools after the first four convolutions, the last of them 2x2, padded by 2: 8 -> 11 -> 5."""
    check_image_size("tiny_cnn1", x.shape[1], 8)
    for number in (1, 2, 3):
        x = conv_bn_relu(x, 128, number)
        x = max_pool(x, 2, 2, name=f"pool{number}")
    x = conv_bn_relu(x, 128, 4, size=2)
    x = max_pool(x, 2, 2, name="pool4")
    x = conv_bn_relu(x, 128, 5)
    x = layers.Identity(name="features")(x)  # [B, 5, 5, 128] of 64 pixels
    x = layers.Flatten(name="pool")(x)  # [B, 3200]
    x = layers.ReLU(name="dense_relu")(pytorch_dense(x, 1024, "dense"))
    x = pytorch_batch_norm(x, "dense_bn")
    return layers.Dropout(dropout, name="dropout")(x) if dropout else x


def tiny_cnn2(x: Tensor, dropout: float) -> Tensor:
    """A pool after every convolution, and a softmax between the dense layers.

    The normalisation after the softmax has no gamma and beta: the list has it as a layer and
    counts no parameters for it.
    """
    check_image_size("tiny_cnn2", x.shape[1], 32)
    for number, filters in enumerate((64, 128, 128, 128, 128), start=1):
        x = conv_bn_relu(x, filters, number)
        x = max_pool(x, 2, 2, name=f"pool{number}" if number < 5 else "features")
    x = layers.Flatten(name="pool")(x)  # [B, 512] of 64 pixels
    x = layers.Softmax(name="dense_softmax")(pytorch_dense(x, 400, "dense"))
    x = pytorch_batch_norm(x, "dense_bn", center=False, scale=False)
    return layers.Dropout(dropout, name="dropout")(x) if dropout else x


VARIANTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "tiny_cnn1": tiny_cnn1,
    "tiny_cnn2": tiny_cnn2,
}


def conv_bn_relu(x: Tensor, filters: int, number: int, size: int = 5) -> Tensor:
    x = pytorch_conv(x, filters, size, padding=2, name=f"conv{number}")
    return layers.ReLU(name=f"relu{number}")(pytorch_batch_norm(x, f"bn{number}"))
