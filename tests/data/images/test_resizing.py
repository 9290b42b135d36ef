"""Resized images equal Pillow's to the bit, for any size and strides."""

import numpy as np
import pytest
from class_folders import resized
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_imnet64.data.images.filters import FILTERS
from keras_imnet64.data.images.resizing import FRACTION_BITS, height_comes_first, resize, weights

SIDES = st.integers(1, 70)


@pytest.mark.parametrize("name", FILTERS)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(0, 2**32 - 1), st.booleans())
@example((17, 70), (17, 33), 0, True)  # the height stays
@example((1, 1), (70, 70), 0, False)
@example((64, 64), (224, 224), 0, True)
@example((70, 30), (9, 30), 0, True)  # the width stays
@example((70, 30), (9, 20), 0, True)  # height first
@settings(max_examples=100, deadline=None)
def test_every_size_equals_pillow_to_the_bit(name, size_in, size_out, seed, black_or_white):
    """Black beside white makes bicubic and lanczos leave 0..255, where Pillow clips.

    Which values are clipped depends on whether the width or the height is resized first.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_in, 3), "uint8")
    pixels = np.where(pixels > 127, 255, 0).astype("uint8") if black_or_white else pixels
    expected = resized(Image.fromarray(pixels), size_out, name)
    np.testing.assert_array_equal(resize(pixels, size_out, name), np.asarray(expected))


@pytest.mark.parametrize(
    ("size_in", "size_out", "expected"),
    [
        ((40, 60), (20, 30), False),
        ((40, 30), (20, 20), False),  # 20 rows fewer are no more than twice 10 columns
        ((40, 30), (19, 20), True),
        ((40, 30), (39, 60), True),
        ((40, 30), (40, 60), False),
        ((40, 30), (60, 60), False),
    ],
)
def test_height_comes_first_where_it_shrinks_by_more(size_in, size_out, expected):
    assert height_comes_first(size_in, size_out) is expected


def test_crops_and_transposed_views_equal_their_copies():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), "uint8")
    part = pixels[3:37, 5:41].swapaxes(0, 1)[::-1]
    found = resize(part, (16, 24), "bilinear")
    np.testing.assert_array_equal(found, resize(part.copy(), (16, 24), "bilinear"))


def test_weights_by_hand():
    """4 pixels from 2: centres 0.25, 0.75, 1.25, 1.75; a triangle over pixels at 0.5 and 1.5."""
    first, count, weight = weights(2, 4, "bilinear")
    assert [*first] == [0, 0, 0, 1] and [*count] == [1, 2, 2, 1]
    np.testing.assert_array_equal(
        weight / 2**FRACTION_BITS, [[1, 0], [0.75, 0.25], [0.25, 0.75], [1, 0]]
    )


def test_smaller_images_are_antialiased():
    """2 pixels from 4: triangles of half-width 2 with their centres at 1 and 3."""
    _, _, weight = weights(4, 2, "bilinear")
    np.testing.assert_allclose(weight[0, :3] / 2**FRACTION_BITS, np.array([3, 3, 1]) / 7, atol=1e-6)
