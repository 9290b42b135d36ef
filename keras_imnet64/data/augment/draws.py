"""Draws: the random numbers of an augmentation, drawn for a whole epoch and applied per batch."""

from typing import Protocol, TypeAlias

import numpy as np

from keras_imnet64.core.types import Options, Tensor

Draws: TypeAlias = dict[str, np.ndarray]  # {name: [M, ...]} of the M samples of an epoch
TensorDraws: TypeAlias = dict[str, Tensor]  # {name: [B, ...]} of the B images of a batch


class AugmentationStep(Protocol):
    """The interface of a step to the data stream: `augment.Step` or `layers.LayerStep`.

    Attributes:
        op: the name of the operation in recipes.
        options: the options in the recipe, with defaults filled in.
        is_exact: whether the same seed gives the same pixels.
        mixes: whether the step mixes pairs of images, and so their labels, see `mixing`.
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
            mean_image: uint8 [H, W, 3], the pixels of fill "mean".
        """
        ...
