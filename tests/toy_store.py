"""A store of eleven images in three classes, for the tests of what is stored."""

import numpy as np

from keras_imnet64.data.stores.packing import write_store

COUNT, SIZE = 11, 4


def pictures(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        (np.arange(count) % 3).astype(np.int64),
    )


def batches(images, labels, size=4):
    for start in range(0, len(images), size):
        yield images[start : start + size], labels[start : start + size]


def write(path, images, labels, count=None, **changes):
    options = dict(
        dataset="toy",
        split="train",
        count=len(images) if count is None else count,
        image_size=SIZE,
        wnids=["a", "b", "c"],
        class_names=["ant", "bee", "cat"],
        source="made by hand",
        verified=False,
    )
    return write_store(path, batches(images, labels), **options | changes)
