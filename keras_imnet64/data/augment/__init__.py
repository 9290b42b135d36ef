"""Augmentation: operations on whole uint8 batches, whose random numbers are drawn beforehand.

An operation is two functions of a module of this package: one draws a few numbers per image from a
NumPy generator, the other applies them in TensorFlow, with the same pixels eagerly and in tf.data.
`options` holds its options. `layers` handles layers of Keras and KerasCV, which draw their own
random numbers.

The functions of an operation `x` are:
    draw_x(rng, num_samples, image_size, **options) -> {name: array [M, ...]}
    x(images, draws, mean_image, **options) -> images
with uint8 images [B, H, W, 3], draws {name: tensor [B, ...]} and the uint8 mean image [H, W, 3].
This module does not import TensorFlow, so that recipes are checked without delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.tables import parse_table
from keras_imnet64.core.types import JsonObject, Options, Tensor
from keras_imnet64.data.augment.options import OPS

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Step:
    """One operation of a recipe's augmentation, with all of its options."""

    op: str
    options: JsonObject
    is_exact = True  # the same seed gives the same pixels, unlike in `layers.LayerStep`

    @property
    def mixes(self) -> bool:
        """Whether the operation mixes images, and so their labels, see `mixing`."""
        return OPS[self.op].mixes

    @cached_property
    def _module(self) -> ModuleType:
        return import_module(f"{__name__}.{OPS[self.op].module}")

    def draw(
        self, rng: np.random.Generator, num_samples: int, image_size: int | np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the numbers that the operation needs for each sample, arrays [M, ...] by name."""
        draw = getattr(self._module, f"draw_{self.op}")
        return draw(rng, num_samples, image_size, **self.options)

    def apply(self, images: Tensor, draws: dict[str, Tensor], mean_image: Tensor) -> Tensor:
        """Returns the changed images; all are uint8, [B, H, W, 3] and [H, W, 3]."""
        return getattr(self._module, self.op)(images, draws, mean_image, **self.options)


def check_augment(op: str, options: Options, image_size: int | None = None) -> Step:
    """Returns the `Step` of a recipe's [[augment]] table, with defaults filled in.

    If `image_size` is given, the options are checked against it.

    Raises:
        UserError: the operation is not known, or an option is wrong or missing.
    """
    if op not in OPS:
        raise UserError(f'augment.op "{op}" is not known; {nearest(op, OPS)}')
    table = parse_table(OPS[op], {**options, "op": op}, "augment")
    if image_size:
        table.check_image_size(image_size)
    return Step(op, table.all_options)
