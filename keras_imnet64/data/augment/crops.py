"""Operations that choose which part of an image is shown: mirror, padded crop, resized crop."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.draws import Draws, TensorDraws
from keras_imnet64.data.images.filters import FILTERS, RANDOM, RANDOM_FILTERS

BOX = ("top", "left", "height", "width")
IS_BICUBIC = "is_bicubic"  # a draw, with the interpolation "random"
MAX_ATTEMPTS = 10  # to find a crop of the drawn shape that fits, as in torchvision


def mirror(images: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
    """Exchanges left and right of the images for which `mirrored` is true.

    Args:
        images: uint8 [B, H, W, 3].
        mirrored: bool [B].
    """
    height, width = images.shape[1:3]
    chosen = tf.cast(tf.where(mirrored)[:, 0], "int32")
    rows = tf.reshape(tf.gather(images, chosen), (-1, width, 3))  # fast to reverse
    reversed_rows = tf.reshape(tf.reverse(rows, [1]), (-1, height, width, 3))
    return scatter(images, [chosen], [reversed_rows])


def scatter(
    images: tf.Tensor, positions: Sequence[tf.Tensor], parts: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Replaces images at these positions of a batch.

    Args:
        images: uint8 [B, H, W, 3].
        positions: int32 [b] for each part.
        parts: uint8 [b, H, W, 3] each.
    """
    everywhere = tf.range(tf.shape(images)[0])
    stitched = tf.dynamic_stitch([everywhere, *positions], [images, *parts])  # later ones win
    return tf.ensure_shape(stitched, images.shape)


# -------------------------------------------------------------------------------------- pad_crop


def draw_pad_crop(
    rng: np.random.Generator, num_samples: int, image_size: int, *, padding: int, fill: str
) -> Draws:
    """Draws offsets 0..2*padding, both ends included: {"top", "left": int32 [M]}."""
    top, left = rng.integers(0, 2 * padding, (2, num_samples), dtype="int32", endpoint=True)
    return {"top": top, "left": left}


def pad_crop(
    images: tf.Tensor, draws: TensorDraws, mean_image: np.ndarray, *, padding: int, fill: str
) -> tf.Tensor:
    """Pads on all sides and crops to the size of the image at the drawn offsets.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"top": int32 [B], "left": int32 [B]}, offsets into the padded image.
        mean_image: uint8 [H, W, 3]; with fill "mean" a pixel from outside the image takes the value
            of the mean image at its position in the crop, so that `normalization = "mean_image"`
            makes it zero.
        padding: pixels on each side.
        fill: "zero", "reflect" (the edge pixel is not repeated) or "mean".
    """
    height, width = images.shape[1:3]
    top, left = draws["top"], draws["left"]
    rows = top[:, None] + np.arange(height, dtype="int32")  # [B, H], of the padded image
    x = tf.reshape(images, (-1, height, width * 3))  # whole rows are copied fastest
    if fill == "reflect":
        x = _with_reflected_columns(x, padding)
        rows = (height - 1) - tf.abs(height - 1 - tf.abs(rows - padding))  # of the image
    else:
        x = tf.pad(x, ((0, 0), (padding, padding), (3 * padding, 3 * padding)))
    x = tf.gather(x, rows, axis=1, batch_dims=1)  # [B, H, (W + 2 padding) * 3]
    positions, parts = [], []
    for offset in range(2 * padding + 1):  # one slice for all images with the same offset
        chosen = tf.cast(tf.where(left == offset)[:, 0], "int32")
        positions.append(chosen)
        parts.append(tf.gather(x, chosen)[:, :, 3 * offset : 3 * (offset + width)])
    cropped = tf.reshape(tf.dynamic_stitch(positions, parts), (-1, height, width, 3))
    cropped = tf.ensure_shape(cropped, images.shape)
    if fill == "mean":
        box = {"top": padding - top, "left": padding - left, "height": height, "width": width}
        cropped = where_in_box(cropped, box, cropped, mean_image)
    return cropped


def _with_reflected_columns(rows: tf.Tensor, padding: int) -> tf.Tensor:
    """[B, H, W * 3] -> [B, H, (W + 2 padding) * 3]; the edge pixel is not repeated."""
    width = rows.shape[2] // 3

    def column(number: int) -> tf.Tensor:
        return rows[:, :, 3 * number : 3 * (number + 1)]

    before = [column(number) for number in range(padding, 0, -1)]
    after = [column(width - 1 - number) for number in range(1, padding + 1)]
    return tf.concat([*before, rows, *after], axis=2)


