"""From a recipe to its images: which ones it uses, and their batches. Needs no Keras."""

from dataclasses import dataclass, replace

import numpy as np

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.augment.layers import LayerStep
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection, first_classes, select, split_holdout
from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.recipe.schema import LayerSection


@dataclass(frozen=True)
class Data:
    """The images of a run: to train on, to validate epochs on, and to score the result on."""

    train: Selection
    validation: Selection  # the holdout where there is one, else `final`
    final: Selection
    image_size: int
    view: View | None  # of images in evaluation; None: as they are stored
    mean_image: np.ndarray | None  # float32 [H, W, 3], 0..255; None where images have any size
    channel_mean: np.ndarray
    channel_std: np.ndarray

    @property
    def num_classes(self):
        return self.train.num_classes

    @property
    def fill(self):
        """uint8 [S, S, 3], what fill "mean" fills with: the mean image, or the mean colour."""
        if self.mean_image is None:
            mean = np.broadcast_to(self.channel_mean, (self.image_size, self.image_size, 3))
        else:
            mean = self.mean_image
        return np.round(mean).astype("uint8")


def load_data(recipe, data_dir=None, cache_dir=None, pack_progress=None):
    """Open both splits of the recipe's data set and choose the images that it uses."""
    where = {"data_dir": data_dir, "cache_dir": cache_dir, "progress": pack_progress}
    stores = [
        open_dataset(recipe.data.dataset, split, in_memory=recipe.data.in_memory, **where)
        for split in ("train", "validation")
    ]
    classes = recipe.data.classes
    wnids = first_classes(stores[0], classes) if classes else None
    train, final = (select(store, wnids) for store in stores)
    validation = final
    if recipe.data.holdout:
        train, validation = split_holdout(train, recipe.data.holdout)
    if recipe.selection == "validation":
        validation = final
    moments = train.moments()
    return Data(
        train,
        validation,
        final,
        recipe.data.image_size or train.image_size,
        recipe.view,
        moments.mean_image,
        moments.channel_mean,
        moments.channel_std,
    )


def make_stream(recipe, data):
    """The training batches: a batch of the recipe, or the parts that are accumulated to one."""
    parts = recipe.train.accumulate_steps
    samples = len(data.train) * (2 if recipe.data.mirror == "both" else 1)
    whole = samples // recipe.data.batch_size
    steps = recipe.data.steps_per_epoch or whole
    if not whole:
        raise UserError(
            f"data.batch_size must be at most {samples}, the samples of an epoch; "
            f"received {recipe.data.batch_size}"
        )
    if steps > whole:
        raise UserError(
            f"data.steps_per_epoch must be at most {whole}, the whole batches of an epoch; "
            f"received {steps}"
        )
    return TrainingStream(
        data.train,
        batch_size=recipe.data.batch_size // parts,
        view=data.view and replace(data.view, ten_crop=False),
        seed=recipe.train.seed,
        mirror=recipe.data.mirror,
        augmentation=make_augmentation(recipe, data.image_size),
        steps_per_epoch=steps * parts,
        mean_image=data.fill,
    )


def make_augmentation(recipe, image_size):
    """The steps of a recipe's [[augment]] tables, checked; layers are made and tried."""
    steps = []
    for index, section in enumerate(recipe.augment):
        if isinstance(section, LayerSection):
            seed = recipe.train.seed + index  # two alike draw apart
            steps.append(LayerStep(section.layer, section.options, image_size, seed))
            steps[-1].check()
        else:
            steps.append(check_augment(section.op, section.options, image_size))
    return steps
