"""Drawn images of three classes of Tiny ImageNet, for tests of the forms that images come in."""

import io

import numpy as np
from PIL import Image
from write_forms import write_parquet

from keras_imnet64.data.sources import tiny_imagenet

WNIDS = ["n01443537", "n02124075", "n04067472"]
TRAIN_LABELS, VALIDATION_LABELS = [2, 0, 1, 0, 2, 1], [1, 2, 0]


def jpeg(seed, size=(64, 64), kind="JPEG"):
    """Returns the file of a drawn image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(content, kind)
    return content.getvalue()


def pixels(content):
    """Returns the pixels of a file, as Pillow decodes it."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


TRAIN = [jpeg(seed) for seed in range(6)]
VALIDATION = [jpeg(seed) for seed in range(10, 13)]


def expect_three_classes(monkeypatch):
    """Makes the expected numbers of Tiny ImageNet those of these images."""
    for name, value in {"NUM_CLASSES": 3, "NUM_TRAIN": 6, "NUM_VALIDATION": 3}.items():
        monkeypatch.setattr(tiny_imagenet, name, value)


def write_tiny(folder, names=WNIDS, validation="valid", **options):
    """Writes the images as Parquet: three shards for training, one for validation."""
    write_parquet(folder, "train", TRAIN, TRAIN_LABELS, names, **({"shards": 3} | options))
    write_parquet(folder, validation, VALIDATION, VALIDATION_LABELS, names)
    return folder


def check_tiny(stores, train_labels=TRAIN_LABELS, validation_labels=VALIDATION_LABELS):
    """Checks that the pixels are those of the files, in their order, with these labels."""
    for split, contents, labels in (
        ("train", TRAIN, train_labels),
        ("validation", VALIDATION, validation_labels),
    ):
        np.testing.assert_array_equal(stores[split].images, [pixels(each) for each in contents])
        assert stores[split].labels.tolist() == labels
