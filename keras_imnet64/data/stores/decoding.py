"""Decodes images of encoded stores: TensorFlow decodes a window, which is resized to one size.

The pixels are those of torchvision's transforms on Pillow's images. Of a JPEG only the rows and
columns within the window are computed.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_imnet64.core.types import Tensor
from keras_imnet64.data.augment.crops import BOX
from keras_imnet64.data.images.filters import RANDOM, RANDOM_FILTERS
from keras_imnet64.data.images.views import View
from keras_imnet64.data.stores.encoded import FIRST_TRANSPOSED, EncodedStore, ImageFailed
from keras_imnet64.data.stores.opening import Store

MARGIN = 2  # pixels beyond a crop, since neighbouring pixels of a JPEG may share a colour
UNDECODABLE = re.compile("JPEG|PNG")  # in the error messages of TensorFlow's decoders
JPEG_SIGNATURE = b"\xff\xd8\xff"  # as in TensorFlow's `is_jpeg`
REGION = 9  # numbers for each image, see `regions`
BACKWARD_ROWS, BACKWARD_COLUMNS = (3, 4, 6, 7), (2, 3, 7, 8)  # EXIF orientations

Boxes: TypeAlias = Mapping[str, np.ndarray]  # "top", "left", "height", "width": integers [M]
Show: TypeAlias = Callable[..., np.ndarray]  # (pixels, is_mirrored, *drawn) -> shown pixels


def regions_of(
    store: EncodedStore, positions: np.ndarray, crops: Boxes | None = None
) -> np.ndarray:
    """Returns the regions of images of an encoded store, int32 [M, REGION]; see `regions`.

    Args:
        crops: boxes in the images as they are shown; None takes the whole images.
    """
    sizes = store.sizes(positions)
    if crops is None:
        height, width = sizes.T
        zeros = np.zeros_like(height)
        crops = dict(zip(BOX, (zeros, zeros, height, width), strict=True))
    return regions(crops, sizes, store.records["orientation"][positions])


def regions(boxes: Boxes, sizes: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Returns the window of each image that `decode` decodes, and the box of it that is shown.

    Args:
        boxes: boxes in the images as they are shown.
        sizes: [M, 2], height and width of the images as they are shown.
        orientations: [M], of EXIF.

    Returns:
        int32 [M, REGION]: top, left, height and width of the window that is decoded, in the image
        as it is stored; those of the box within the window; the orientation.
    """
    starts = np.stack([boxes["top"], boxes["left"]], axis=-1).astype(np.int64)
    lengths = np.stack([boxes["height"], boxes["width"]], axis=-1).astype(np.int64)
    is_transposed = (orientations >= FIRST_TRANSPOSED)[:, None]
    starts, lengths, sizes = (
        np.where(is_transposed, pair[:, ::-1], pair) for pair in (starts, lengths, sizes)
    )
    is_backward = np.stack(
        [np.isin(orientations, BACKWARD_ROWS), np.isin(orientations, BACKWARD_COLUMNS)], axis=-1
    )
    starts = np.where(is_backward, sizes - starts - lengths, starts)
    begin, end = np.maximum(starts - MARGIN, 0), np.minimum(starts + lengths + MARGIN, sizes)
    parts = [begin, end - begin, starts - begin, lengths, orientations[:, None]]
    return np.concatenate(parts, axis=-1).astype(np.int32)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns stored pixels [h, w, 3] turned upright, as a view."""
    rows = -1 if orientation in BACKWARD_ROWS else 1
    columns = -1 if orientation in BACKWARD_COLUMNS else 1
    pixels = pixels[::rows, ::columns]
    return pixels.swapaxes(0, 1) if orientation >= FIRST_TRANSPOSED else pixels


def crop_resizer(image_size: int, interpolation: str) -> Show:
    """Returns a function for `decode` that resizes a box to a square, uint8 [S, S, 3].

    Args:
        interpolation: an option of `random_resized_crop`; with "random" the function takes the draw
            "is_bicubic" too.
    """
    from keras_imnet64.data.images.resizing import resize

    def show(pixels: np.ndarray, is_mirrored: bool, is_bicubic: bool = False) -> np.ndarray:
        name = interpolation if interpolation != RANDOM else RANDOM_FILTERS[int(is_bicubic)]
        return resize(pixels, (image_size, image_size), name, is_mirrored)

    return show


def viewer(view: View) -> Show:
    """Returns a function for `decode` that shows a box as the view does."""

    def show(pixels: np.ndarray, is_mirrored: bool) -> np.ndarray:
        shown = view.show(Image.fromarray(pixels))
        return shown[..., ::-1, :] if is_mirrored else shown

    return show


def decode(
    content: Tensor,
    region: Tensor,
    mirrored: Tensor | bool,
    show: Show,
    shape: tuple[int, ...],
    *drawn: Tensor,
) -> Tensor:
    """Decodes one image in a pipeline, and shows a box of it.

    Args:
        content: string [], a JPEG or a PNG.
        region: int32 [REGION], see `regions`.
        mirrored: bool [], whether to mirror what is shown.
        show: takes the upright box, uint8 [h, w, 3], `mirrored` and `drawn`; returns uint8 `shape`.
        drawn: numbers of this image that `show` needs.
    """

    def finish(
        pixels: np.ndarray, region: np.ndarray, mirrored: np.ndarray, *drawn: np.ndarray
    ) -> np.ndarray:
        *box, orientation = region[4:].tolist()
        return show(upright(_cut(pixels, box), orientation), bool(mirrored), *drawn)

    window = region[:4]

    def decode_png() -> Tensor:
        return _cut(tf.io.decode_png(content, channels=3), tf.unstack(window))

    pixels = tf.cond(tf.io.is_jpeg(content), lambda: _decode_jpeg(content, window), decode_png)
    shown = tf.numpy_function(finish, [pixels, region, mirrored, *drawn], tf.uint8)
    return tf.ensure_shape(shown, shape)


def decode_eagerly(
    content: bytes, size: tuple[int, int], box: tuple[int, int, int, int] | None = None
) -> np.ndarray | None:
    """Decodes a box of a JPEG or PNG as training does, but without a graph.

    Args:
        size: (height, width) of the stored image.
        box: (top, left, height, width); None takes the whole image.

    Returns:
        uint8 [height, width, 3] of the box, or None if the image cannot be decoded or has another
        size.
    """
    boxes = dict(zip(BOX, np.array([box or (0, 0, *size)]).T, strict=True))
    region = regions(boxes, np.array([size]), np.ones(1, int))[0]
    try:
        if content.startswith(JPEG_SIGNATURE):
            window = _decode_jpeg(content, region[:4]).numpy()
        else:
            window = tf.io.decode_png(content, channels=3).numpy()
            if window.shape[:2] != tuple(size):
                return None
            window = _cut(window, region[:4])
    except tf.errors.InvalidArgumentError:
        return None
    return _cut(window, region[4:8])


def _decode_jpeg(content: Tensor, window: Tensor) -> Tensor:
    return tf.io.decode_and_crop_jpeg(content, window, 3, dct_method="INTEGER_ACCURATE")


def _cut(pixels: Tensor, box: Tensor) -> Tensor:
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


@contextlib.contextmanager
def as_run_failed(store: Store) -> Iterator[None]:
    """Raises an ImageFailed if a pipeline in the block cannot read or decode an image."""
    try:
        yield
    except Exception as error:
        if not isinstance(store, EncodedStore):
            raise
        failure = None if isinstance(error, ImageFailed) else _failure_of(store, error)
        store.failure = None  # it is reported, and must not be taken for the next failure
        if failure is None:  # no image is the cause, or the error names it already
            raise
        raise failure from error


def _failure_of(store: EncodedStore, error: Exception) -> ImageFailed | None:
    """Returns the failure that names the image, or None if no image is the cause.

    TensorFlow does not name the image that it cannot decode, so the last images are decoded again.
    """
    if store.failure is not None or not UNDECODABLE.search(str(error)):
        return store.failure
    for position in reversed(store.recent.copy()):
        record = store.records[position]
        (content,) = store.read(np.array([position]))
        if decode_eagerly(content, (record["height"], record["width"])) is None:
            return store.changed(position)
    return None
