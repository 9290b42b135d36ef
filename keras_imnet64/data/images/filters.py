"""Pillow's filters that resize images: the support of each and its weight function.

A weight function takes the distances x from the centre and the library to compute with, NumPy or
TensorFlow. Distances are in pixels of the image, or of the result if that is smaller.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Literal, TypeAlias

from keras_imnet64.core.types import Tensor

CropFilter = Literal["bilinear", "bicubic", "box", "lanczos"]  # whose weights are in FILTERS
ResizeFilter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]  # Pillow's
RANDOM = "random"  # of a crop: one of RANDOM_FILTERS is drawn for each image
RANDOM_FILTERS = ("bilinear", "bicubic")
WeightFunction: TypeAlias = Callable[[Tensor, ModuleType], Tensor]


def _box(x: Tensor, xp: ModuleType) -> Tensor:
    return xp.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _triangle(x: Tensor, xp: ModuleType) -> Tensor:
    return 1.0 - xp.abs(x)


def _cubic(x: Tensor, xp: ModuleType) -> Tensor:
    a, x = -0.5, xp.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return xp.where(x < 1.0, near, (((x - 5.0) * x + 8.0) * x - 4.0) * a)


def _lanczos(x: Tensor, xp: ModuleType) -> Tensor:
    """sinc(x) sinc(x / 3)."""
    near_zero = xp.abs(x) < 1e-8
    angle = xp.where(near_zero, 1.0, math.pi * x)
    value = 3.0 * xp.sin(angle) * xp.sin(angle / 3.0) / (angle * angle)
    return xp.where(near_zero, 1.0, value)


FILTERS: dict[str, tuple[float, WeightFunction]] = {  # (support, weight function within it)
    "box": (0.5, _box),
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
