"""The filters that images are resized with: how far each reaches, and its weights, as in Pillow.

A weight is a function of (x, xp): the distance from the centre, in pixels or, where images become
smaller, in pixels of the result, and the namespace to compute in, NumPy or TensorFlow.
"""

import math
from typing import Literal

CropFilter = Literal["bilinear", "bicubic", "box", "lanczos"]  # whose weights are in FILTERS
ResizeFilter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]  # Pillow's


def _box(x, xp):
    return xp.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _triangle(x, xp):
    return 1.0 - xp.abs(x)


def _cubic(x, xp, a=-0.5):
    x = xp.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return xp.where(x < 1.0, near, (((x - 5.0) * x + 8.0) * x - 4.0) * a)


def _lanczos(x, xp):
    """sinc(x) sinc(x / 3)."""
    near_zero = xp.abs(x) < 1e-8
    angle = xp.where(near_zero, 1.0, math.pi * x)
    value = 3.0 * xp.sin(angle) * xp.sin(angle / 3.0) / (angle * angle)
    return xp.where(near_zero, 1.0, value)


FILTERS = {  # (reach, weight); beyond its reach a weight is zero, whatever the function says
    "box": (0.5, _box),
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
