"""Encoded images into uint8 images of one size: TensorFlow decodes a window, which is resized.

The pixels are those of torchvision's transforms on Pillow's images. Of a JPEG only the rows and
columns within the window are computed.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_imnet64.data.augment.crops import BOX
from keras_imnet64.data.stores.encoded import SIDEWAYS, ImageFailed

MARGIN = 2  # pixels beyond a crop, for JPEG may have one colour for two of them
UNDECODABLE = re.compile("JPEG|PNG")  # what TensorFlow names where it cannot decode
JPEG_SIGNATURE = b"\xff\xd8\xff"  # by which TensorFlow's `is_jpeg` knows one
REGION = 9  # numbers that say what of an image is decoded
BACKWARD_ROWS, BACKWARD_COLUMNS = (3, 4, 6, 7), (2, 3, 7, 8)  # EXIF orientations, as decoded


def regions_of(store, positions, crops=None):
    """What `decode` takes of images of an encoded store: int32 [M, REGION], see `regions`.

    Args:
        crops: {"top", "left", "height", "width": integers [M]}, boxes in the images as they are
            seen; None takes all of them.
    """
    sizes = store.sizes(positions)
    if crops is None:
        height, width = sizes.T
        zeros = np.zeros_like(height)
        crops = dict(zip(BOX, (zeros, zeros, height, width), strict=True))
    return regions(crops, sizes, store.records["orientation"][positions])


def regions(boxes, sizes, orientations):
    """Boxes in images as they are seen -> what is decoded of each, and shown.

    Args:
        boxes: {"top", "left", "height", "width": integers [M]}.
        sizes: [M, 2], height and width of the images as they are seen.
        orientations: [M], of EXIF.

    Returns:
        int32 [M, REGION]: top, left, height and width of the window that is decoded, in the image
        as it is stored; those of the box within the window; the orientation.
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
    begin, end = np.maximum(starts - MARGIN, 0), np.minimum(starts + lengths + MARGIN, sizes)
    parts = [begin, end - begin, starts - begin, lengths, orientations[:, None]]
    return np.concatenate(parts, axis=-1).astype(np.int32)


def upright(pixels, orientation):
    """The pixels [h, w, 3] as they are to be seen: a view of them."""
    rows = -1 if orientation in BACKWARD_ROWS else 1
    columns = -1 if orientation in BACKWARD_COLUMNS else 1
    pixels = pixels[::rows, ::columns]
    return pixels.swapaxes(0, 1) if orientation >= SIDEWAYS else pixels


def crop_resizer(image_size, interpolation):
    """A function for `decode` that resizes the box to a square: [h, w, 3] -> uint8 [S, S, 3]."""
    from keras_imnet64.data.images.resizing import resize

    return lambda pixels, mirrored: resize(
        pixels, (image_size, image_size), interpolation, mirrored
    )


def viewer(view):
    """A function for `decode` that shows the box as a `views.View` has it."""

    def show(pixels, mirrored):
        shown = view.show(Image.fromarray(pixels))
        return shown[..., ::-1, :] if mirrored else shown

    return show


def decode(content, region, mirrored, show, shape):
    """One image, from its bytes to what is shown of it.

    Args:
        content: string [], a JPEG or a PNG.
        region: int32 [REGION], see `regions`.
        mirrored: bool [], whether what is shown is mirrored.
        show: makes uint8 `shape` of the box, uint8 [h, w, 3], turned upright, and of `mirrored`.
    """

    def finish(pixels, region, mirrored):
        *box, orientation = region[4:].tolist()
        return show(upright(_cut(pixels, box), orientation), bool(mirrored))

    window = region[:4]

    def png():
        top, left, height, width = tf.unstack(window)
        return tf.io.decode_png(content, channels=3)[top : top + height, left : left + width]

    pixels = tf.cond(tf.io.is_jpeg(content), lambda: _jpeg(content, window), png)
    return tf.ensure_shape(tf.numpy_function(finish, [pixels, region, mirrored], tf.uint8), shape)


def _jpeg(content, window):
    return tf.io.decode_and_crop_jpeg(content, window, 3, dct_method="INTEGER_ACCURATE")


def decoded(content, size, box=None):
    """A box of a JPEG or PNG as training decodes it, at once and without a graph.

    Args:
        content: bytes.
        size: (height, width) that the image should have, as it is stored.
        box: (top, left, height, width); None is all of the image.

    Returns:
        uint8 [height, width, 3] of the box; None where the image cannot be decoded or is of
        another size.
    """
    boxes = dict(zip(BOX, np.array([box or (0, 0, *size)]).T, strict=True))
    region = regions(boxes, np.array([size]), np.ones(1, int))[0]
    try:
        if content.startswith(JPEG_SIGNATURE):
            window = _jpeg(content, region[:4]).numpy()
        else:
            window = tf.io.decode_png(content, channels=3).numpy()
            if window.shape[:2] != tuple(size):
                return None
            window = _cut(window, region[:4])
    except tf.errors.InvalidArgumentError:
        return None
    return _cut(window, region[4:8])


def _cut(pixels, box):
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


@contextlib.contextmanager
def as_run_failed(store):
    """Raise an ImageFailed for an image that a running pipeline cannot read or decode."""
    try:
        yield
    except ImageFailed:  # of another store, whose images are read within
        raise
    except Exception as error:
        failure = getattr(store, "failure", None)
        if failure is None and store.image_size is None and UNDECODABLE.search(str(error)):
            failure = _undecodable(store)
        if failure is None:
            raise
        raise failure from error


def _undecodable(store):
    """The failure that names the image: one of those read last, for TensorFlow names none."""
    for position in reversed(store.recent.copy()):
        record = store.records[position]
        (content,) = store.read([position])
        if decoded(content, (record["height"], record["width"])) is None:
            fault = f"{store.file_of(position)} is damaged, or another than when it was indexed"
            return ImageFailed(fault, store, position)
    return None
