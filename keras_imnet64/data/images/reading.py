"""Reads image files: opens them safely, turns them upright and converts them to RGB.

Needs neither Keras nor TensorFlow. `predict` calls `read_image`; stores call its parts.
`sources.finding` finds the files of a data set; `stores.decoding` decodes images in training.
"""

import contextlib
import errno
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.images.contents import HEAD_BYTES, describe_content
from keras_imnet64.data.images.damage import check_undamaged
from keras_imnet64.data.images.views import View, check_filter

MAX_PIXELS = 89_478_485  # Pillow's own limit, beyond which it warns: 256 MiB of RGB
# Pillow cannot decode the first four; the others are programs, run by Ghostscript or Windows.
REFUSED_FORMATS = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF"}
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # EXIF orientation -> the operation that turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TO_8_BITS = ((np.arange(1 << 16) + 128) // 257).astype("uint8")  # 65535 -> 255, rounded
BACKGROUND = "white"  # of transparent images


class Unreadable(UserError):
    """The system refuses to read a file, which may be undamaged."""


def read_image(path: StrPath, view: View) -> np.ndarray:
    """Reads an image file of any size, shape and format as pixels for a model.

    The image is turned upright by its EXIF orientation, transparent pixels become white, and only
    the first frame of an animation is read. Safe to call from threads.

    Returns:
        uint8 [S, S, 3], RGB; [10, S, S, 3] if the view has ten crops.

    Raises:
        UserError: the file is not an image, is damaged, has more than MAX_PIXELS or would have them
            when it is resized, or holds values of an unknown range.
    """
    check_filter(view.resize_filter)
    path = Path(path)
    if not path.is_file():  # reading a pipe would never end
        raise UserError(f"{path} is not a file; an image is needed")
    with report_image_errors(path), open(path, "rb") as file, open_image(file, path) as image:
        check_undamaged(path.read_bytes(), image.format)  # finds damage that Pillow overlooks
        upright = turn_upright(image)
        width, height = view.resized(upright.size)
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{path} is too narrow: its {upright.width} x {upright.height} pixels would become "
                f"{width:,} x {height:,} as the shorter side is resized, of which the model sees "
                "the centre; crop it first"
            )
        return view.show(to_rgb(upright, path))


# ---------------------------------------------------------------------------------------- formats


@cache
def readable_formats() -> tuple[str, ...]:
    """Returns Pillow's names of the image formats that are read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in REFUSED_FORMATS)


@cache
def readable_suffixes() -> frozenset[str]:
    """Returns the file name suffixes of `readable_formats`, in lower case, such as ".png"."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in readable_formats())


# ----------------------------------------------------------------------------------------- opening


@contextlib.contextmanager
def open_image(
    file: IO[bytes], path: StrPath, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    """Opens an image and checks its size; decodes no pixels yet.

    Args:
        path: names the file in messages.
        formats: Pillow's names of the formats to try; default all `readable_formats`.
    """
    try:
        image = Image.open(file, formats=formats or readable_formats())
    except UnidentifiedImageError:
        file.seek(0)
        if description := describe_content(file.read(HEAD_BYTES)):
            raise UserError(f"{path} is {description}") from None
        raise
    with image:
        _check_size(image.width * image.height, path)
        yield image


@contextlib.contextmanager
def report_unreadable(path: StrPath) -> Iterator[None]:
    """Raises an Unreadable if the system refuses to read a file.

    The caller handles missing files, and Pillow's errors about the content of a file, which have no
    error number.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.ENOENT):
            raise
        raise Unreadable(f"{path} cannot be read: {os_error_text(error, path)}") from error


@contextlib.contextmanager
def report_image_errors(path: StrPath) -> Iterator[None]:
    """Turns errors of Pillow and of the system into a UserError that names the file."""
    try:
        with report_unreadable(path):
            yield
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = re.search(r"\d+", str(error))  # Pillow's message states the size before the limit
        _check_size(int(count[0]) if count else 2 * MAX_PIXELS, path)
        raise UserError(f"{path} is refused by Pillow: {reason(error)}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image in a known format") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{path} is not a whole image: {reason(error)}") from error


def _check_size(num_pixels: int, path: StrPath) -> None:
    """Refuses huge images before decoding: a file of a few bytes can claim any size."""
    if num_pixels > MAX_PIXELS:
        raise UserError(
            f"{path} claims {num_pixels:,} pixels; images of at most {MAX_PIXELS:,} are read"
        )


# ------------------------------------------------------------------------------------- orientation


def exif_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of a loaded image: a key of UPRIGHT, or 1 for upright."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # the EXIF data are damaged, the pixels may not be
        return 1
    return orientation if orientation in UPRIGHT else 1


def turn_upright(image: Image.Image) -> Image.Image:
    """Loads an image and turns it upright by its EXIF orientation."""
    image.load()
    return apply_orientation(image, exif_orientation(image))


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Turns an image upright that is stored in this EXIF orientation."""
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


# ----------------------------------------------------------------------------------------- colours


def to_rgb(image: Image.Image, path: StrPath) -> Image.Image:
    """Converts an image to RGB: transparency becomes white, 16 bits are rounded to 8.

    Args:
        path: names the file in messages.
    """
    if image.mode.startswith("I"):
        return _from_16_bits(image, path)
    if image.mode == "F":
        raise UserError(
            f"{path} holds floating-point numbers, whose white is unknown; "
            "8 or 16 bits per channel are needed"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, BACKGROUND)
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def _from_16_bits(image: Image.Image, path: StrPath) -> Image.Image:
    """Scales grey values to 8 bits; Pillow's conversion would clip them at 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() >= len(TO_8_BITS):
        raise UserError(
            f"{path} holds 32-bit numbers from {values.min()} to {values.max()}; "
            "8 or 16 bits per channel are needed"
        )
    grey = TO_8_BITS[values]
    grey[values == image.info.get("transparency", -1)] = (
        255  # a PNG may make one grey value transparent
    )
    return Image.fromarray(grey).convert("RGB")
