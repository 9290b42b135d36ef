"""MixUp and CutMix: they mix each image with a partner from its batch, and the labels alike.

The draws are a partner for each image, which `partner_positions` turns into a position in the
batch, and the share of the image that remains (lambda in the papers). Labels become a pair of
labels and the share of the first, see `mixed_labels`.

With `per = "batch"` there are draws for each sample too, since they are drawn for a whole epoch,
but without partners: a batch takes those of its first image, see `_shared`.
"""

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.crops import scatter, where_in_box
from keras_imnet64.data.augment.draws import Draws, TensorDraws

PARTNER = "partner"  # missing in draws that a batch shares


def draw_mixup(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    alpha: float,
    probability: float,
    per: str,
) -> Draws:
    """Draws partners, and shares from Beta(alpha, alpha) (arXiv:1710.09412)."""
    mixes = rng.random(num_samples) < probability
    return _draw_partner(rng, num_samples, per) | {
        "share": np.where(mixes, rng.beta(alpha, alpha, num_samples), 1).astype("float32")
    }


def mixup(
    images: tf.Tensor, draws: TensorDraws, mean_image: np.ndarray, **_: float | str
) -> tf.Tensor:
    """Returns share * image + (1 - share) * partner, rounded.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"partner": float64 [B] in 0..1, see `partner_positions`; "share": float32 [B]}.
    """
    draws = _shared(draws)
    own, other = (tf.cast(x, "float32") for x in (images, _partner_images(images, draws)))
    return tf.cast(tf.round(other + draws["share"][:, None, None, None] * (own - other)), "uint8")


def draw_cutmix(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    alpha: float,
    probability: float,
    per: str,
) -> Draws:
    """Draws partners, and boxes around uniformly drawn points (arXiv:1905.04899).

    A box covers the share 1 - Beta(alpha, alpha) of the image before it is clipped at the border;
    "share" is the share of the image outside the clipped box.
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
        _draw_partner(rng, num_samples, per)
        | {name: array.astype("int32") for name, array in boxes.items()}
        | {"share": share.astype("float32")}
    )


def cutmix(
    images: tf.Tensor, draws: TensorDraws, mean_image: np.ndarray, **_: float | str
) -> tf.Tensor:
    """Replaces the drawn box with that of the partner.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"partner": float64 [B] in 0..1, see `partner_positions`; "top", "left", "height",
            "width": int32 [B]; "share": float32 [B]}.
    """
    draws = _shared(draws)
    return where_in_box(images, draws, _partner_images(images, draws), images)


def draw_mixup_or_cutmix(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float,
    cutmix_share: float,
    per: str,
) -> Draws:
    """Draws MixUp or CutMix for each image; "cuts" marks CutMix, of probability `cutmix_share`."""
    cuts = rng.random(num_samples) < cutmix_share
    blended = draw_mixup(
        rng, num_samples, image_size, alpha=mixup_alpha, probability=probability, per=per
    )
    cut = draw_cutmix(
        rng, num_samples, image_size, alpha=cutmix_alpha, probability=probability, per=per
    )
    return cut | {"cuts": cuts, "share": np.where(cuts, cut["share"], blended["share"])}


def mixup_or_cutmix(
    images: tf.Tensor, draws: TensorDraws, mean_image: np.ndarray, **_: float | str
) -> tf.Tensor:
    """Applies CutMix where "cuts", bool [B], is true, else MixUp; see both for the other draws."""
    draws = _shared(draws)
    cuts = tf.cast(tf.where(draws["cuts"])[:, 0], "int32")
    cut = tf.gather(cutmix(images, draws, mean_image), cuts)
    return scatter(mixup(images, draws, mean_image), [cuts], [cut])


# ----------------------------------------------------------------------------------------- partners


def _draw_partner(rng: np.random.Generator, num_samples: int, per: str) -> Draws:
    return {PARTNER: rng.random(num_samples)} if per == "image" else {}


def _shared(draws: TensorDraws) -> TensorDraws:
    """Returns the draws of each image of a batch: without partners those of the first image."""
    if PARTNER in draws:
        return draws
    return {name: tf.broadcast_to(drawn[:1], tf.shape(drawn)) for name, drawn in draws.items()}


def partner_positions(draws: TensorDraws) -> tf.Tensor:
    """Returns the position in the batch of each image's partner, int32 [B].

    "partner" is uniform in 0..1, so all other images of the batch are equally likely. Without it
    the batch is mixed with its reverse, as in timm.
    """
    size = tf.shape(next(iter(draws.values())))[0]
    if PARTNER not in draws:
        return tf.range(size)[::-1]
    drawn = draws[PARTNER]
    step = 1 + tf.cast(drawn * tf.cast(size - 1, drawn.dtype), "int32")
    return (tf.range(size) + step) % size


def mixed_labels(labels: tf.Tensor, draws: TensorDraws) -> tf.Tensor:
    """Returns float32 [B, 3]: an image's label, its partner's, and the share of the first."""
    labels, draws = tf.cast(labels, "float32"), _shared(draws)
    return tf.stack([labels, tf.gather(labels, partner_positions(draws)), draws["share"]], axis=-1)


def _partner_images(images: tf.Tensor, draws: TensorDraws) -> tf.Tensor:
    return tf.gather(images, partner_positions(draws))
