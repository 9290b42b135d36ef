"""The data order as a function: which images form a step, and what is drawn for each of them.

Everything depends on the recipe, its seed, the epoch and the position in it alone: not on timing,
workers, backend, device or process count, nor on what was read before. All randomness of the data
comes from here.
"""

import hashlib

import numpy as np

HOLDOUT_SEED = 0  # the same images are kept aside whatever the seed of a run, so that runs compare


def generator(seed, epoch, stream):
    """Counter-based NumPy generator keyed by seed, epoch and the stream's name."""
    name = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, name])))


def epoch_order(num_images, mirror, seed, epoch):
    """A full permutation of the epoch's samples.

    Args:
        num_images: N.
        mirror: "none", "random" (each image once, mirrored or not with even odds), "alternating"
            (each image once, mirrored in every other epoch) or "both" (each image and its mirror
            once: 2N samples).

    Returns:
        (images int64 [M], mirrored bool [M]): sample i of the epoch is image images[i].
    """
    rng = generator(seed, epoch, "permutation")
    if mirror == "both":
        samples = rng.permutation(2 * num_images)
        return samples % num_images, samples >= num_images
    images = rng.permutation(num_images)
    if mirror == "none":
        return images, np.zeros(num_images, bool)
    if mirror == "alternating":
        first = generator(seed, 0, "mirror").integers(2, size=num_images, dtype=bool)
        return images, first[images] ^ bool(epoch % 2)
    return images, generator(seed, epoch, "mirror").integers(2, size=num_images, dtype=bool)


def epoch_draws(augmentation, num_samples, image_size, seed, epoch, first_sizes=None):
    """What every augmentation draws for every sample of an epoch.

    Args:
        augmentation: list of `augment.Step`.
        num_samples: M, the length of the epoch's order.
        image_size: pixels per side.
        first_sizes: integers [M, 2], height and width of the images that the first step crops.

    Returns:
        list of {name: array [M, ...]}, one for each step of the augmentation.
    """
    sizes = [image_size] * len(augmentation)
    if first_sizes is not None:
        sizes[0] = first_sizes
    return [
        step.draw(generator(seed, epoch, f"augment {index} {step.op}"), num_samples, size)
        for index, (step, size) in enumerate(zip(augmentation, sizes, strict=True))
    ]


def holdout_positions(num_images, num_held_out):
    """Sorted positions (int64) of (the images to train on, the images kept aside)."""
    order = generator(HOLDOUT_SEED, 0, "holdout").permutation(num_images)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
