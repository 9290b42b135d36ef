"""Picture files as a model takes them: found, decoded and made as small as ImageNet64 was made.

Needs neither Keras nor TensorFlow. `predict` gives the pixels to a model.
"""

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_imnet64.errors import UserError, nearest, reason

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
NOT_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF"}
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # its values, by what turns the picture upright
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


# -------------------------------------------------------------------------------------- find files


def find_pictures(paths):
    """The files that are named, and the pictures in the folders that are named.

    Folders are searched recursively, through links too, for the suffixes that Pillow opens; hidden
    files and folders are passed over.

    Args:
        paths: one path or several.

    Returns:
        list of Path: in the order of `paths`, each folder's in sorted order.

    Raises:
        UserError: a path does not exist, cannot be listed, or a folder holds no picture.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not paths:
        raise UserError("no pictures were named; name picture files or folders of them")
    return [file for path in paths for file in _pictures_at(Path(path))]


def _pictures_at(path):
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            found = sorted(_pictures_below(path))
        elif path.exists():
            raise UserError(f"{path} is neither a file nor a folder of pictures")
        else:
            raise UserError(f"{path} does not exist; a picture or a folder is needed")
    except OSError as error:
        raise UserError(f"{path} cannot be searched: {error.strerror}") from error
    if not found:
        raise UserError(
            f"the folder {path} holds no picture; files such as .png and .jpg are needed"
        )
    return found


def _pictures_below(folder):
    """Each real folder once, so that a link to a folder above does not lead round for ever."""

    def stop(error):
        raise error

    seen = set()
    for where, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            file = Path(where, name)
            if not name.startswith(".") and file.suffix.lower() in suffixes() and file.is_file():
                yield file


@cache
def formats():
    """Pillow's names of the kinds of picture that are read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in NOT_PICTURES)


@cache
def suffixes():
    """Suffixes of those, in lower case, such as ".png"."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in formats())


# ------------------------------------------------------------------------------------ read pictures


def read_picture(path, image_size, resize_filter="box"):
    """A picture as pixels for a model, whatever its size, shape and kind.

    The whole picture is resized without regard to its shape, as ImageNet64 was made
    (arXiv:1707.08819); one of `image_size` keeps its pixels. Of an animation it is the first frame,
    turned upright as EXIF says; what is transparent becomes white. Safe to call from threads.

    Args:
        image_size: S, pixels per side.
        resize_filter: a key of FILTERS.

    Returns:
        uint8 [S, S, 3], RGB.

    Raises:
        UserError: not a picture, damaged, larger than MAX_PIXELS, or of no known range of values.
    """
    check_filter(resize_filter)
    path = Path(path)
    try:
        if not path.is_file():  # a pipe would never end
            raise UserError(f"{path} is not a file; a picture is needed")
        with open(path, "rb") as file, Image.open(file, formats=formats()) as picture:
            _check_size(picture.width * picture.height, path)
            upright = _rgb(_turn_upright(picture), path)
            small = upright.resize((image_size, image_size), FILTERS[resize_filter])
        return np.array(small)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = re.search(r"\d+", str(error))  # Pillow says it before it says the limit
        _check_size(int(count[0]) if count else 2 * MAX_PIXELS, path)
        raise UserError(f"{path} is refused by Pillow: {reason(error)}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture of a kind that is known") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{path} is not a whole picture: {reason(error)}") from error


def check_filter(name):
    """Refuse, in a sentence, a filter that is none of FILTERS."""
    if str(name) not in FILTERS:
        raise UserError(f'there is no resize filter "{name}": {nearest(name, FILTERS)}')


def _check_size(num_pixels, path):
    """Before a pixel is decoded: a file of a few bytes can claim any size."""
    if num_pixels > MAX_PIXELS:
        raise UserError(
            f"{path} claims {num_pixels:,} pixels; pictures of at most {MAX_PIXELS:,} are read"
        )


def _turn_upright(picture):
    picture.load()
    try:
        turn = UPRIGHT.get(picture.getexif().get(ORIENTATION))
    except Exception:  # damaged EXIF data says nothing, the pixels are whole
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture, path):
    if picture.mode.startswith("I"):
        return _grey_of_16_bits(picture, path)
    if picture.mode == "F":
        raise UserError(
            f"{path} holds floating-point numbers, whose white is unknown; "
            "8 or 16 bits per channel are needed"
        )
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, ON_TRANSPARENCY)
    canvas.alpha_composite(picture)
    return canvas.convert("RGB")


def _grey_of_16_bits(picture, path):
    """Scaled to 8 bits, where Pillow's own conversion would clip at 255."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() >= len(EIGHT_BITS):
        raise UserError(
            f"{path} holds 32-bit numbers from {values.min()} to {values.max()}; "
            "8 or 16 bits per channel are needed"
        )
    grey = EIGHT_BITS[values]
    grey[values == picture.info.get("transparency", -1)] = 255  # PNG may name one such value
    return Image.fromarray(grey).convert("RGB")
