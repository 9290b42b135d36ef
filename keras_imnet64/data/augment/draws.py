"""Draws: the random numbers of an augmentation, drawn for a whole epoch and applied by batch."""

from typing import Protocol, TypeAlias

import numpy as np

from keras_imnet64.core.types import Options, Tensor

Draws: TypeAlias = dict[str, np.ndarray]  # {name: [M, ...]} of the M samples of an epoch
TensorDraws: TypeAlias = dict[str, Tensor]  # the same of the B images of a batch: [B, ...]


class AugmentationStep(Protocol):
    """What the data stream knows of a step: `augment.Step` or `layers.LayerStep`.

    Attributes:
        op: the name that the recipe gives it.
        options: what the recipe sets, defaults filled in.
        is_exact: whether the same seed gives the same pixels.
        mixes: whether it pairs images, so that labels become pairs too, see `mixing`.
    """

    @property
    def op(self) -> str: ...

    @property
    def options(self) -> Options: ...

    @property
    def is_exact(self) -> bool: ...

    @property
    def mixes(self) -> bool: ...

    def draw(
        self, rng: np.random.Generator, num_samples: int, image_size: int | np.ndarray
    ) -> Draws:
        """Draws the random numbers of M = num_samples samples.

        Args:
            image_size: pixels per side; or integers [M, 2], height and width of each image, for a
                crop of images of any size.
        """
        ...

    def apply(self, images: Tensor, draws: TensorDraws, mean_image: np.ndarray) -> Tensor:
        """Returns augmented images.

        Args:
            images: uint8 [B, H, W, 3].
            draws: what `draw` returned for these images.
            mean_image: uint8 [H, W, 3], with which fill "mean" fills.
        """
        ...
