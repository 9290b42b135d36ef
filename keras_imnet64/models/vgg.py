"""VGG-16 with and without batch normalisation (arXiv:1409.1556), as torchvision defines it.

torchvision averages the last map to 7x7 at every image size. Here the first dense layer is as wide
as the map: 25,088 inputs at 224 pixels, 4,608 at 112, 2,048 at 64, 512 at 56.
"""

import keras
from keras import layers
from keras.initializers import RandomNormal

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.parts import (
    Normalization,
    check_image_size,
    conv,
    kaiming_normal,
    max_pool,
    normalize,
    pixels,
    pytorch_batch_norm,
)

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; then a pool
DENSE_WIDTH = 4096


def build(
    *,
    variant: str,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    dropout: float = 0.5,
) -> keras.Model:
    """Builds a VGG-16: thirteen 3x3 convolutions, five pools, three dense layers.

    Args:
        variant: "vgg16", or "vgg16_bn" with BN after every convolution.
        image_size: pixels per side, at least 32.
        num_classes: K.
        normalization: see `build_model`.
        dropout: rate after the first two dense layers.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the image is too small.
    """
    check_image_size(variant, image_size, 32)
    inputs = pixels(image_size)
    x = normalize(inputs, normalization)
    for stage, (filters, num_convs) in enumerate(STAGES, start=1):
        for number in range(1, num_convs + 1):
            name = f"stage{stage}_conv{number}"
            x = conv(x, filters, 3, kernel_initializer=kaiming_normal(), use_bias=True, name=name)
            if variant == "vgg16_bn":
                x = pytorch_batch_norm(x, f"{name}_bn")
            x = layers.ReLU(name=f"{name}_relu")(x)
        pool = "features" if stage == len(STAGES) else f"stage{stage}_pool"
        x = max_pool(x, 2, 2, name=pool)  # [B, H / 2^stage, W / 2^stage, filters]
    x = layers.Flatten(name="pool")(x)  # [B, H * W * C]
    for number in (1, 2):
        x = dense(x, DENSE_WIDTH, f"dense{number}", activation="relu")
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{number}")(x)
    x = dense(x, num_classes, "logits", dtype="float32")
    return keras.Model(inputs, x, name=variant)


def dense(
    x: Tensor, units: int, name: str, activation: str | None = None, dtype: str | None = None
) -> Tensor:
    initializer = RandomNormal(stddev=0.01)
    return layers.Dense(units, activation, kernel_initializer=initializer, dtype=dtype, name=name)(
        x
    )
