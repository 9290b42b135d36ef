"""What changes the values of pixels and leaves them where they are.

The elementary operations take uint8 images [B, H, W, 3] and a number for each, float32 [B], and
give the numbers of torchvision's functional form (transforms/v2/functional/_color.py, 0.28) for
uint8 tensors, to the last bit: where its sum is rounded once, double precision rounds it once here.
"""

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.crops import replaced
from keras_imnet64.data.images.compiled import compiled

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue


# ---------------------------------------------------------------------------------- color_jitter


def draw_color_jitter(rng, num_samples, image_size, **strengths):
    """For each image the order of the four changes, int32 [M, 4], and a number for each of them.

    A strength s draws the factor from max(0, 1 - s)..1 + s; for the hue, a share of the circle,
    from -s..s.
    """
    draws = {"order": rng.permuted(np.tile(np.arange(4, dtype="int32"), (num_samples, 1)), axis=1)}
    for name in JITTERS:
        strength = strengths[name]
        low, high = (-strength, strength) if name == "hue" else (max(0, 1 - strength), 1 + strength)
        draws[name] = rng.uniform(low, high, num_samples).astype("float32")
    return draws


def color_jitter(images, draws, mean_image, **strengths):
    """Brightness, contrast, saturation and hue, in the order drawn for each image.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"order": int32 [B, 4], name: float32 [B] for each of JITTERS}.
        strengths: those of 0 change nothing.
    """
    values = tf.stack([draws[name] for name in JITTERS], axis=1)  # [B, 4]
    changes = {n: JITTERS[name] for n, name in enumerate(JITTERS) if strengths[name]}
    for place in range(len(JITTERS)):
        which = draws["order"][:, place]
        images = apply_each(images, which, tf.gather(values, which, batch_dims=1), changes)
    return images


def apply_each(images, which, values, operations):
    """Apply to each image the operation of its kind.

    Args:
        images: uint8 [B, H, W, 3].
        which: int32 [B].
        values: float32 [B].
        operations: {kind: function of (images, values)}; images of other kinds stay.
    """
    places, parts = [], []
    for kind, operation in operations.items():
        chosen = tf.cast(tf.where(which == kind)[:, 0], "int32")
        part = tf.ensure_shape(tf.gather(images, chosen), (None, *images.shape[1:]))
        places.append(chosen)
        parts.append(operation(part, tf.gather(values, chosen)))
    return replaced(images, places, parts)


# --------------------------------------------------------------------------------------- factors


def brightness(images, factors):
    """Times a factor; 1 changes nothing."""
    return _to_uint8(tf.cast(images, "float32") * _of_images(factors))


def saturation(images, factors):
    """Between the grey image, 0, and the image, 1, and beyond it."""
    return _blend(images, _grey(images), factors)


def contrast(images, factors):
    """Between the mean of the grey image, 0, and the image, 1, and beyond it."""
    return _blend(images, tf.reduce_mean(_grey(images), axis=(1, 2, 3), keepdims=True), factors)


def sharpness(images, factors):
    """Between the image blurred over 3x3 pixels, 0, and the image, 1; its border stays."""
    if min(images.shape[1:3]) <= 2:
        return images
    x = tf.cast(images, "int32")
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    inner = x[:, 1:-1, 1:-1]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner  # of weights 1 and 5
    blurred = (2 * total + 13) // 26  # rounded; a thirteenth is never half way
    share = 1.0 - tf.cast(_of_images(factors), "float64")
    share = tf.cast(tf.cast(share, "float32"), "float64")
    change = tf.cast(blurred - inner, "float64") * share
    sharp = _to_uint8(tf.cast(tf.cast(inner, "float64") + change, "float32"))
    sharp = tf.concat([images[:, 1:-1, :1], sharp, images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], sharp, images[:, -1:]], axis=1)


def _blend(images, others, factors):
    """factor * images + (1 - factor) * others, with one rounding of the sum."""
    factors = _of_images(factors)
    rest = tf.cast(1.0 - tf.cast(factors, "float64"), "float32")
    own = tf.cast(tf.cast(images, "float32") * factors, "float64")
    total = own + tf.cast(rest, "float64") * tf.cast(others, "float64")
    return _to_uint8(tf.cast(total, "float32"))


