"""Which part of an image is shown: mirrored, padded and cropped, cropped and resized."""

import numpy as np
import tensorflow as tf

from keras_imnet64.data.images.filters import FILTERS

BOX = ("top", "left", "height", "width")
ATTEMPTS = 10  # to find a crop of the drawn shape that fits, as in torchvision


def mirror(images, mirrored):
    """Left-right mirror of the images that are marked.

    Args:
        images: uint8 [B, H, W, 3].
        mirrored: bool [B].
    """
    height, width = images.shape[1:3]
    chosen = tf.cast(tf.where(mirrored)[:, 0], "int32")
    rows = tf.reshape(tf.gather(images, chosen), (-1, width, 3))  # reversed fast in this shape
    reversed_rows = tf.reshape(tf.reverse(rows, [1]), (-1, height, width, 3))
    return replaced(images, [chosen], [reversed_rows])


def replaced(images, places, parts):
    """`images` [B, H, W, 3] with `parts` [b, H, W, 3] in the `places` int32 [b] of some of them."""
    everywhere = tf.range(tf.shape(images)[0])
    stitched = tf.dynamic_stitch([everywhere, *places], [images, *parts])  # the last one counts
    return tf.ensure_shape(stitched, images.shape)


# -------------------------------------------------------------------------------------- pad_crop


def draw_pad_crop(rng, num_samples, image_size, *, padding, fill):
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
    places, parts = [], []
    for offset in range(2 * padding + 1):  # a slice of many images costs no more than one of one
        chosen = tf.cast(tf.where(left == offset)[:, 0], "int32")
        places.append(chosen)
        parts.append(tf.gather(x, chosen)[:, :, 3 * offset : 3 * (offset + width)])
    cropped = tf.reshape(tf.dynamic_stitch(places, parts), (-1, height, width, 3))
    cropped = tf.ensure_shape(cropped, images.shape)
    if fill == "mean":
        box = {"top": padding - top, "left": padding - left, "height": height, "width": width}
        cropped = inside_boxes(cropped, box, cropped, mean_image)
    return cropped


def _with_reflected_columns(rows, padding):
    """[B, H, W * 3] -> [B, H, (W + 2 padding) * 3]; the edge pixel is not repeated."""
    width = rows.shape[2] // 3

    def column(number):
        return rows[:, :, 3 * number : 3 * (number + 1)]

    before = [column(number) for number in range(padding, 0, -1)]
    after = [column(width - 1 - number) for number in range(1, padding + 1)]
    return tf.concat([*before, rows, *after], axis=2)


def inside_boxes(images, boxes, inner, outer):
    """`inner` where a pixel lies in the box of its image, else `outer`.

    Args:
        images: uint8 [B, H, W, 3].
        boxes: {"top", "left", "height", "width": int32 [B] or a number}; they may reach beyond the
            image.
        inner, outer: uint8 [B, H, W, 3] or [H, W, 3].
    """
    height, width = images.shape[1:3]

    def within(start, length, size):
        places = np.arange(size, dtype="int32")
        return (places >= start[:, None]) & (places < (start + length)[:, None])  # [B, size]

    rows = within(boxes["top"], boxes["height"], height)
    columns = tf.repeat(within(boxes["left"], boxes["width"], width), 3, axis=1)
    inside = rows[:, :, None] & columns[:, None, :]  # [B, H, W * 3], which is chosen by fast
    inner, outer = (tf.reshape(x, (-1, height, width * 3)) for x in (inner, outer))
    return tf.reshape(tf.where(inside, inner, outer), (-1, height, width, 3))


# --------------------------------------------------------------------------- random_resized_crop


def draw_random_resized_crop(rng, num_samples, image_size, *, scale, ratio, interpolation):
    """The box that is shown of each image: {"top", "left", "height", "width": int32 [M]}.

    `image_size` is one of all images, or integers [M, 2]: height and width of each.
    """
    return draw_crops(rng, np.broadcast_to(image_size, (num_samples, 2)), scale, ratio)