def where_in_box(
    images: tf.Tensor,
    boxes: TensorDraws,
    inner: tf.Tensor | np.ndarray,
    outer: tf.Tensor | np.ndarray,
) -> tf.Tensor:
    """Returns the pixels of `inner` in the box of each image and those of `outer` elsewhere.

    Args:
        images: uint8 [B, H, W, 3]; only their size is used.
        boxes: {"top", "left", "height", "width": int32 [B] or a number}; a box may reach beyond the
            image.
        inner, outer: uint8 [B, H, W, 3] or [H, W, 3].
    """
    height, width = images.shape[1:3]

    def within(start: tf.Tensor, length: tf.Tensor, size: int) -> tf.Tensor:
        places = np.arange(size, dtype="int32")
        return (places >= start[:, None]) & (places < (start + length)[:, None])  # [B, size]

    rows = within(boxes["top"], boxes["height"], height)
    columns = tf.repeat(within(boxes["left"], boxes["width"], width), 3, axis=1)
    inside = rows[:, :, None] & columns[:, None, :]  # [B, H, W * 3], the fast shape for `where`
    inner, outer = (tf.reshape(x, (-1, height, width * 3)) for x in (inner, outer))
    return tf.reshape(tf.where(inside, inner, outer), (-1, height, width, 3))


# --------------------------------------------------------------------------- random_resized_crop


def draw_random_resized_crop(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int | np.ndarray,
    *,
    scale: Sequence[float],
    ratio: Sequence[float],
    interpolation: str,
) -> Draws:
    """Draws the box of each image that becomes the crop.

    Args:
        image_size: pixels per side of all images; or integers [M, 2], height and width of each.
        scale, ratio: see `draw_crops`.

    Returns:
        {"top", "left", "height", "width"}: int32 [M] each; and with the interpolation "random"
        {"is_bicubic": bool [M]}, whether the filter is bicubic, not bilinear.
    """
    draws = draw_crops(rng, np.broadcast_to(image_size, (num_samples, 2)), scale, ratio)
    if interpolation == RANDOM:
        draws[IS_BICUBIC] = rng.integers(2, size=num_samples, dtype=bool)
    return draws


def draw_crops(
    rng: np.random.Generator, sizes: np.ndarray, scale: Sequence[float], ratio: Sequence[float]
) -> Draws:
    """Draws a box within each image, of random area and aspect ratio.

    Where no drawn box fits, the largest centred box whose aspect ratio is within `ratio` is taken
    (torchvision's RandomResizedCrop).

    Args:
        sizes: integers [M, 2], height and width of each image.
        scale: [low, high] of the box's area, as a share of the image's.
        ratio: [low, high] of width / height.

    Returns:
        {"top", "left", "height", "width"}: int32 [M] each.
    """
    height, width = sizes.T
    inner_height = np.where(
        width < height * ratio[0], np.maximum(1, np.rint(width / ratio[0])), height
    )
    inner_width = np.where(
        width > height * ratio[1], np.maximum(1, np.rint(height * ratio[1])), width
    )
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    boxes = np.stack([top, left, inner_height, inner_width])
    return draw_boxes(rng, boxes, np.arange(len(sizes)), sizes, scale, ratio, _fits)


def _fits(box: np.ndarray, image: np.ndarray) -> np.ndarray:
    return (box > 0) & (box <= image)


