"""MixUp and CutMix: each image takes in a part of another one of its batch, and of its label.

Each image has a partner of its own, drawn as a place in the batch, and a share of its own that
remains: labels become a pair of labels and the share of the first, see `mixed_labels`.
"""

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.crops import inside_boxes, replaced


def draw_mixup(rng, num_samples, image_size, *, alpha, probability):
    """Partners, and shares of Beta(alpha, alpha) (arXiv:1710.09412)."""
    mixes = rng.random(num_samples) < probability
    return _draw_partner(rng, num_samples) | {
        "share": np.where(mixes, rng.beta(alpha, alpha, num_samples), 1).astype("float32")
    }


def mixup(images, draws, mean_image, **_):
    """share * image + (1 - share) * partner, rounded.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"partner": float64 [B] in 0..1, see `partners`; "share": float32 [B]}.
    """
    own, other = (tf.cast(x, "float32") for x in (images, _partner_images(images, draws)))
    return tf.cast(tf.round(other + draws["share"][:, None, None, None] * (own - other)), "uint8")


def draw_cutmix(rng, num_samples, image_size, *, alpha, probability):
    """Partners, and boxes about evenly drawn points (arXiv:1905.04899), cut off at the border.

    A box has the share 1 - Beta(alpha, alpha) of the image before it is cut off; "share" is what
    of the image is left at the end.
    """
    mixes = rng.random(num_samples) < probability
    side = np.sqrt(1 - rng.beta(alpha, alpha, num_samples))
    half = np.where(mixes, np.trunc(0.5 * side * image_size), 0)
    ends = []
    for centre in rng.integers(image_size, size=(2, num_samples)):
        ends += [np.maximum(centre - half, 0), np.minimum(centre + half, image_size)]
    top, bottom, left, right = ends
    boxes = {"top": top, "left": left, "height": bottom - top, "width": right - left}
    share = 1 - boxes["height"] * boxes["width"] / image_size**2
    return (
        _draw_partner(rng, num_samples)
        | {name: array.astype("int32") for name, array in boxes.items()}
        | {"share": share.astype("float32")}
    )


def cutmix(images, draws, mean_image, **_):
    """The drawn box is the partner's.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"partner": float64 [B] in 0..1, see `partners`; "top", "left", "height", "width":
            int32 [B]; "share": float32 [B]}.
    """
    return inside_boxes(images, draws, _partner_images(images, draws), images)


def draw_mixup_or_cutmix(
    rng, num_samples, image_size, *, mixup_alpha, cutmix_alpha, probability, cutmix_share
):
    """For each image one of the two, CutMix with probability `cutmix_share`."""
    cuts = rng.random(num_samples) < cutmix_share
    blended = draw_mixup(rng, num_samples, image_size, alpha=mixup_alpha, probability=probability)
    cut = draw_cutmix(rng, num_samples, image_size, alpha=cutmix_alpha, probability=probability)
    return cut | {"cuts": cuts, "share": np.where(cuts, cut["share"], blended["share"])}


def mixup_or_cutmix(images, draws, mean_image, **_):
    """MixUp, or CutMix where "cuts" is true; other draws as there."""
    cuts = tf.cast(tf.where(draws["cuts"])[:, 0], "int32")
    cut = tf.gather(cutmix(images, draws, mean_image), cuts)
    return replaced(mixup(images, draws, mean_image), [cuts], [cut])


# ----------------------------------------------------------------------------------------- partners


def _draw_partner(rng, num_samples):
    return {"partner": rng.random(num_samples)}


def partners(draws):
    """Places in the batch, int32 [B]: of all others with even odds."""
    drawn = draws["partner"]
    size = tf.shape(drawn)[0]
    step = 1 + tf.cast(drawn * tf.cast(size - 1, drawn.dtype), "int32")
    return (tf.range(size) + step) % size


def mixed_labels(labels, draws):
    """float32 [B, 3]: an image's label, its partner's, and the share of the first."""
    labels = tf.cast(labels, "float32")
    return tf.stack([labels, tf.gather(labels, partners(draws)), draws["share"]], axis=-1)


def _partner_images(images, draws):
    return tf.gather(images, partners(draws))
