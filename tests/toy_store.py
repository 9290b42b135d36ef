"""A store of eleven images in three classes, for the tests of stores."""

import numpy as np

from keras_imnet64.data.stores.packing import write_store
from keras_imnet64.data.stores.raw import RawStore
from keras_imnet64.records import RawStoreMeta

COUNT, SIZE = 11, 4
FACTS = dict(
    dataset="toy",
    split="train",
    wnids=["a", "b", "c"],
    class_names=["ant", "bee", "cat"],
    source="made by hand",
    verified=False,
)


def random_images(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        (np.arange(count) % 3).astype(np.int64),
    )


def batches(images, labels, size=4):
    for start in range(0, len(images), size):
        yield images[start : start + size], labels[start : start + size]


def write(path, images, labels, count=None, **changes):
    facts = dict(count=len(images) if count is None else count, image_size=SIZE, **FACTS)
    return write_store(path, batches(images, labels), **facts | changes)


def in_memory(images, labels, **changes):
    """A store of arrays that lie in no folder."""
    facts = FACTS | changes
    meta = RawStoreMeta(
        **facts,
        count=len(images),
        image_size=images.shape[1],
        class_counts=np.bincount(labels, minlength=len(facts["wnids"])).tolist(),
        digest="",
        file_sizes=dict.fromkeys(RawStoreMeta.FILES[1], 0),
    )
    return RawStore(None, meta, images, labels)
