"""Shrunken batches: means of areas worked by hand, rounded once, the same under every backend."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from keras_imnet64.data.augment.shrink import shrink, shrink_arrays, shrink_mean

pytestmark = pytest.mark.backend


def image(*rows):
    """uint8 [1, S, S, 3]: red as given, green 255 less that, blue 7."""
    red = np.array(rows)
    return np.stack([red, 255 - red, np.full_like(red, 7)], axis=-1).astype("uint8")[None]


def test_half_the_size_takes_means_of_two_by_two():
    """Sums 10, 1, 2 and 1020 over four pixels: 2.5, 0.25, 0.5 and 255; halves go upward."""
    pixels = image([1, 2, 0, 1], [3, 4, 0, 0], [1, 1, 255, 255], [0, 0, 255, 255])
    small = shrink_arrays(pixels, 2)
    assert small.shape == (1, 2, 2, 3)
    assert small[0, ..., 0].tolist() == [[3, 0], [1, 255]]
    # 255 - 2.5 = 252.5, 254.75, 254.5 and 0
    assert small[0, ..., 1].tolist() == [[253, 255], [255, 0]]
    assert (small[..., 2] == 7).all()


def test_three_quarters_of_the_size_weigh_by_area():
    """4 -> 3: a new pixel is 4/3 wide: weights 3/4 1/4, 1/2 1/2, 1/4 3/4 on each axis."""
    pixels = image([16, 32, 64, 128], *[[16, 32, 64, 128]] * 3)
    # 12 + 8 = 20; 16 + 32 = 48; 16 + 96 = 112
    assert shrink_arrays(pixels, 3)[0, ..., 0].tolist() == [[20, 48, 112]] * 3
    down = pixels.swapaxes(1, 2)
    assert shrink_arrays(down, 3)[0, ..., 0].tolist() == [[v] * 3 for v in (20, 48, 112)]
    corner = image([160, 0, 0, 0], *[[0] * 4] * 3)  # 160 * 3/4 * 3/4 = 90
    assert shrink_arrays(corner, 3)[0, ..., 0].tolist() == [[90, 0, 0], [0] * 3, [0] * 3]


@pytest.mark.parametrize(("size_in", "size"), [(64, 48), (64, 32), (24, 9), (16, 15), (12, 1)])
def test_every_pixel_is_the_exact_mean_rounded_once(size_in, size):
    pixels = np.random.default_rng(0).integers(0, 256, (2, size_in, size_in, 3), "uint8")
    small = shrink_arrays(pixels, size)
    width = Fraction(size_in, size)

    def share(new, old):
        return max(0, min((new + 1) * width, old + 1) - max(new * width, Fraction(old)))

    for y, x in {(0, 0), (size // 2, size // 3), (size - 1, size - 1)}:
        total = sum(
            share(y, row) * share(x, column) * int(pixels[1, row, column, 2])
            for row in range(size_in)
            for column in range(size_in)
            if share(y, row) and share(x, column)
        )
        assert small[1, y, x, 2] == int(total / width**2 + Fraction(1, 2))


def test_a_batch_in_a_pipeline_is_that_of_the_arrays():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), "uint8")
    batches = tf.data.Dataset.from_tensors(pixels).map(lambda images: shrink(images, 12))
    assert batches.element_spec.shape == (5, 12, 12, 3)
    np.testing.assert_array_equal(batches.get_single_element(), shrink_arrays(pixels, 12))
    np.testing.assert_array_equal(shrink(tf.constant(pixels), 16), pixels)


def test_a_mean_image_keeps_its_fractions():
    mean = np.zeros((4, 4, 3))
    mean[0, 0] = (1, 2, 160)
    small = shrink_mean(mean, 3)
    np.testing.assert_allclose(small[0, 0], (0.5625, 1.125, 90))
    assert not small[1:].any() and not small[0, 1:].any()
    np.testing.assert_allclose(shrink_mean(mean, 2)[0, 0], (0.25, 0.5, 40))