def draw_crops(rng, sizes, scale, ratio):
    """A box within each image, of a drawn share and shape.

    Where no drawn box fits, the largest centred one is taken whose shape is within `ratio`
    (torchvision's RandomResizedCrop).

    Args:
        sizes: integers [M, 2], height and width of each image.
        scale, ratio: [low, high] of the share of the area and of width / height.

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


def _fits(box, image):
    return (box > 0) & (box <= image)


def draw_boxes(rng, boxes, chosen, sizes, scale, ratio, fits):
    """Boxes with a uniform share of the area and a uniform logarithm of width / height.

    What does not fit is drawn again, at most ATTEMPTS times in all.

    Args:
        boxes: [4, M], top, left, height and width where none is drawn, or none fits.
        chosen: positions of the images for which one is drawn.
        sizes: integers [M, 2], height and width of each image.
        fits: whether a side of a box does; takes those of the boxes and of the images.

    Returns:
        {"top", "left", "height", "width"}: int32 [M] each.
    """
    boxes = boxes.astype("int32")
    for _ in range(ATTEMPTS):
        picture_height, picture_width = sizes[chosen].T
        area = picture_height * picture_width * rng.uniform(*scale, len(chosen))
        shape = np.exp(rng.uniform(*np.log(ratio), len(chosen)))
        height, width = np.rint(np.sqrt(area / shape)), np.rint(np.sqrt(area * shape))
        top = np.floor(rng.random(len(chosen)) * (picture_height - height + 1))
        left = np.floor(rng.random(len(chosen)) * (picture_width - width + 1))
        found = fits(height, picture_height) & fits(width, picture_width)
        boxes[:, chosen[found]] = np.stack([top, left, height, width])[:, found]
        chosen = chosen[~found]
    return dict(zip(BOX, boxes, strict=True))


def random_resized_crop(images, draws, mean_image, *, scale, ratio, interpolation):
    """Resize the drawn box of each image to the size of the image, with antialiasing.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"top", "left", "height", "width": int32 [B]}, boxes within the image.
        interpolation: a key of `filters.FILTERS`.
    """
    return resized_crop(images, draws, images.shape[1:3], interpolation)


def resized_crop(images, boxes, size, interpolation):
    """The box of each image, resized to `size` as Pillow does: uint8 [B, *size, 3].

    Columns come first, as in Pillow where the result has no fewer rows than the box; weights are
    float32 and not Pillow's integers, so that a pixel may be a grey level off.
    """
    height, width = images.shape[1:3]
    rows = _resizing(boxes["top"], boxes["height"], height, size[0], interpolation)
    columns = _resizing(boxes["left"], boxes["width"], width, size[1], interpolation)
    x = tf.transpose(tf.cast(images, "float32"), (0, 2, 1, 3))
    x = tf.matmul(columns, tf.reshape(x, (-1, width, height * 3)))
    x = tf.transpose(tf.reshape(_rounded(x), (-1, size[1], height, 3)), (0, 2, 1, 3))
    x = tf.matmul(rows, tf.reshape(x, (-1, height, size[1] * 3)))
    return tf.cast(tf.reshape(_rounded(x), (-1, *size, 3)), "uint8")


def _rounded(x):
    return tf.floor(tf.clip_by_value(x, 0, 255) + 0.5)  # halves go up


def _resizing(start, length, size_in, size_out, interpolation):
    """The linear map [B, size_out, size_in] that resizes the drawn stretch of an axis.

    As Pillow: the filter is as wide as a pixel, of those that are smaller, and sees nothing beyond
    the stretch.
    """
    reach, weight = FILTERS[interpolation]
    start, length = (tf.cast(x, "float32")[:, None, None] for x in (start, length))
    factor = length / size_out
    wide = tf.maximum(factor, 1.0)
    centres = start + (np.arange(size_out, dtype="float32")[:, None] + 0.5) * factor
    places = np.arange(size_in, dtype="float32") + 0.5  # [size_in]
    distance = (places - centres) / wide  # [B, size_out, size_in]
    inside = (places > start) & (places < start + length) & (tf.abs(distance) <= reach)
    weights = tf.where(inside, weight(distance, tf), 0.0)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)
