"""Views of images at a model's size, worked by hand."""

import numpy as np
import pytest
from PIL import Image

from keras_imnet64.data.images.views import FILTERS, View


def shown(view, pixels):
    """What a view shows of uint8 [h, w, 3]."""
    return view.show(Image.fromarray(np.asarray(pixels, "uint8")))


def grey(plane):
    return np.stack([np.array(plane, "uint8")] * 3, axis=-1)


def noise(size):
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), "uint8")


def test_box_is_the_mean_of_each_box():
    pixels = grey([[0, 4, 100, 100], [8, 12, 100, 104], [1, 1, 255, 255], [1, 1, 255, 255]])
    np.testing.assert_array_equal(shown(View(2), pixels), grey([[6, 101], [1, 255]]))


def test_a_wide_image_is_squeezed_not_cropped():
    """From 4 x 2 to 2 x 2, each box is two pixels wide and one high."""
    pixels = grey([[0, 100, 200, 250], [10, 20, 30, 40]])
    np.testing.assert_array_equal(shown(View(2), pixels), grey([[50, 225], [15, 35]]))


@pytest.mark.parametrize("name", FILTERS)
def test_an_image_of_the_right_size_keeps_its_pixels(name):
    found = shown(View(16, name), noise(16))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, noise(16))


def test_filters_differ():
    assert len({shown(View(4, name), noise(9)).tobytes() for name in FILTERS}) == len(FILTERS) == 6


def test_with_resize_the_centre_is_cropped():
    """4 pixels high, 2 of them shown; 6 wide: the shorter side stays 4, and 2 of 6 are shown."""
    pixels = grey(np.arange(24).reshape(4, 6))
    np.testing.assert_array_equal(shown(View(2, resize=4), pixels), grey([[8, 9], [14, 15]]))


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [  # torchvision's (width, height): the longer side is int(resize * longer / shorter)
        (256, (98, 147), (256, 384)),
        (256, (214, 107), (512, 256)),
        (256, (500, 375), (341, 256)),
        (20, (1, 300), (20, 6000)),
    ],
)
def test_the_shorter_side_is_resized_as_by_torchvision(resize, size, expected, monkeypatch):
    def record(image, size, resample):
        sizes.append(size)
        return Image.new("RGB", size)

    sizes = []
    monkeypatch.setattr(Image.Image, "resize", record)
    View(16, resize=resize).show(Image.new("RGB", size))
    assert sizes == [expected]


def test_ten_crops_are_the_centre_the_corners_and_their_mirror_images():
    view = View(2, resize=4, ten_crop=True)
    crops = shown(view, grey(np.arange(24).reshape(4, 6)))
    assert crops.shape == view.shape == (10, 2, 2, 3)
    assert crops[:5, 0, 0, 0].tolist() == [8, 0, 4, 12, 16]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


def test_one_crop_drops_the_other_nine():
    view = View(2, "bilinear", 4, ten_crop=True)
    assert view.one_crop == View(2, "bilinear", 4)
    assert view.one_crop.shape == (2, 2, 3)
    assert View(2, "bilinear", ten_crop=True).one_crop == View(2, "box")  # the whole image
