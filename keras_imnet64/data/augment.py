"""Augmentation: `(images, draws) -> images` on whole uint8 batches, without randomness of its own.

Each operation is a draw function (a few numbers per image, from a NumPy generator) and an apply
function (TensorFlow, so that the same pixels come out eagerly and in tf.data), side by side, and a
row in the table at the end. Layers of Keras and KerasCV, which draw for themselves, are the
business of `layers`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_imnet64.errors import UserError, nearest

FILLS = ("zero", "reflect", "mean")


def mirror(images, mirrored):
    """Left-right mirror of the images that are marked.

    Args:
        images: uint8 [B, H, W, 3].
        mirrored: bool [B].
    """
    import tensorflow as tf

    return tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def draw_pad_crop(rng, num_samples, *, padding, fill):
    """Offsets 0..2*padding, both ends included, for each image and axis."""
    top, left = rng.integers(0, 2 * padding, (2, num_samples), dtype="int32", endpoint=True)
    return {"top": top, "left": left}


def pad_crop(images, draws, mean_image, *, padding, fill):
    """Pad on all sides and crop back to the size of the image at the drawn offsets.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"top": int32 [B], "left": int32 [B]}, offsets into the padded image.
        mean_image: uint8 [H, W, 3]; with fill "mean" a pixel from outside the image takes its value
            at the place where it comes to lie, which `normalization = "mean_image"` makes zero.
        padding: pixels on each side.
        fill: "zero", "reflect" (the edge pixel is not repeated) or "mean".
    """
    import tensorflow as tf

    height, width = images.shape[1:3]
    rows = draws["top"][:, None] - padding + np.arange(height, dtype="int32")  # [B, H]
    columns = draws["left"][:, None] - padding + np.arange(width, dtype="int32")  # [B, W]
    cropped = tf.gather(images, _inside(rows, height), axis=1, batch_dims=1)
    cropped = tf.gather(cropped, _inside(columns, width), axis=2, batch_dims=1)  # [B, H, W, 3]
    if fill == "reflect":
        return cropped
    rows_inside = (rows >= 0) & (rows < height)
    columns_inside = (columns >= 0) & (columns < width)
    inside = rows_inside[:, :, None, None] & columns_inside[:, None, :, None]
    outside = mean_image if fill == "mean" else np.zeros_like(mean_image)
    return tf.where(inside, cropped, outside)


def _inside(index, size):
    """Indices beyond either end reflected back: -1 -> 1, size -> size - 2."""
    import tensorflow as tf

    index = tf.abs(index)
    return size - 1 - tf.abs(size - 1 - index)


@dataclass(frozen=True)
class Op:
    """A row of the table: how an operation draws, how it applies, its options with defaults."""

    draw: Callable
    apply: Callable
    options: dict
    check: Callable = lambda image_size, **options: None


def _check_pad_crop(image_size, *, padding, fill):
    if not isinstance(padding, int) or isinstance(padding, bool) or padding < 0:
        raise UserError(f"augment.padding must be a whole number of pixels; received {padding!r}")
    if image_size and padding >= image_size:
        raise UserError(
            f"augment.padding must be below the image size of {image_size}; received {padding}"
        )
    if fill not in FILLS:
        raise UserError(f'augment.fill "{fill}" is not known; {nearest(fill, FILLS)}')


OPS = {
    "pad_crop": Op(draw_pad_crop, pad_crop, {"padding": 4, "fill": "zero"}, _check_pad_crop),
}


@dataclass(frozen=True)
class Step:
    """One operation of a recipe's augmentation, with its options."""

    op: str
    options: dict
    is_exact = True  # the same pixels from the same seed; `layers.LayerStep` is not

    def draw(self, rng, num_samples):
        return OPS[self.op].draw(rng, num_samples, **self.options)

    def apply(self, images, draws, mean_image):
        return OPS[self.op].apply(images, draws, mean_image, **self.options)


def check_augment(op, options, image_size=None):
    """The `Step` of a recipe's [[augment]] table, defaults filled in; UserError if it is wrong.

    What depends on the pictures' size is checked where it is given.
    """
    if op not in OPS:
        raise UserError(f'augment.op "{op}" is not known; {nearest(op, OPS)}')
    row = OPS[op]
    for option in options:
        if option not in row.options:
            raise UserError(
                f'augment.{option} is not an option of "{op}"; {nearest(option, row.options)}'
            )
    options = row.options | options
    row.check(image_size, **options)
    return Step(op, options)
