"""Means and spreads of images: those of NumPy, exact for parts and for large sums."""

import numpy as np
import pytest
from toy_store import COUNT, SIZE, in_memory, random_images, write

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.stores.moments import moments
from keras_imnet64.data.stores.opening import open_store


@pytest.fixture
def packed(tmp_path):
    return write(tmp_path / "train", *random_images()).path


def expected_moments(images):
    return images.mean(axis=0), images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))


@pytest.mark.parametrize(
    "positions", [None, [3], [10, 2, 5], [0, 1, 2, 3, 5, 6, 7, 8, 9], list(range(COUNT)), [4, 4, 1]]
)
def test_moments_are_those_of_numpy(packed, positions):
    images, _ = random_images()
    part = images if positions is None else images[positions]
    mean_image, channel_mean, channel_std = expected_moments(part)
    got = moments(open_store(packed), positions)
    assert got.count == len(part) and got.mean_image.dtype == np.float32
    np.testing.assert_allclose(got.mean_image, mean_image, rtol=1e-6)
    np.testing.assert_allclose(got.channel_mean, channel_mean, rtol=1e-12)
    np.testing.assert_allclose(got.channel_std, channel_std, rtol=1e-12)


def test_moments_through_the_complement_are_exactly_those_of_the_part(tmp_path):
    images, labels = random_images(count=1300)
    store = write(tmp_path / "train", images, labels)
    large = np.setdiff1d(np.arange(1300), [5, 700, 1299])
    through_rest = moments(store, large)
    alone = moments(in_memory(images[large], labels[large]))
    np.testing.assert_array_equal(through_rest.mean_image, alone.mean_image)
    np.testing.assert_array_equal(through_rest.channel_std, alone.channel_std)


def test_white_images_do_not_overflow_the_sums(tmp_path):
    images = np.full((1500, SIZE, SIZE, 3), 255, np.uint8)
    got = moments(write(tmp_path / "train", images, np.zeros(1500, np.int64)))
    assert (got.mean_image == 255).all() and (got.channel_std == 0).all()


def test_moments_of_an_empty_selection_are_refused(packed):
    with pytest.raises(UserError, match="selection is empty"):
        moments(open_store(packed), [])
