"""Random images in place of a data set that is not prepared: a step takes as long on them."""

import numpy as np

from keras_imnet64.data.selection import select
from keras_imnet64.data.stores.raw import RawStore
from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import RawStoreMeta
from keras_imnet64.training.data import Data, make_stream


def random_data(recipe: Recipe, num_images: int | None = None) -> Data:
    """Returns random images, by default a batch, in the size and classes of the recipe's data."""
    count = num_images or recipe.data.batch_size
    size, num_classes = recipe.image_size, recipe.num_classes
    assert num_classes is not None  # `bench` refuses a data set whose classes are not known
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, num_classes, count, np.int32)
    selection = select(RawStore(None, _meta(recipe, num_classes, labels), images, labels))
    moments = selection.moments()
    return Data(
        selection,
        selection,
        selection,
        size,
        None,
        moments.mean_image,
        moments.channel_mean,
        moments.channel_std,
    )


def stream_on(data: Data, recipe: Recipe) -> TrainingStream:
    """Returns the stream of random images; its epoch has them all, whatever the recipe says."""
    section = recipe.data.model_copy(update={"steps_per_epoch": None})
    return make_stream(recipe.model_copy(update={"data": section}), data)


def _meta(recipe: Recipe, num_classes: int, labels: np.ndarray) -> RawStoreMeta:
    names = [f"class {label}" for label in range(num_classes)]
    return RawStoreMeta(
        dataset=recipe.data.dataset,
        source="drawn at random",
        verified=False,
        split="train",
        count=len(labels),
        class_counts=np.bincount(labels, minlength=len(names)).tolist(),
        wnids=names,
        class_names=names,
        digest="",
        file_sizes=dict.fromkeys(RawStoreMeta.FILES[1], 0),
        image_size=recipe.image_size,
    )
