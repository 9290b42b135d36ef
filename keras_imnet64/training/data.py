"""Selects the images of a recipe, and makes its stream of training batches. Needs no Keras."""

from dataclasses import dataclass

import numpy as np

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.parts import WHOLE, Part
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.augment.draws import AugmentationStep
from keras_imnet64.data.augment.layers import LayerStep
from keras_imnet64.data.augment.options import RandomResizedCropOptions
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection, first_classes, select, split_holdout
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.recipe.schema import LayerSection, Recipe, check_target_threshold


@dataclass(frozen=True)
class Data:
    """The images of a run: to train on, to validate epochs on, and to score the result on."""

    train: Selection
    validation: Selection  # the images that were held out, else `final`
    final: Selection
    image_size: int
    view: View | None  # in evaluation; None for images as they are stored
    mean_image: np.ndarray | None  # float32 [H, W, 3], 0..255; None where images have any size
    channel_mean: np.ndarray  # float [3], 0..255
    channel_std: np.ndarray  # float [3], 0..255

    @property
    def num_classes(self) -> int:
        return self.train.num_classes

    @property
    def one_crop_view(self) -> View | None:
        """The view for training and for scoring epochs, which take one crop of each image."""
        return self.view and self.view.one_crop

    def fill(self, size: int) -> np.ndarray:
        """Returns the pixels for fill = "mean", the mean image or colour: uint8 [size, size, 3]."""
        mean = self.channel_mean if self.mean_image is None else self.mean_image
        return np.round(np.broadcast_to(mean, (size, size, 3))).astype("uint8")

    @property
    def stores(self) -> dict[str, Store]:
        """The stores of the data set by split."""
        return {"train": self.train.store, "validation": self.final.store}


def load_data(
    recipe: Recipe,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    pack_progress: PackProgress | None = None,
) -> Data:
    """Opens both splits of the recipe's data set and selects the images that the run uses."""
    train_store, final_store = (
        open_dataset(
            recipe.data.dataset,
            split,
            in_memory=recipe.data.in_memory,
            data_dir=data_dir,
            cache_dir=cache_dir,
            progress=pack_progress,
        )
        for split in ("train", "validation")
    )
    wnids = first_classes(train_store, recipe.data.classes) if recipe.data.classes else None
    train, final = select(train_store, wnids), select(final_store, wnids)
    check_classes(recipe, train, final)
    validation = final
    if recipe.data.holdout:
        train, validation = split_holdout(train, recipe.data.holdout)
    if recipe.selection == "validation":
        validation = final
    moments = train.moments()
    image_size = recipe.data.image_size or train.image_size
    assert image_size is not None  # `Recipe.check` requires it for images of any size
    return Data(
        train,
        validation,
        final,
        image_size,
        recipe.view,
        moments.mean_image,
        moments.channel_mean,
        moments.channel_std,
    )


def check_classes(recipe: Recipe, train: Selection, final: Selection) -> None:
    """Refuses images of too few classes, or without one that the finished model is scored on."""
    name, wanted = train.store.dataset, recipe.data.classes
    if wanted and wanted > train.num_classes:
        raise UserError(
            f"data.classes must be at most {train.num_classes}, the classes of {name}; received "
            f"{wanted}"
        )
    if train.num_classes < 2:
        raise UserError(f"{name} has one class, and a classifier needs two or more")
    if not len(final):
        raise UserError(
            f"{name} has no validation image of these {train.num_classes} classes, on which the "
            "finished model is scored: prepare it with --validation-share, or choose more classes"
        )
    check_target_threshold(recipe.loss, train.num_classes)


def make_stream(
    recipe: Recipe, data: Data, *, full_size: bool = False, part: Part = WHOLE
) -> TrainingStream:
    """Returns the stream of training batches. Each part of an accumulated batch is a step of it.

    Args:
        part: the rows of each step that this process reads.
        full_size: whether its images have the size of the model in each epoch, whatever
            `train.sizes` says.

    Raises:
        UserError: an epoch has fewer images than a batch, or fewer batches than the recipe sets.
    """
    num_parts = recipe.train.accumulate_steps
    num_samples = len(data.train) * (2 if recipe.data.mirror == "both" else 1)
    max_batches = num_samples // recipe.data.batch_size
    num_batches = recipe.data.steps_per_epoch or max_batches
    if not max_batches:
        raise UserError(
            f"data.batch_size must be at most {num_samples}, the samples of an epoch; "
            f"received {recipe.data.batch_size}"
        )
    if num_batches > max_batches:
        raise UserError(
            f"data.steps_per_epoch must be at most {max_batches}, the whole batches of an epoch; "
            f"received {num_batches}"
        )
    size = data.image_size if full_size else _augmented_size(recipe, data)
    return TrainingStream(
        data.train,
        batch_size=recipe.data.batch_size // num_parts,
        view=data.one_crop_view,
        seed=recipe.train.seed,
        mirror=recipe.data.mirror,
        repeats=recipe.data.repeats,
        augmentation=make_augmentation(recipe, size, part),
        steps_per_epoch=num_batches * num_parts,
        mean_image=data.fill(size),
        image_size=size,
        size_of_epoch=None if full_size else recipe.size_of_epoch,
        part=part,
    )


def _augmented_size(recipe: Recipe, data: Data) -> int:
    """Returns the pixels per side that images have while they are augmented.

    This is the size of the model. But where images of any size are cropped first, it is the largest
    size of `train.sizes`: a crop may have any size.
    """
    first = recipe.augment[0] if recipe.augment else None
    is_cropped = data.train.image_size is None and isinstance(first, RandomResizedCropOptions)
    return recipe.size_stages[-1].image_size if is_cropped else data.image_size


def check_length(recipe: Recipe, stream: TrainingStream) -> None:
    """Refuses settings of a recipe that need a longer epoch, or a longer run, than its stream has.

    Programs that train a few steps on few images, such as `bench`, do without.
    """
    train, lookahead = recipe.train, recipe.optimizer.lookahead
    num_batches = stream.steps_per_epoch // train.accumulate_steps
    if train.remeasure_statistics > num_batches:
        raise UserError(
            f"train.remeasure_statistics must be at most {num_batches}, the batches of an epoch; "
            f"received {train.remeasure_statistics}"
        )
    num_epochs, end = train.epochs, "of the run"
    if train.early_stopping and train.early_stopping + 1 < num_epochs:
        num_epochs, end = train.early_stopping + 1, "before train.early_stopping may end the run"
    num_updates = num_batches * num_epochs
    if lookahead and lookahead.steps > num_updates:
        raise UserError(
            f"optimizer.lookahead.steps must be at most {num_updates}, the updates {end}, or its "
            f"slow weights stay the initial ones; received {lookahead.steps}"
        )


def make_augmentation(
    recipe: Recipe, image_size: int, part: Part = WHOLE
) -> list[AugmentationStep]:
    """Returns the checked steps of a recipe's [[augment]] tables."""
    steps: list[AugmentationStep] = []
    for index, section in enumerate(recipe.augment):
        if isinstance(section, LayerSection):
            # Equal layers draw different numbers, and so do the processes of a run.
            seed = recipe.train.seed + index + len(recipe.augment) * part.index
            layer = LayerStep(section.layer, section.options, image_size, seed)
            layer.check()
            steps.append(layer)
        else:
            steps.append(check_augment(section.op, section.options, image_size))
    return steps