def draw_boxes(
    rng: np.random.Generator,
    boxes: np.ndarray,
    chosen: np.ndarray,
    sizes: np.ndarray,
    scale: Sequence[float],
    ratio: Sequence[float],
    fits: Callable[[np.ndarray, np.ndarray], Any],  # Any: NumPy's functions have no precise type
) -> Draws:
    """Draws boxes with a uniform share of the area and a uniform logarithm of width / height.

    Boxes that do not fit are drawn again, at most MAX_ATTEMPTS times in all.

    Args:
        boxes: [4, M], top, left, height and width to keep where no box is drawn or none fits.
        chosen: positions of the images for which a box is drawn, integers.
        sizes: integers [M, 2], height and width of each image.
        scale, ratio: see `draw_crops`.
        fits: takes the heights, or the widths, of boxes and of their images; returns bool array.

    Returns:
        {"top", "left", "height", "width"}: int32 [M] each.
    """
    boxes = boxes.astype("int32")
    (low, high), (log_low, log_high) = scale, np.log(ratio)
    for _ in range(MAX_ATTEMPTS):
        image_height, image_width = sizes[chosen].T
        area = image_height * image_width * rng.uniform(low, high, len(chosen))
        shape = np.exp(rng.uniform(log_low, log_high, len(chosen)))
        height, width = np.rint(np.sqrt(area / shape)), np.rint(np.sqrt(area * shape))
        top = np.floor(rng.random(len(chosen)) * (image_height - height + 1))
        left = np.floor(rng.random(len(chosen)) * (image_width - width + 1))
        found = fits(height, image_height) & fits(width, image_width)
        boxes[:, chosen[found]] = np.stack([top, left, height, width])[:, found]
        chosen = chosen[~found]
    return dict(zip(BOX, boxes, strict=True))


def random_resized_crop(
    images: tf.Tensor,
    draws: TensorDraws,
    mean_image: np.ndarray,
    *,
    scale: Sequence[float],
    ratio: Sequence[float],
    interpolation: str,
) -> tf.Tensor:
    """Resizes the drawn box of each image to the size of the image, with antialiasing.

    Args:
        images: uint8 [B, H, W, 3].
        draws: see `draw_random_resized_crop`; the boxes lie within the image.
        interpolation: a key of `filters.FILTERS`, or "random".
    """
    return resized_crop(images, draws, images.shape[1:3], interpolation)


def resized_crop(
    images: tf.Tensor, boxes: TensorDraws, size: tuple[int, int], interpolation: str
) -> tf.Tensor:
    """Resizes the box of each image to `size` as Pillow does: uint8 [B, *size, 3].

    The width is resized first, as in Pillow where the result has no fewer rows than the box.
    Weights are float32 and not Pillow's integers, so that a pixel may differ by a grey level.
    """
    height, width = images.shape[1:3]

    def matrices(start: str, length: str, size_in: int, size_out: int) -> tf.Tensor:
        intervals = boxes[start], boxes[length], size_in, size_out
        if interpolation != RANDOM:
            return _resize_matrices(*intervals, interpolation)
        bilinear, bicubic = (_resize_matrices(*intervals, name) for name in RANDOM_FILTERS)
        return tf.where(boxes[IS_BICUBIC][:, None, None], bicubic, bilinear)

    rows = matrices("top", "height", height, size[0])
    columns = matrices("left", "width", width, size[1])
    x = tf.transpose(tf.cast(images, "float32"), (0, 2, 1, 3))
    x = tf.matmul(columns, tf.reshape(x, (-1, width, height * 3)))
    x = tf.transpose(tf.reshape(_rounded(x), (-1, size[1], height, 3)), (0, 2, 1, 3))
    x = tf.matmul(rows, tf.reshape(x, (-1, height, size[1] * 3)))
    return tf.cast(tf.reshape(_rounded(x), (-1, *size, 3)), "uint8")


def _rounded(x: tf.Tensor) -> tf.Tensor:
    return tf.floor(tf.clip_by_value(x, 0, 255) + 0.5)  # halves go up


def _resize_matrices(
    start: tf.Tensor, length: tf.Tensor, size_in: int, size_out: int, interpolation: str
) -> tf.Tensor:
    """Returns the matrices [B, size_out, size_in] that resize an interval of one axis.

    As in Pillow, the filter spans pixels of the image or of the result, whichever are larger, and
    nothing outside the interval has weight.
    """
    support, weight = FILTERS[interpolation]
    start, length = (tf.cast(x, "float32")[:, None, None] for x in (start, length))
    factor = length / size_out
    scale = tf.maximum(factor, 1.0)
    centres = start + (np.arange(size_out, dtype="float32")[:, None] + 0.5) * factor
    places = np.arange(size_in, dtype="float32") + 0.5  # [size_in]
    distance = (places - centres) / scale  # [B, size_out, size_in]
    inside = (places > start) & (places < start + length) & (tf.abs(distance) <= support)
    weights = tf.where(inside, weight(distance, tf), 0.0)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)
