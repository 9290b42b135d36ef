"""Operations that change the values of pixels but not their places.

The elementary operations take uint8 images [B, H, W, 3] and one number for each image, float32 [B].
For uint8 tensors they agree to the last bit with torchvision's functional form
(transforms/v2/functional/_color.py, 0.28): double precision makes a sum that torchvision rounds
once be rounded once here too.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.crops import scatter
from keras_imnet64.data.augment.draws import Draws, TensorDraws
from keras_imnet64.data.images.compiled import compiled

Operation: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (images, values) -> images
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue


# ---------------------------------------------------------------------------------- color_jitter


def draw_color_jitter(
    rng: np.random.Generator, num_samples: int, image_size: int, **strengths: float
) -> Draws:
    """Draws the order of the four changes, int32 [M, 4], and a number for each, float32 [M].

    With strength s a factor is drawn from max(0, 1 - s)..1 + s, and the shift of the hue, as a
    share of the circle, from -s..s.
    """
    draws = {"order": rng.permuted(np.tile(np.arange(4, dtype="int32"), (num_samples, 1)), axis=1)}
    for name in JITTERS:
        strength = strengths[name]
        low, high = (-strength, strength) if name == "hue" else (max(0, 1 - strength), 1 + strength)
        draws[name] = rng.uniform(low, high, num_samples).astype("float32")
    return draws


def color_jitter(
    images: tf.Tensor, draws: TensorDraws, mean_image: np.ndarray, **strengths: float
) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue in the order drawn for each image.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"order": int32 [B, 4], name: float32 [B] for each of JITTERS}.
        strengths: by name; changes of strength 0 are left out.
    """
    values = tf.stack([draws[name] for name in JITTERS], axis=1)  # [B, 4]
    changes = {kind: JITTERS[name] for kind, name in enumerate(JITTERS) if strengths[name]}
    for turn in range(len(JITTERS)):
        kinds = draws["order"][:, turn]
        images = apply_by_kind(images, kinds, tf.gather(values, kinds, batch_dims=1), changes)
    return images


def apply_by_kind(
    images: tf.Tensor, kinds: tf.Tensor, values: tf.Tensor, operations: Mapping[int, Operation]
) -> tf.Tensor:
    """Applies to each image the operation of its kind.

    Args:
        images: uint8 [B, H, W, 3].
        kinds: int32 [B], keys of `operations`; images of other kinds stay unchanged.
        values: float32 [B].
    """
    positions, parts = [], []
    for kind, operation in operations.items():
        chosen = tf.cast(tf.where(kinds == kind)[:, 0], "int32")
        part = tf.ensure_shape(tf.gather(images, chosen), (None, *images.shape[1:]))
        positions.append(chosen)
        parts.append(operation(part, tf.gather(values, chosen)))
    return scatter(images, positions, parts)


# --------------------------------------------------------------------------------------- factors


def brightness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies by a factor; 1 changes nothing."""
    return _to_uint8(tf.cast(images, "float32") * _per_image(factors))


def saturation(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blends the grey image (factor 0) with the image (1); larger factors extrapolate."""
    return _blend(images, _grey(images), factors)


def contrast(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blends the mean of the grey image (factor 0) with the image (1)."""
    return _blend(images, tf.reduce_mean(_grey(images), axis=(1, 2, 3), keepdims=True), factors)


def sharpness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blends the image blurred over 3x3 pixels (factor 0) with the image (1), except the border."""
    if min(images.shape[1:3]) <= 2:
        return images
    x = tf.cast(images, "int32")
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    inner = x[:, 1:-1, 1:-1]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner  # of weights 1 and 5
    blurred = (2 * total + 13) // 26  # rounded; a thirteenth is never half way
    share = 1.0 - tf.cast(_per_image(factors), "float64")
    share = tf.cast(tf.cast(share, "float32"), "float64")
    change = tf.cast(blurred - inner, "float64") * share
    sharp = _to_uint8(tf.cast(tf.cast(inner, "float64") + change, "float32"))
    sharp = tf.concat([images[:, 1:-1, :1], sharp, images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], sharp, images[:, -1:]], axis=1)


