"""AlexNet as torchvision defines it (arXiv:1404.5997), and a smaller stem for smaller pictures.

torchvision averages the last map to 6x6 at every image size. Here the first dense layer is as wide
as the map: 9,216 inputs at 224 pixels, 1,024 at 112, 256 at 64 (2,304 with the small stem).
"""

import keras
from keras import layers

from keras_imnet64.models.parts import (
    check_map,
    check_rate,
    conv,
    logits,
    max_pool,
    normalize,
    pixels,
    pytorch_uniform,
)

STEMS = {"imagenet": (11, 4), "small": (5, 2)}  # size, stride; both are padded by 2
SMALLEST = {"imagenet": 63, "small": 29}  # pixels that leave one of the last map
CONVS = ((384, 3), (256, 3), (256, 3))  # filters, size of the last three
DENSE_WIDTH = 4096


def build(*, image_size, num_classes, normalization, stem="auto", dropout=0.5):
    """AlexNet: five convolutions, three pools, three dense layers.

    Args:
        image_size: pixels per side, at least 29.
        num_classes: K.
        normalization: see `build_model`.
        stem: "imagenet" is 11x11 at stride 4, which leaves nothing of 56 pixels; "small" 5x5 at
            stride 2, which leaves 2x2 of them; "auto" takes the first from 64 pixels on.
        dropout: rate before the first two dense layers.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the image is too small for the stem, or the rate no rate.
    """
    check_rate("dropout", dropout)
    if stem == "auto":
        stem = "imagenet" if image_size >= SMALLEST["imagenet"] else "small"
    check_map(
        f'alexnet with stem "{stem}"',
        image_size,
        last_map=int(image_size >= SMALLEST[stem]),
        smallest=SMALLEST[stem],
    )
    inputs = pixels(image_size)
    x = normalize(inputs, normalization)
    x = conv_relu(x, 64, *STEMS[stem], name="conv1")
    x = max_pool(x, 3, 2, name="pool1")
    x = conv_relu(x, 192, 5, name="conv2")
    x = max_pool(x, 3, 2, name="pool2")
    for number, (filters, size) in enumerate(CONVS, start=3):
        x = conv_relu(x, filters, size, name=f"conv{number}")
    x = max_pool(x, 3, 2, name="features")
    x = layers.Flatten(name="pool")(x)  # [B, H * W * 256]
    for number in (1, 2):
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{number}")(x)
        default = pytorch_uniform(x.shape[-1])
        x = layers.Dense(
            DENSE_WIDTH,
            "relu",
            kernel_initializer=default,
            bias_initializer=default,
            name=f"dense{number}",
        )(x)
    default = pytorch_uniform(DENSE_WIDTH)
    return keras.Model(inputs, logits(x, num_classes, default, default), name="alexnet")


def conv_relu(x, filters, size, stride=1, *, name):
    default = pytorch_uniform(size * size * x.shape[-1])
    x = conv(
        x,
        filters,
        size,
        stride,
        padding=min(2, size // 2),
        kernel_initializer=default,
        use_bias=True,
        bias_initializer=default,
        name=name,
    )
    return layers.ReLU(name=f"{name}_relu")(x)
