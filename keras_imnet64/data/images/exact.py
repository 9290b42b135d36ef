"""Decodes images that must have a certain size, for data sets whose images all have one."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.data.images.contents import HEAD_BYTES, describe_content
from keras_imnet64.data.images.damage import check_undamaged
from keras_imnet64.data.images.reading import to_rgb, turn_upright

FORMATS = ("JPEG", "PNG")  # for some others Pillow starts programs, such as Ghostscript


def decode_exactly(content: bytes, size: int) -> np.ndarray:
    """Returns the content of an image file as uint8 [size, size, 3], the pixels of `read_image`.

    Raises:
        ValueError: states what is wrong with the image, as a clause.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            found = image.size
            if found == (size, size):  # before any pixels are decoded
                check_undamaged(content, image.format)  # finds damage that Pillow overlooks
                return np.asarray(to_rgb(turn_upright(image), ""))
    except UnidentifiedImageError:
        raise ValueError(f"is {describe_content(content[:HEAD_BYTES]) or 'not an image'}") from None
    except UserError as error:  # of `to_rgb`
        raise ValueError(str(error).strip()) from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError(f"is not a whole image ({reason(error)})") from None
    raise ValueError(f"is {found[0]} x {found[1]} pixels, not {size} x {size}")
