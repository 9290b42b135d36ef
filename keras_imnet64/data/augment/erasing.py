"""Random erasing: fills a box of each image (arXiv:1708.04896)."""

from collections.abc import Sequence

import numpy as np

from keras_imnet64.core.types import Tensor
from keras_imnet64.data.augment.crops import draw_boxes, where_in_box
from keras_imnet64.data.augment.draws import Draws, TensorDraws


def draw_random_erasing(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    probability: float,
    scale: Sequence[float],
    ratio: Sequence[float],
    fill: int | str,
) -> Draws:
    """Draws the box of each image; an image that is not erased gets a box of height 0.

    As in torchvision, the share of the area and the logarithm of height / width are uniform.

    Returns:
        {"top", "left", "height", "width"}: int32 [M] each.
    """
    chosen = np.flatnonzero(rng.random(num_samples) < probability)
    sizes = np.full((num_samples, 2), image_size)
    no_boxes = np.zeros((4, num_samples))
    width_by_height = [1 / ratio[1], 1 / ratio[0]]
    return draw_boxes(rng, no_boxes, chosen, sizes, scale, width_by_height, np.less)


def random_erasing(
    images: Tensor,
    draws: TensorDraws,
    mean_image: np.ndarray,
    *,
    probability: float,
    scale: Sequence[float],
    ratio: Sequence[float],
    fill: int | str,
) -> Tensor:
    """Fills the drawn box.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"top", "left", "height", "width": int32 [B]}.
        mean_image: uint8 [H, W, 3], the pixels of fill "mean".
        fill: 0..255 for all channels, or "mean".
    """
    filling = mean_image if fill == "mean" else np.full_like(mean_image, fill)
    return where_in_box(images, draws, filling, images)
