"""Augmentation: `(images, draws) -> images` on whole uint8 batches, without randomness of its own.

Each operation is a draw function (a few numbers per image, from a NumPy generator) and an apply
function (TensorFlow, so that the same pixels come out eagerly and in tf.data), side by side in one
of the modules here; `options` has its options. `layers` handles layers of Keras and KerasCV, which
draw for themselves.

An operation `x` is two functions of its module:
    draw_x(rng, num_samples, image_size, **options) -> {name: array [M, ...]}
    x(images, draws, mean_image, **options) -> images
with uint8 images [B, H, W, 3], draws {name: tensor [B, ...]} and the uint8 mean image [H, W, 3].
Nothing here imports TensorFlow, so that recipes can be checked at once.
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
    is_exact = True  # the same pixels from the same seed; `layers.LayerStep` is not

    @property
    def mixes(self) -> bool:
        """Whether the operation makes labels of pairs too, see `mixing`."""
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

    What depends on the images' size is checked where the size is given.

    Raises:
        UserError: the operation is not known, or an option is wrong or missing.
    """
    if op not in OPS:
        raise UserError(f'augment.op "{op}" is not known; {nearest(op, OPS)}')
    table = parse_table(OPS[op], {**options, "op": op}, "augment")
    if image_size:
        table.check_image_size(image_size)
    return Step(op, table.all_options)
