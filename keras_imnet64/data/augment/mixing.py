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
PARTNER_ROW = "partner_row"  # only in the draws of a part of a batch, see `draws_of_part`


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
    if PARTNER in draws or PARTNER_ROW in draws:
        return draws
    return {name: tf.broadcast_to(drawn[:1], tf.shape(drawn)) for name, drawn in draws.items()}


def partner_positions(draws: TensorDraws) -> tf.Tensor:
    """Returns the position in the batch of each image's partner, int32 [B].

    "partner" is uniform in 0..1, so all other images of the batch are equally likely. Without it
    the batch is mixed with its reverse, as in timm. In a part of a batch, the row is given.
    """
    if PARTNER_ROW in draws:
        return draws[PARTNER_ROW]
    size = tf.shape(next(iter(draws.values())))[0]
    if PARTNER not in draws:
        return tf.range(size)[::-1]
    drawn = draws[PARTNER]
    step = 1 + tf.cast(drawn * tf.cast(size - 1, drawn.dtype), "int32")
    return (tf.range(size) + step) % size


def draws_of_part(draws: Draws, rows: slice) -> tuple[np.ndarray, Draws]:
    """Returns the partners of some rows of batches, and draws with which these rows are mixed.

    A process that reads a part of each batch augments the b images of its rows and behind them
    their partners, mixes these 2b images with the draws, and keeps the first b.

    Args:
        draws: {name: [S, B]} of S batches.
        rows: b of the B rows.

    Returns:
        (positions of the partners in their batches, int64 [S, b]; {name: [S, 2b]}).
    """
    num_batches, size = next(iter(draws.values())).shape
    if PARTNER in draws:
        step = 1 + (draws[PARTNER] * (size - 1)).astype("int32")
        partners = (np.arange(size) + step) % size
    else:
        partners = np.broadcast_to(np.arange(size)[::-1], (num_batches, size))
        draws = {name: np.broadcast_to(d[:, :1], d.shape) for name, d in draws.items()}
    own = {name: d[:, rows] for name, d in draws.items() if name != PARTNER}
    of_part = {name: np.concatenate([d, d], axis=1) for name, d in own.items()}
    partners = partners[:, rows].astype("int64")
    behind = np.arange(2 * partners.shape[1], dtype="int32") % partners.shape[1] + partners.shape[1]
    of_part[PARTNER_ROW] = np.broadcast_to(behind, (num_batches, len(behind))).copy()
    return partners, of_part


def mixed_labels(labels: tf.Tensor, draws: TensorDraws) -> tf.Tensor:
    """Returns float32 [B, 3]: an image's label, its partner's, and the share of the first."""
    labels, draws = tf.cast(labels, "float32"), _shared(draws)
    return tf.stack([labels, tf.gather(labels, partner_positions(draws)), draws["share"]], axis=-1)


def _partner_images(images: tf.Tensor, draws: TensorDraws) -> tf.Tensor:
    return tf.gather(images, partner_positions(draws))