def _grey(images):
    """Whole numbers as float32 [B, H, W, 1]."""
    red, green, blue = (images[..., channel, None] for channel in range(3))
    total = tf.cast(red, "float32") * GREY_WEIGHTS[0]
    for channel, weight in ((green, GREY_WEIGHTS[1]), (blue, GREY_WEIGHTS[2])):
        weighted = tf.cast(channel, "float64") * float(np.float32(weight))
        total = tf.cast(tf.cast(total, "float64") + weighted, "float32")
    return tf.floor(total)


def _to_uint8(x):
    """Clipped and cut off, not rounded."""
    return tf.cast(tf.clip_by_value(x, 0.0, 255.0), "uint8")


def _of_images(values):
    return values[:, None, None, None]


# -------------------------------------------------------------------------------------------- hue


def hue(images, shifts):
    """Turn the hue by a share of the circle, -0.5..0.5."""
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


def _from_hsv(turn, saturation_, value):
    sector = tf.floor(turn * 6.0)
    part = turn * 6.0 - sector
    rest = 1.0 - saturation_
    partial = saturation_ * part
    p, q, t = (tf.clip_by_value(x * value, 0.0, 1.0) for x in (rest, 1.0 - partial, partial + rest))
    v = value
    sector = tf.cast(sector, "int32") % 6
    choices = ((v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q))
    channels = []
    for of_sectors in choices:
        channel = of_sectors[0]
        for number in range(1, 6):
            channel = tf.where(sector == number, of_sectors[number], channel)
        channels.append(channel)
    return tf.cast(tf.stack(channels, axis=-1) * 255.999, "uint8")


# ------------------------------------------------------------------------------- value by value


def posterize(images, bits):
    """Keep so many of the highest bits, 0..8."""
    masks = tf.bitwise.left_shift(255, 8 - tf.cast(bits, "int32")) & 255
    return images & tf.cast(_of_images(masks), "uint8")


def solarize(images, thresholds):
    """Invert the values that reach a threshold."""
    reached = tf.cast(images, "float32") >= _of_images(thresholds)
    return tf.bitwise.bitwise_xor(images, tf.cast(reached, "uint8") * 255)


def solarize_add(images, additions):
    """Add to the values below 128, up to 255."""
    is_dark = tf.cast(images < 128, "float32")
    x = tf.cast(images, "float32") + is_dark * tf.floor(_of_images(additions))
    return _to_uint8(x)


def invert(images, values):
    return 255 - images


def autocontrast(images, values):
    """Stretch each channel from its least and largest value to 0 and 255."""
    return _compiled(_autocontrasted, images)


def equalize(images, values):
    """Make the values of each channel about equally frequent, by Pillow's rule."""
    return _compiled(_equalized, images)


def _compiled(function, images):
    return tf.ensure_shape(tf.numpy_function(function, [images], tf.uint8), images.shape)


@compiled
def _autocontrasted(images):
    changed = np.empty(images.shape, np.uint8)
    for n in range(len(images)):
        for k in range(3):
            values = np.nonzero(_counts(images, n, k))[0]
            low, high = np.float32(values[0]), np.float32(values[-1])
            step = (high - low) * np.float32(1 / 255)
            table = np.arange(256).astype(np.uint8)
            for value in values if high > low else values[:0]:
                table[value] = np.uint8(min((np.float32(value) - low) / step, np.float32(255)))
            _look_up(images, n, k, table, changed)
    return changed


@compiled
def _equalized(images):
    changed = np.empty(images.shape, np.uint8)
    for n in range(len(images)):
        for k in range(3):
            counts = _counts(images, n, k)
            total, of_largest = counts.sum(), counts[np.nonzero(counts)[0][-1]]
            step = (total - of_largest) // 255
            table = np.arange(256)
            if step:
                before = np.cumsum(counts) - counts
                table = np.minimum((before + step // 2) // step, 255)
            _look_up(images, n, k, table.astype(np.uint8), changed)
    return changed


@compiled
def _counts(images, n, k):
    """How often each value occurs in a channel of an image: int64 [256]."""
    counts = np.zeros(256, np.int64)
    for row in range(images.shape[1]):
        for column in range(images.shape[2]):
            counts[images[n, row, column, k]] += 1
    return counts


@compiled
def _look_up(images, n, k, table, changed):
    for row in range(images.shape[1]):
        for column in range(images.shape[2]):
            changed[n, row, column, k] = table[images[n, row, column, k]]


JITTERS = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
