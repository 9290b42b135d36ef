"""What moves pixels: affine maps of the image, the same for its three channels.

A map is told backwards, as six numbers (a, b, c, d, e, f): what is seen at (x, y) is taken from
(a x + b y + c, d x + e y + f). Pixels are squares, the first one from (0, 0) to (1, 1); the maps
and the choice of nearest and bilinear are torchvision's (transforms/v2/functional/_geometry.py,
0.28).
"""

import math

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.crops import inside_boxes
from keras_imnet64.data.images.compiled import compiled

HALF, ONE = np.float32(0.5), np.float32(1)


def draw_random_rotation(rng, num_samples, image_size, *, degrees, interpolation, fill):
    """Angles from -degrees to degrees, float32 [M]."""
    return {"angle": rng.uniform(-degrees, degrees, num_samples).astype("float32")}


def random_rotation(images, draws, mean_image, *, degrees, interpolation, fill):
    """Turn each image about its centre, counterclockwise, by the drawn angle in degrees.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"angle": float32 [B]}.
        interpolation: "nearest" or "bilinear".
        fill: 0..255, of all channels of a pixel from outside the image.
    """
    return warp(images, rotation(images, draws["angle"]), interpolation, fill)


def warp(images, maps, interpolation, fill):
    """uint8 [B, H, W, 3] under the maps, float32 [B, 6]; see the module.

    "bilinear" takes `fill` for the pixels beyond the border.
    """
    take = {"nearest": _nearest, "bilinear": _bilinear}[interpolation]
    fill = np.uint8(fill)

    def warped(images, maps):
        return _warped(images, maps, take, fill)

    return tf.ensure_shape(
        tf.numpy_function(warped, [images, maps], tf.uint8), (None, *images.shape[1:])
    )


@compiled
def _warped(images, maps, take, fill):
    """What `take` finds of image n at (x, y), where pixels are counted by their centres."""
    height, width = images.shape[1:3]
    warped = np.empty(images.shape, np.uint8)
    for n in range(len(images)):
        a, b, c, d, e, f = maps[n]
        c, f = c + HALF * (a + b) - HALF, f + HALF * (d + e) - HALF
        for row in range(height):
            for column in range(width):
                x = a * np.float32(column) + b * np.float32(row) + c
                y = d * np.float32(column) + e * np.float32(row) + f
                take(images, n, x, y, fill, warped, row, column)
    return warped


@compiled
def _at(images, n, i, j, k, fill):
    """A value, or `fill` beyond the border."""
    inside = 0 <= i < images.shape[1] and 0 <= j < images.shape[2]
    return images[n, i, j, k] if inside else fill


@compiled
def _nearest(images, n, x, y, fill, warped, row, column):
    """Halves are rounded away from zero."""
    i = int(np.floor(y + HALF) if y >= 0 else np.ceil(y - HALF))
    j = int(np.floor(x + HALF) if x >= 0 else np.ceil(x - HALF))
    for k in range(3):
        warped[n, row, column, k] = _at(images, n, i, j, k, fill)


@compiled
def _bilinear(images, n, x, y, fill, warped, row, column):
    """The four pixels about a place, by their nearness to it."""
    above, left = np.floor(y), np.floor(x)
    below, right = y - above, x - left  # the shares of the pixels there
    i, j = int(above), int(left)
    inside = 0 <= i < images.shape[1] - 1 and 0 <= j < images.shape[2] - 1
    for k in range(3):
        if inside:
            p, q = images[n, i, j, k], images[n, i, j + 1, k]
            r, s = images[n, i + 1, j, k], images[n, i + 1, j + 1, k]
        else:
            p, q = _at(images, n, i, j, k, fill), _at(images, n, i, j + 1, k, fill)
            r, s = _at(images, n, i + 1, j, k, fill), _at(images, n, i + 1, j + 1, k, fill)
        upper = (ONE - right) * np.float32(p) + right * np.float32(q)
        lower = (ONE - right) * np.float32(r) + right * np.float32(s)
        warped[n, row, column, k] = np.uint8(np.rint((ONE - below) * upper + below * lower))


def shift_x(images, distances, fill):
    """To the right by whole pixels; what `warp` makes of `translation_x`, faster."""
    return _shift(images, tf.zeros_like(distances), distances, fill)


def shift_y(images, distances, fill):
    """Downward by whole pixels."""
    return _shift(images, distances, tf.zeros_like(distances), fill)


def _shift(images, down, right, fill):
    height, width = images.shape[1:3]
    down, right = (tf.cast(x, "int32") for x in (down, right))
    rows = np.arange(height, dtype="int32") - down[:, None]  # [B, H], where each comes from
    columns = np.arange(width, dtype="int32") - right[:, None]
    moved = tf.gather(images, tf.clip_by_value(rows, 0, height - 1), axis=1, batch_dims=1)
    moved = tf.gather(moved, tf.clip_by_value(columns, 0, width - 1), axis=2, batch_dims=1)
    boxes = {"top": down, "left": right, "height": height, "width": width}
    return inside_boxes(images, boxes, moved, np.full(images.shape[1:], fill, "uint8"))


# ------------------------------------------------------------- maps of images [B, H, W, 3], [B, 6]


def rotation(images, degrees):
    """Counterclockwise about the centre."""
    height, width = images.shape[1:3]
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x, y = width / 2, height / 2
    return tf.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y], axis=-1)


def shear_x(images, factors):
    """Rows move by a factor times their distance from the upper border, to the left."""
    return _maps(factors, b=factors)


def shear_y(images, factors):
    """Columns move by a factor times their distance from the left border, upward."""
    return _maps(factors, d=factors)


def translation_x(images, distances):
    """To the right, by so many pixels."""
    return _maps(distances, c=-distances)


def translation_y(images, distances):
    """Downward, by so many pixels."""
    return _maps(distances, f=-distances)


def _maps(like, b=None, c=None, d=None, f=None):
    ones, zeros = tf.ones_like(like), tf.zeros_like(like)
    numbers = [ones, b, c, d, ones, f]
    return tf.stack([zeros if number is None else number for number in numbers], axis=-1)
