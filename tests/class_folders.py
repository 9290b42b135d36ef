"""Class folders of drawn images of many sizes, for the tests of what is read where it lies."""

import numpy as np
from PIL import Image

from keras_imnet64.data.datasets import prepare

CLASSES = ("ant", "bee", "cat")


def drawn(height, width, seed=0):
    """A smooth RGB image, so that JPEG keeps it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), "uint8")
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def resized(image, size, filter_name):
    """By Pillow; size as (height, width)."""
    return image.resize(size[::-1], Image.Resampling[filter_name.upper()])


def write_folders(root, per_class=4, suffix=".jpg"):
    """<root>/<class>/<number>.jpg, from 30 x 46 pixels on, none square."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            seed = per_class * label + number
            image = drawn(30 + seed, 46 + 2 * seed, seed)
            image.save(root / name / f"{number}{suffix}")
    return root


def indexed(folder, per_class=4, name="image_folder/toy"):
    """The stores by split of images written to `folder`, prepared below it."""
    root = write_folders(folder / "pictures", per_class)
    return prepare(name, source=root, data_dir=folder / "data")
