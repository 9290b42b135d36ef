"""Images and numbers on which augmentations are compared with the reference implementations."""

import numpy as np

HEIGHT, WIDTH = 24, 20


def images():
    """Returns uint8 [3, 24, 20, 3]: smooth, noise, and few colours with a constant channel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([10 * y, 255 - 12 * x, 6 * x + 5 * y], axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    checks = (x // 4 + y // 6) % 2
    few = np.stack([60 + 130 * checks, np.full_like(x, 90), 40 * (x // 5)], axis=-1)
    return np.stack([smooth, noise, few]).clip(0, 255).astype("uint8")


# {operation: its numbers}, for torchvision's functional form in `make.py` and for ours in
# `test_augment_golden.py`.
COLOURS = {
    "brightness": [0.01, 0.4, 1.0, 1.37, 1.99],
    "saturation": [0.01, 0.4, 1.0, 1.37, 1.99],
    "contrast": [0.01, 0.4, 1.0, 1.37, 1.99],
    "sharpness": [0.01, 0.4, 1.0, 1.37, 1.99],
    "hue": [-0.5, -0.21, 0.0, 0.07, 0.5],
    "posterize": [0, 1, 4, 7, 8],
    "solarize": [0.0, 85.0, 127.5, 255.0],
    "solarize_add": [0, 60, 110],
    "autocontrast": [0],
    "equalize": [0],
    "invert": [0],
}
MAPS = {
    "shear_x": [-0.99, 0.3],
    "shear_y": [-0.3, 0.99],
    "translate_x": [-7, 3],
    "translate_y": [-3, 19],
    "rotate": [-135.0, -18.0, 30.0, 90.0],
}
BOXES = [(0, 0, 24, 20), (3, 2, 9, 5), (10, 0, 14, 20), (23, 19, 1, 1), (0, 4, 24, 8)]
FILTERS = ("bilinear", "bicubic")
RESIZED = (16, 16)  # larger and smaller than boxes
