"""Images of one size are decoded to the pixels that `predict` reads from the same files."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_imnet64.data.images.exact import decode_exactly
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View

COLOURS = np.array([[[250, 0, 0], [0, 240, 0]], [[0, 0, 230], [9, 8, 7]]], "uint8")
CLEAR = np.dstack([COLOURS, np.array([[255, 0], [51, 0]], "uint8")])


def upside_down():
    exif = Image.Exif()
    exif[0x0112] = 3
    return {"exif": exif}


IMAGES = {
    "16 bits": (np.array([[0, 257 * 7], [257 * 128, 65535]], "uint16"), {}),
    "transparent": (CLEAR, {}),
    "one grey value is transparent": (COLOURS[..., 0], {"transparency": 250}),
    "turned": (COLOURS, upside_down()),
    "grey": (COLOURS[..., 0], {}),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_pixels_are_those_that_predict_reads(kind, tmp_path):
    pixels, options = IMAGES[kind]
    Image.fromarray(pixels).save(tmp_path / "a.png", **options)
    found = decode_exactly((tmp_path / "a.png").read_bytes(), 2)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, read_image(tmp_path / "a.png", View(2)))


def test_16_bits_and_transparency_by_hand():
    file = io.BytesIO()
    Image.fromarray(IMAGES["16 bits"][0]).save(file, "PNG")
    assert decode_exactly(file.getvalue(), 2)[..., 0].tolist() == [[0, 7], [128, 255]]
    file = io.BytesIO()
    Image.fromarray(CLEAR).save(file, "PNG")
    assert decode_exactly(file.getvalue(), 2)[0, 1].tolist() == [255, 255, 255]
