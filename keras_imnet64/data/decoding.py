"""Encoded pictures into uint8 pictures of one size: TensorFlow decodes a box, Pillow resizes it.

So the pixels are to the bit those of torchvision's transforms on Pillow's images, and those that
`predict` shows; and of a JPEG only the rows and columns within the box are computed.
"""

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_imnet64.data.augment.crops import BOX
from keras_imnet64.data.encoded import SIDEWAYS
from keras_imnet64.data.pictures import FILTERS, turned

MARGIN = 4  # pixels beyond a crop that its colours at the edge are interpolated with
BACKWARD_ROWS, BACKWARD_COLUMNS = (3, 4, 6, 7), (2, 3, 7, 8)  # EXIF orientations, as decoded


def boxes_as_stored(boxes, sizes, orientations):
    """Boxes in pictures as they are seen -> int32 [M, 4] in the pixels that are decoded.

    Args:
        boxes: {"top", "left", "height", "width": integers [M]}.
        sizes: [M, 2], height and width of the pictures as they are seen.
        orientations: [M], of EXIF.
    """
    starts = np.stack([boxes["top"], boxes["left"]], axis=-1).astype(np.int64)
    lengths = np.stack([boxes["height"], boxes["width"]], axis=-1).astype(np.int64)
    sideways = (orientations >= SIDEWAYS)[:, None]
    starts, lengths, sizes = (
        np.where(sideways, pair[:, ::-1], pair) for pair in (starts, lengths, sizes)
    )
    backward = np.stack(
        [np.isin(orientations, BACKWARD_ROWS), np.isin(orientations, BACKWARD_COLUMNS)], axis=-1
    )
    starts = np.where(backward, sizes - starts - lengths, starts)
    return np.concatenate([starts, lengths], axis=-1).astype(np.int32)


def whole_boxes(sizes):
    """The boxes of whole pictures of these sizes [M, 2], as they are seen."""
    height, width = sizes.T
    zeros = np.zeros_like(height)
    return dict(zip(BOX, (zeros, zeros, height, width), strict=True))


def crop_resizer(image_size, interpolation):
    """A function for `decode` that resizes the box to a square: PIL image -> uint8 [S, S, 3]."""

    def resize(picture):
        return np.array(picture.resize((image_size, image_size), FILTERS[interpolation]))

    return resize


def decode(content, box, orientation, show, shape):
    """One picture, from its bytes to what is shown of it.

    Args:
        content: string [], a JPEG or a PNG.
        box: int32 [4], top, left, height and width, as decoded.
        orientation: int32 [], of EXIF.
        show: makes uint8 `shape` of the box, a PIL image turned upright.
    """
    box = tf.convert_to_tensor(box)
    top, left, height, width = tf.unstack(box)

    def jpeg():
        size = tf.io.extract_jpeg_shape(content)[:2]
        begin = tf.maximum(box[:2] - MARGIN, 0)
        end = tf.minimum(box[:2] + box[2:] + MARGIN, size)
        wider = tf.concat([begin, end - begin], axis=0)
        pixels = tf.io.decode_and_crop_jpeg(content, wider, 3, dct_method="INTEGER_ACCURATE")
        y, x = tf.unstack(box[:2] - begin)
        return pixels[y : y + height, x : x + width]

    def png():
        pixels = tf.io.decode_png(content, channels=3)
        return pixels[top : top + height, left : left + width]

    def finish(pixels, orientation):
        return show(turned(Image.fromarray(pixels), int(orientation)))

    pixels = tf.cond(tf.io.is_jpeg(content), jpeg, png)
    return tf.ensure_shape(tf.numpy_function(finish, [pixels, orientation], tf.uint8), shape)
