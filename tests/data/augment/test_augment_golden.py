"""Compares each transform with torchvision's and timm's results, frozen by `golden/make.py`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_imnet64.data.augment import colour, crops, geometry, policies
from tests.data.augment.golden import cases

GOLDEN = np.load(Path(__file__).parent / "golden" / "augment.npz")
COLOURS = [(name, value) for name, values in cases.COLOURS.items() for value in values]
MAPS = [
    (name, value, mode)
    for name, values in cases.MAPS.items()
    for value in values
    for mode in ("nearest", "bilinear")
]


BOXES = [(box, name) for box in cases.BOXES for name in cases.FILTERS]


def for_each(images, value, dtype="float32"):
    return np.full(len(images), value, dtype)


@pytest.mark.parametrize(("name", "value"), COLOURS)
def test_arithmetic_is_exact(name, value):
    images = cases.images()
    changed = np.asarray(getattr(colour, name)(images, for_each(images, value)))
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, GOLDEN[f"{name} {value}"])


@pytest.mark.parametrize(("name", "value", "mode"), MAPS)
def test_maps_are_within_a_grey_level(name, value, mode):
    images = cases.images()
    maps = policies.GEOMETRY[name](images, for_each(images, value))
    changed = geometry.warp(images, maps, mode, 0).numpy()
    if name in policies.SHIFTS:
        moved = policies.SHIFTS[name](images, for_each(images, value), 0)
        assert np.array_equal(moved, GOLDEN[f"{name} {value} {mode}"])
    difference = np.abs(changed - GOLDEN[f"{name} {value} {mode}"].astype(int))
    assert difference.mean() < 1
    assert (difference > 1).mean() < 0.02  # half way between two pixels, either is nearest


@pytest.mark.parametrize("name", crops.FILTERS)
@pytest.mark.parametrize("box", [(4, 4, 8, 8), (2, 1, 16, 16), (0, 0, 24, 20), (3, 2, 9, 5)])
def test_resized_crops_are_within_a_grey_level_of_pillow(box, name):
    """Uses the smooth image: in noise, more values lie half way between two grey levels."""
    image = cases.images()[0]
    names = ("top", "left", "height", "width")
    boxes = {k: for_each([0], v, "int32") for k, v in zip(names, box, strict=True)}
    changed = crops.resized_crop(image[None], boxes, cases.RESIZED, name)[0].numpy().astype(int)
    top, left, height, width = box
    part = Image.fromarray(image[top : top + height, left : left + width])
    theirs = np.asarray(part.resize(cases.RESIZED, Image.Resampling[name.upper()]))
    difference = changed - theirs
    assert np.abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.05  # neither darker nor lighter on average


@pytest.mark.parametrize(("box", "name"), BOXES)
def test_resized_crops_are_within_a_grey_level_of_torchvision(box, name):
    images = cases.images()
    names = ("top", "left", "height", "width")
    boxes = {k: for_each(images, v, "int32") for k, v in zip(names, box, strict=True)}
    changed = crops.resized_crop(images, boxes, cases.RESIZED, name).numpy()
    difference = np.abs(changed - GOLDEN[f"resized_crop {box} {name}"].astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.1
