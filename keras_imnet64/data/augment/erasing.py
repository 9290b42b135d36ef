"""Random erasing: a box of the image loses its content (arXiv:1708.04896)."""

import numpy as np

from keras_imnet64.data.augment.crops import draw_boxes, inside_boxes


def draw_random_erasing(rng, num_samples, image_size, *, probability, scale, ratio, fill):
    """The box of each image, {"top", "left", "height", "width": int32 [M]}; 0 high where none is.

    As in torchvision: with a uniform share of the area and a uniform logarithm of height / width.
    """
    chosen = np.flatnonzero(rng.random(num_samples) < probability)
    sizes = np.full((num_samples, 2), image_size)
    none, upright = np.zeros((4, num_samples)), [1 / ratio[1], 1 / ratio[0]]
    return draw_boxes(rng, none, chosen, sizes, scale, upright, np.less)


def random_erasing(images, draws, mean_image, *, probability, scale, ratio, fill):
    """Fill the drawn box.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"top", "left", "height", "width": int32 [B]}.
        mean_image: uint8 [H, W, 3]; what fill "mean" takes.
        fill: 0..255, of all channels, or "mean".
    """
    filling = mean_image if fill == "mean" else np.full_like(mean_image, fill)
    return inside_boxes(images, draws, filling, images)
