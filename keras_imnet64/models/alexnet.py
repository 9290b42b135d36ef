"""AlexNet as torchvision defines it (arXiv:1404.5997), and a smaller stem for smaller images.

torchvision averages the last map to 6x6 at every image size. Here the first dense layer is as wide
as the map: 9,216 inputs at 224 pixels, 1,024 at 112, with the small stem 2,304 at 64.
"""

from dataclasses import dataclass

import keras
from keras import layers

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.parts import (
    Normalization,
    check_image_size,
    max_pool,
    normalize,
    pixels,
    pytorch_conv,
    pytorch_dense,
    pytorch_logits,
)


@dataclass(frozen=True)
class Stem:
    """The first convolution."""

    size: int
    stride: int
    min_image_size: int  # pixels per side: the last map has one pixel


STEMS = {"imagenet": Stem(11, 4, 63), "small": Stem(5, 2, 29)}
AUTO_FROM = 95  # pixels per side; in smaller images stem "imagenet" leaves a map below 2x2
DENSE_WIDTH = 4096


def build(
    *,
    image_size: int,
    num_classes: int,
    normalization: Normalization,
    stem: str = "auto",
    dropout: float = 0.5,
) -> keras.Model:
    """Builds an AlexNet: five convolutions, three pools, three dense layers.

    Args:
        image_size: pixels per side, at least 29.
        num_classes: K.
        normalization: see `build_model`.
        stem: "imagenet" is 11x11 at stride 4: the last map is 2x2 for 112 pixels, empty for 56;
            "small" is 5x5 at stride 2: the last map is 3x3 for 64 pixels, 2x2 for 56; "auto" is
            "imagenet" where the last map is then 2x2 or larger.
        dropout: rate before the first two dense layers.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the image is too small for the stem.
    """
    if stem == "auto":
        stem = "imagenet" if image_size >= AUTO_FROM else "small"
    check_image_size(f'alexnet with stem "{stem}"', image_size, STEMS[stem].min_image_size)
    inputs = pixels(image_size)
    x = normalize(inputs, normalization)
    x = conv_relu(x, 64, STEMS[stem].size, STEMS[stem].stride, padding=2, name="conv1")
    x = max_pool(x, 3, 2, name="pool1")
    x = conv_relu(x, 192, 5, name="conv2")
    x = max_pool(x, 3, 2, name="pool2")
    x = conv_relu(x, 384, 3, name="conv3")
    x = conv_relu(x, 256, 3, name="conv4")
    x = conv_relu(x, 256, 3, name="conv5")
    x = max_pool(x, 3, 2, name="features")
    x = layers.Flatten(name="pool")(x)  # [B, H * W * 256]
    for number in (1, 2):
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{number}")(x)
        x = pytorch_dense(x, DENSE_WIDTH, f"dense{number}", activation="relu")
    return keras.Model(inputs, pytorch_logits(x, num_classes), name="alexnet")


def conv_relu(
    x: Tensor,
    filters: int,
    size: int,
    stride: int = 1,
    *,
    padding: int | None = None,
    name: str,
) -> Tensor:
    x = pytorch_conv(x, filters, size, stride, padding=padding, name=name)
    return layers.ReLU(name=f"{name}_relu")(x)