def _blend(images: tf.Tensor, others: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Returns factor * images + (1 - factor) * others; the sum is rounded once."""
    factors = _per_image(factors)
    rest = tf.cast(1.0 - tf.cast(factors, "float64"), "float32")
    own = tf.cast(tf.cast(images, "float32") * factors, "float64")
    total = own + tf.cast(rest, "float64") * tf.cast(others, "float64")
    return _to_uint8(tf.cast(total, "float32"))


def _grey(images: tf.Tensor) -> tf.Tensor:
    """Returns whole numbers, float32 [B, H, W, 1]."""
    red, green, blue = (images[..., channel, None] for channel in range(3))
    total = tf.cast(red, "float32") * GREY_WEIGHTS[0]
    for channel, weight in ((green, GREY_WEIGHTS[1]), (blue, GREY_WEIGHTS[2])):
        weighted = tf.cast(channel, "float64") * float(np.float32(weight))
        total = tf.cast(tf.cast(total, "float64") + weighted, "float32")
    return tf.floor(total)


def _to_uint8(x: tf.Tensor) -> tf.Tensor:
    """Clips to 0..255 and truncates; does not round."""
    return tf.cast(tf.clip_by_value(x, 0.0, 255.0), "uint8")


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, None, None, None]  # [B, 1, 1, 1]


# -------------------------------------------------------------------------------------------- hue


def hue(images: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Turns the hue by a share of the circle, -0.5..0.5."""
    red, green, blue = tf.unstack(tf.cast(images, "float32") / 255.0, axis=-1)
    high = tf.maximum(tf.maximum(red, green), blue)
    low = tf.minimum(tf.minimum(red, green), blue)
    is_grey = high == low
    spread = high - low
    saturation_ = spread / tf.where(is_grey, 1.0, high)
    divisor = tf.where(is_grey, 1.0, spread)
    from_red, from_green, from_blue = ((high - x) / divisor for x in (red, green, blue))
    turn = tf.where(
        high == red,
        from_blue - from_green,
        tf.where(high == green, 2.0 + from_red - from_blue, 4.0 + from_green - from_red),
    )
    turn = tf.math.floormod(turn * (1.0 / 6.0) + 1.0, 1.0)
    turn = tf.math.floormod(turn + shifts[:, None, None], 1.0)
    return _from_hsv(turn, saturation_, high)


def _from_hsv(turn: tf.Tensor, saturation_: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """float32 [B, H, W] each, of 0..1 -> uint8 [B, H, W, 3]."""
    sector = tf.floor(turn * 6.0)
    part = turn * 6.0 - sector
    rest = 1.0 - saturation_
    partial = saturation_ * part
    p, q, t = (tf.clip_by_value(x * value, 0.0, 1.0) for x in (rest, 1.0 - partial, partial + rest))
    v = value
    sector = tf.cast(sector, "int32") % 6
    by_sector = ((v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q))  # red, green, blue
    channels = []
    for values in by_sector:
        channel = values[0]
        for number in range(1, 6):
            channel = tf.where(sector == number, values[number], channel)
        channels.append(channel)
    return tf.cast(tf.stack(channels, axis=-1) * 255.999, "uint8")


# --------------------------------------------------------------------------- functions of a value


def posterize(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keeps the highest `bits` bits of each value, 0..8."""
    masks = tf.bitwise.left_shift(255, 8 - tf.cast(bits, "int32")) & 255
    return images & tf.cast(_per_image(masks), "uint8")


def solarize(images: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """Inverts values at or above the threshold."""
    reached = tf.cast(images, "float32") >= _per_image(thresholds)
    return tf.bitwise.bitwise_xor(images, tf.cast(reached, "uint8") * 255)


def solarize_add(images: tf.Tensor, additions: tf.Tensor) -> tf.Tensor:
    """Adds to the values below 128; sums are clipped at 255."""
    is_dark = tf.cast(images < 128, "float32")
    x = tf.cast(images, "float32") + is_dark * tf.floor(_per_image(additions))
    return _to_uint8(x)


def invert(images: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    return 255 - images


def autocontrast(images: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Stretches each channel so that its lowest and highest values become 0 and 255."""
    return _call_compiled(_stretch, images)


def equalize(images: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Makes the values of each channel about equally frequent, by Pillow's rule."""
    return _call_compiled(_equalize, images)


def _call_compiled(function: Callable[[np.ndarray], np.ndarray], images: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.numpy_function(function, [images], tf.uint8), images.shape)


@compiled
def _stretch(images: np.ndarray) -> np.ndarray:
    changed = np.empty(images.shape, np.uint8)
    for n in range(len(images)):
        for k in range(3):
            values = np.nonzero(_histogram(images, n, k))[0]
            low, high = np.float32(values[0]), np.float32(values[-1])
            step = (high - low) * np.float32(1 / 255)
            table = np.arange(256).astype(np.uint8)
            for value in values if high > low else values[:0]:
                table[value] = np.uint8(min((np.float32(value) - low) / step, np.float32(255)))
            _look_up(images, n, k, table, changed)
    return changed


@compiled
def _equalize(images: np.ndarray) -> np.ndarray:
    changed = np.empty(images.shape, np.uint8)
    for n in range(len(images)):
        for k in range(3):
            counts = _histogram(images, n, k)
            total, of_largest = counts.sum(), counts[np.nonzero(counts)[0][-1]]
            step = (total - of_largest) // 255
            table = np.arange(256)
            if step:
                before = np.cumsum(counts) - counts
                table = np.minimum((before + step // 2) // step, 255)
            _look_up(images, n, k, table.astype(np.uint8), changed)
    return changed


@compiled
def _histogram(images: np.ndarray, n: int, k: int) -> np.ndarray:
    """Counts how often each value occurs in channel k of image n: int64 [256]."""
    counts = np.zeros(256, np.int64)
    for row in range(images.shape[1]):
        for column in range(images.shape[2]):
            counts[images[n, row, column, k]] += 1
    return counts


@compiled
def _look_up(images: np.ndarray, n: int, k: int, table: np.ndarray, changed: np.ndarray) -> None:
    """Replaces each value of channel k of image n by its entry in the table, uint8 [256]."""
    for row in range(images.shape[1]):
        for column in range(images.shape[2]):
            changed[n, row, column, k] = table[images[n, row, column, k]]


JITTERS = {  # in the order in which "order" numbers them
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
