"""The order of the data: which images form a step, and which random numbers augment each of them.

All randomness of the data comes from this module. It depends only on the recipe, its seed, the
epoch and the position in the epoch: not on timing, workers, backend, device or process count, nor
on what was read before.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from keras_imnet64.data.augment.draws import AugmentationStep, Draws

Mirror: TypeAlias = Literal["none", "random", "alternating", "both"]
HOLDOUT_SEED = 0  # runs of every seed hold out the same images, so that they can be compared


def generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Returns NumPy's counter-based generator for a seed, an epoch and the use of its numbers."""
    key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, key])))


def epoch_order(
    num_images: int, mirror: Mirror, seed: int, epoch: int, repeats: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a permutation of all samples of an epoch.

    With repeated augmentation (arXiv:1902.05509), sample i of N is image i // repeats of the
    permutation: `repeats` copies of an image follow each other, nearly always within a batch, and
    an epoch shows the first N / repeats images of its permutation, as the samplers of DeiT and
    timm do. Each copy is mirrored and augmented by draws of its own.

    Args:
        num_images: N.
        mirror: "none", "random" (each image once, mirrored or not with equal probability),
            "alternating" (each image once, mirrored in every other epoch) or "both" (each image and
            its mirror image once: 2N samples).
        epoch: from 0.
        repeats: above 1 only with the mirrors "none" and "random".

    Returns:
        (images int64 [M], mirrored bool [M]): sample i of the epoch is image images[i].
    """
    rng = generator(seed, epoch, "permutation")
    if mirror == "both":
        samples = rng.permutation(2 * num_images)
        return samples % num_images, samples >= num_images
    images = rng.permutation(num_images)[np.arange(num_images) // repeats]
    if mirror == "none":
        return images, np.zeros(num_images, bool)
    if mirror == "alternating":
        first = generator(seed, 0, "mirror").integers(2, size=num_images, dtype=bool)
        return images, first[images] ^ bool(epoch % 2)
    return images, generator(seed, epoch, "mirror").integers(2, size=num_images, dtype=bool)


def epoch_draws(
    augmentation: Sequence[AugmentationStep],
    num_samples: int,
    image_size: int,
    seed: int,
    epoch: int,
    first_sizes: np.ndarray | None = None,
) -> list[Draws]:
    """Returns what each step of the augmentation draws for every sample of an epoch.

    Args:
        num_samples: M, the length of the epoch's order.
        image_size: pixels per side.
        epoch: from 0.
        first_sizes: integers [M, 2], height and width of the images that the first step crops;
            None if they have `image_size`.

    Returns:
        {name: array [M, ...]} for each step of the augmentation.
    """
    sizes: list[int | np.ndarray] = [image_size] * len(augmentation)
    if first_sizes is not None:
        sizes[0] = first_sizes
    return [
        step.draw(generator(seed, epoch, f"augment {index} {step.op}"), num_samples, size)
        for index, (step, size) in enumerate(zip(augmentation, sizes, strict=True))
    ]


def holdout_positions(num_images: int, num_held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns sorted positions, int64: of the images to train on, and of those held out."""
    order = generator(HOLDOUT_SEED, 0, "holdout").permutation(num_images)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
