"""Affine maps that move pixels: rotation, shear and translation.

A map is six numbers (a, b, c, d, e, f) from the result to the image: the pixel at (x, y) of the
result is sampled at (a x + b y + c, d x + e y + f). Pixels are squares, the first one from
(0, 0) to (1, 1). The maps and both interpolations are torchvision's
(transforms/v2/functional/_geometry.py, 0.28).
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.crops import where_in_box
from keras_imnet64.data.augment.draws import Draws, TensorDraws
from keras_imnet64.data.images.compiled import compiled

HALF, ONE = np.float32(0.5), np.float32(1)


def draw_random_rotation(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    degrees: float,
    interpolation: str,
    fill: int,
) -> Draws:
    """Draws angles from -degrees to degrees: {"angle": float32 [M]}."""
    return {"angle": rng.uniform(-degrees, degrees, num_samples).astype("float32")}


def random_rotation(
    images: tf.Tensor,
    draws: TensorDraws,
    mean_image: np.ndarray,
    *,
    degrees: float,
    interpolation: str,
    fill: int,
) -> tf.Tensor:
    """Turns each image about its centre, counterclockwise, by the drawn angle in degrees.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"angle": float32 [B]}.
        interpolation: "nearest" or "bilinear".
        fill: 0..255, all channels of pixels from outside the image.
    """
    return warp(images, rotation(images, draws["angle"]), interpolation, fill)


def warp(images: tf.Tensor, maps: tf.Tensor, interpolation: str, fill: int) -> tf.Tensor:
    """Moves the pixels of each image by its affine map; see the module docstring.

    Args:
        images: uint8 [B, H, W, 3].
        maps: float32 [B, 6].
        interpolation: "nearest", or "bilinear", which blends the border with `fill`.
        fill: 0..255, all channels of pixels from outside the image.
    """
    sample = {"nearest": _nearest, "bilinear": _bilinear}[interpolation]

    def warp_arrays(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
        return _warp(images, maps, sample, np.uint8(fill))

    warped = tf.numpy_function(warp_arrays, [images, maps], tf.uint8)
    return tf.ensure_shape(warped, (None, *images.shape[1:]))


@compiled
def _warp(
    images: np.ndarray, maps: np.ndarray, sample: Callable[..., None], fill: np.uint8
) -> np.ndarray:
    """Samples each image at the positions of its map, with (0, 0) at the first pixel's centre."""
    height, width = images.shape[1:3]
    warped = np.empty(images.shape, np.uint8)
    for n in range(len(images)):
        a, b, c, d, e, f = maps[n]
        c, f = c + HALF * (a + b) - HALF, f + HALF * (d + e) - HALF
        for row in range(height):
            for column in range(width):
                x = a * np.float32(column) + b * np.float32(row) + c
                y = d * np.float32(column) + e * np.float32(row) + f
                sample(images, n, x, y, fill, warped, row, column)
    return warped


@compiled
def _value(images: np.ndarray, n: int, i: int, j: int, k: int, fill: np.uint8) -> np.uint8:
    """Returns the value at row i, column j and channel k, or `fill` beyond the border."""
    inside = 0 <= i < images.shape[1] and 0 <= j < images.shape[2]
    return images[n, i, j, k] if inside else fill


@compiled
def _nearest(
    images: np.ndarray,
    n: int,
    x: np.float32,
    y: np.float32,
    fill: np.uint8,
    warped: np.ndarray,
    row: int,
    column: int,
) -> None:
    """Copies the nearest pixel to (x, y); halves are rounded away from zero."""
    i = int(np.floor(y + HALF) if y >= 0 else np.ceil(y - HALF))
    j = int(np.floor(x + HALF) if x >= 0 else np.ceil(x - HALF))
    for k in range(3):
        warped[n, row, column, k] = _value(images, n, i, j, k, fill)


@compiled
def _bilinear(
    images: np.ndarray,
    n: int,
    x: np.float32,
    y: np.float32,
    fill: np.uint8,
    warped: np.ndarray,
    row: int,
    column: int,
) -> None:
    """Interpolates between the four pixels around (x, y)."""
    above, left = np.floor(y), np.floor(x)
    below, right = y - above, x - left  # weights of the pixels there
    i, j = int(above), int(left)
    inside = 0 <= i < images.shape[1] - 1 and 0 <= j < images.shape[2] - 1
    for k in range(3):
        if inside:
            p, q = images[n, i, j, k], images[n, i, j + 1, k]
            r, s = images[n, i + 1, j, k], images[n, i + 1, j + 1, k]
        else:
            p, q = _value(images, n, i, j, k, fill), _value(images, n, i, j + 1, k, fill)
            r, s = _value(images, n, i + 1, j, k, fill), _value(images, n, i + 1, j + 1, k, fill)
        upper = (ONE - right) * np.float32(p) + right * np.float32(q)
        lower = (ONE - right) * np.float32(r) + right * np.float32(s)
        warped[n, row, column, k] = np.uint8(np.rint((ONE - below) * upper + below * lower))


def shift_x(images: tf.Tensor, distances: tf.Tensor, fill: int) -> tf.Tensor:
    """Shifts to the right by whole pixels; equals `warp` with `translation_x`, but is faster."""
    return _shift(images, tf.zeros_like(distances), distances, fill)


def shift_y(images: tf.Tensor, distances: tf.Tensor, fill: int) -> tf.Tensor:
    """Shifts downward by whole pixels."""
    return _shift(images, distances, tf.zeros_like(distances), fill)


def _shift(images: tf.Tensor, down: tf.Tensor, right: tf.Tensor, fill: int) -> tf.Tensor:
    height, width = images.shape[1:3]
    down, right = (tf.cast(x, "int32") for x in (down, right))
    rows = np.arange(height, dtype="int32") - down[:, None]  # [B, H], the source of each row
    columns = np.arange(width, dtype="int32") - right[:, None]
    moved = tf.gather(images, tf.clip_by_value(rows, 0, height - 1), axis=1, batch_dims=1)
    moved = tf.gather(moved, tf.clip_by_value(columns, 0, width - 1), axis=2, batch_dims=1)
    boxes = {"top": down, "left": right, "height": height, "width": width}
    return where_in_box(images, boxes, moved, np.full(images.shape[1:], fill, "uint8"))


# ------------------------------------------------------- maps, float32 [B, 6] of numbers [B]


def rotation(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns counterclockwise about the centre."""
    height, width = images.shape[1:3]
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x, y = width / 2, height / 2
    return tf.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y], axis=-1)


def shear_x(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Moves rows to the left by a factor times their distance from the upper border."""
    return _maps(factors, b=factors)


def shear_y(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Moves columns upward by a factor times their distance from the left border."""
    return _maps(factors, d=factors)


def translation_x(images: tf.Tensor, distances: tf.Tensor) -> tf.Tensor:
    """Moves to the right by a distance in pixels."""
    return _maps(distances, c=-distances)


def translation_y(images: tf.Tensor, distances: tf.Tensor) -> tf.Tensor:
    """Moves downward by a distance in pixels."""
    return _maps(distances, f=-distances)


def _maps(
    like: tf.Tensor,
    b: tf.Tensor | None = None,
    c: tf.Tensor | None = None,
    d: tf.Tensor | None = None,
    f: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the identity with the given numbers replaced; see the module docstring."""
    ones, zeros = tf.ones_like(like), tf.zeros_like(like)
    numbers = [ones, b, c, d, ones, f]
    return tf.stack([zeros if number is None else number for number in numbers], axis=-1)
