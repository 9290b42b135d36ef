"""Image files as a model takes them: decoded, and shown at its size.

Needs neither Keras nor TensorFlow. Files are read here for `predict`; `finding` finds them, which
images make a data set is told in `sources`, and how they are read in training in `stream`.
"""

import contextlib
import errno
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_imnet64.core.errors import UserError, nearest, reason
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.data.images.contents import HEAD_BYTES, kind_of

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
MAX_PIXELS = 89_478_485  # Pillow's own limit, beyond which it warns: 256 MiB of RGB
# Pillow knows the first four by name only; the others are programs, run by Ghostscript or Windows.
NOT_IMAGES = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF"}
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # its values, by what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EIGHT_BITS = ((np.arange(1 << 16) + 128) // 257).astype("uint8")  # 65535 -> 255, rounded
ON_TRANSPARENCY = "white"


# ------------------------------------------------------------------------------------ kinds of file


@cache
def formats():
    """Pillow's names of the kinds of image that are read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in NOT_IMAGES)


@cache
def suffixes():
    """Suffixes of those, in lower case, such as ".png"."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in formats())


# ------------------------------------------------------------------------------------ read images


@dataclass(frozen=True)
class View:
    """How an image of any size is shown to a model that is not being trained.

    Attributes:
        image_size: S, pixels per side that the model takes.
        resize_filter: a key of FILTERS.
        resize: pixels that the shorter side is given before the centre S x S is cut out, as in
            torchvision; None resizes the whole image to S x S without regard to its shape, as
            ImageNet64 was made (arXiv:1707.08819).
        ten_crop: show the corners and the centre, and the mirror image of each, to a model whose
            ten answers are averaged.
    """

    image_size: int
    resize_filter: str = "box"
    resize: int | None = None
    ten_crop: bool = False

    @classmethod
    def of(cls, info, image_size):
        """That of a model file, by what it says about itself, see `models.ship.model_info`."""
        known = {key: info[key] for key in ("resize_filter", "resize", "ten_crop") if key in info}
        return cls(image_size, **known)

    @property
    def one_crop(self):
        """The same view with one crop of each image."""
        return replace(self, ten_crop=False)

    def show(self, image):
        """uint8 [S, S, 3] of a PIL RGB image; [10, S, S, 3] with `ten_crop`."""
        if self.resize is None and not self.ten_crop:
            return np.array(image.resize((self.image_size,) * 2, FILTERS[self.resize_filter]))
        pixels = np.asarray(self._resized(image))
        crops = [self._crop(pixels, down, right) for down, right in self._places()]
        if not self.ten_crop:
            return crops[0].copy()
        return np.stack([*crops, *(crop[:, ::-1] for crop in crops)])

    def _places(self):
        """Where crops lie, as shares of the room: the centre, then the corners."""
        corners = [(0, 0), (0, 1), (1, 0), (1, 1)] if self.ten_crop else []
        return [(0.5, 0.5), *corners]

    def _resized(self, image):
        shorter = self.resize or default_resize(self.image_size)
        scale = shorter / min(image.size)
        size = tuple(max(shorter, int(side * scale)) for side in image.size)
        return image.resize(size, FILTERS[self.resize_filter])

    def _crop(self, pixels, down, right):
        side = self.image_size
        top, left = (
            round(share * (room - side))
            for share, room in zip((down, right), pixels.shape[:2], strict=True)
        )
        return pixels[top : top + side, left : left + side]


def default_resize(image_size):
    """The shorter side before the crop unless a recipe says otherwise: 256 for 224."""
    return round(image_size * 256 / 224)


def read_image(path, view):
    """An image as pixels for a model, whatever its size, shape and kind.

    Of an animation it is the first frame, turned upright as EXIF says; what is transparent becomes
    white. Safe to call from threads.

    Args:
        view: a `View`.

    Returns:
        uint8 [S, S, 3], RGB; [10, S, S, 3] where the view has ten crops.

    Raises:
        UserError: not an image, damaged, larger than MAX_PIXELS, or of no known range of values.
    """
    check_filter(view.resize_filter)
    path = Path(path)
    if not path.is_file():  # a pipe would never end
        raise UserError(f"{path} is not a file; an image is needed")
    with as_sentences(path), open(path, "rb") as file, opened(file, path) as image:
        return view.show(rgb(turn_upright(image), path))


@contextlib.contextmanager
def opened(file, path, kinds=None):
    """The PIL image of an open file, whose size has been judged; nothing is decoded yet.

    Args:
        kinds: the `formats` that are tried, by default all of them.
    """
    try:
        image = Image.open(file, formats=kinds or formats())
    except UnidentifiedImageError:
        file.seek(0)
        if kind := kind_of(file.read(HEAD_BYTES)):
            raise UserError(f"{path} is {kind}") from None
        raise
    with image:
        _check_size(image.width * image.height, path)
        yield image


class Unreadable(UserError):
    """The system does not let us read a file, of which nothing is known to be damaged."""


@contextlib.contextmanager
def readable(path):
    """Raise an Unreadable with a sentence where the system refuses to let a file be read.

    A missing file is left to the caller, and so are Pillow's own errors about a file's content,
    which have no error number.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.ENOENT):
            raise
        raise Unreadable(f"{path} cannot be read: {os_error_text(error, path)}") from error


@contextlib.contextmanager
def as_sentences(path):
    """Let what Pillow and the system raise of an image be a UserError that names it."""
    try:
        with readable(path):
            yield
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = re.search(r"\d+", str(error))  # Pillow says it before it says the limit
        _check_size(int(count[0]) if count else 2 * MAX_PIXELS, path)
        raise UserError(f"{path} is refused by Pillow: {reason(error)}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image of a kind that is known") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{path} is not a whole image: {reason(error)}") from error


def check_filter(name):
    """Refuse, in a sentence, a filter that is none of FILTERS."""
    if str(name) not in FILTERS:
        raise UserError(f'there is no resize filter "{name}": {nearest(name, FILTERS)}')


def _check_size(num_pixels, path):
    """Before a pixel is decoded: a file of a few bytes can claim any size."""
    if num_pixels > MAX_PIXELS:
        raise UserError(
            f"{path} claims {num_pixels:,} pixels; images of at most {MAX_PIXELS:,} are read"
        )


def orientation_of(image):
    """The EXIF orientation of a loaded PIL image: a key of UPRIGHT, or 1 where it is upright."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data says nothing, the pixels are whole
        return 1
    return orientation if orientation in UPRIGHT else 1


def turn_upright(image):
    """The PIL image as EXIF says that it is to be seen."""
    image.load()
    return turned(image, orientation_of(image))


def turned(image, orientation):
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def rgb(image, path):
    """The PIL image in RGB: transparency on white, 16 bits rounded to 8."""
    if image.mode.startswith("I"):
        return _grey_of_16_bits(image, path)
    if image.mode == "F":
        raise UserError(
            f"{path} holds floating-point numbers, whose white is unknown; "
            "8 or 16 bits per channel are needed"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, ON_TRANSPARENCY)
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def _grey_of_16_bits(image, path):
    """Scaled to 8 bits, where Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() >= len(EIGHT_BITS):
        raise UserError(
            f"{path} holds 32-bit numbers from {values.min()} to {values.max()}; "
            "8 or 16 bits per channel are needed"
        )
    grey = EIGHT_BITS[values]
    grey[values == image.info.get("transparency", -1)] = 255  # PNG may name one such value
    return Image.fromarray(grey).convert("RGB")
