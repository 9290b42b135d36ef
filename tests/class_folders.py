"""Class folders of drawn images of many sizes, for tests of indexed data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from keras_imnet64.data.datasets import prepare

CLASSES = ("ant", "bee", "cat")


def drawn(height, width, seed=0):
    """Returns a smooth RGB image, which JPEG changes little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), "uint8")
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def resized(image, size, filter_name):
    """Returns an image resized by Pillow to (height, width)."""
    return image.resize(size[::-1], Image.Resampling[filter_name.upper()])


def write_folders(root, per_class=4, suffix=".jpg"):
    """Writes <root>/<class>/<number>.jpg, of 30 x 46 pixels and more, none square."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            seed = per_class * label + number
            image = drawn(30 + seed, 46 + 2 * seed, seed)
            image.save(root / name / f"{number}{suffix}")
    return root


def damage(store, position):
    """Changes a byte of a PNG that a store indexes. Returns its path."""
    file = Path(store.file_of(position))
    content = bytearray(file.read_bytes())
    content[60] ^= 255  # of the compressed pixels, which begin at byte 41
    file.write_bytes(content)
    return file


def indexed(folder, per_class=4, name="image_folder/toy", suffix=".jpg"):
    """Writes images to `folder`, and returns their stores by split."""
    root = write_folders(folder / "pictures", per_class, suffix)
    return prepare(name, source=root, data_dir=folder / "data")
