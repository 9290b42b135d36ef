"""From a recipe to the things it names: its images, batches, network, optimizer, compiled model."""

from dataclasses import dataclass

import numpy as np

from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.datasets import find_dataset, open_dataset
from keras_imnet64.data.layers import LayerStep
from keras_imnet64.data.pipeline import TrainingStream
from keras_imnet64.data.selection import Selection, first_classes, select, split_holdout
from keras_imnet64.errors import UserError
from keras_imnet64.evaluation.evaluate import check_model_fits
from keras_imnet64.evaluation.metrics import accuracy_metrics
from keras_imnet64.models import build_model
from keras_imnet64.models.init import initialize, seed_generators
from keras_imnet64.models.ship import warm_start
from keras_imnet64.training.loss import CrossEntropy, add_l2
from keras_imnet64.training.optim import make_optimizer, make_schedule
from keras_imnet64.training.parallel import jit_compile, set_batch_norm
from keras_imnet64.training.progress import say


@dataclass(frozen=True)
class Data:
    """The images of a run: to train on, to validate epochs on, and to score the result on."""

    train: Selection
    validation: Selection  # the holdout where there is one, else `final`
    final: Selection
    mean_image: np.ndarray  # float32 [H, W, 3], 0..255
    channel_mean: np.ndarray
    channel_std: np.ndarray

    @property
    def num_classes(self):
        return self.train.num_classes

    @property
    def image_size(self):
        return self.train.image_size


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
        train, validation, final, moments.mean_image, moments.channel_mean, moments.channel_std
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
        seed=recipe.train.seed,
        mirror=recipe.data.mirror,
        augmentation=make_augmentation(recipe, data.image_size),
        steps_per_epoch=steps * parts,
        mean_image=np.round(data.mean_image).astype("uint8"),
    )


def make_augmentation(recipe, image_size):
    """The steps of a recipe's [[augment]] tables, checked; layers are made and tried."""
    steps = []
    for index, section in enumerate(recipe.augment):
        if section.layer:
            seed = recipe.train.seed + index  # two alike draw apart
            steps.append(LayerStep(section.layer, section.options, image_size, seed))
            steps[-1].check()
        else:
            steps.append(check_augment(section.op, section.options, image_size))
    return steps


def make_model(recipe, data, own=None, warm=True):
    """The training model with its initial weights; `warm`: those of a file, if the recipe says."""
    if own is not None:
        check_model_fits(own, data.train, "your model")
        seed_generators(own, recipe.train.seed)
        return own
    model = build_model(
        recipe.model.name,
        image_size=data.image_size,
        num_classes=data.num_classes,
        normalization=resolve_normalization(recipe.model.normalization, data),
        dtype=recipe.train.dtype,
        **recipe.model.options,
    )
    initialize(model, recipe.train.seed)
    if recipe.train.initial_weights and warm:
        for skipped in warm_start(model, recipe.train.initial_weights, data.train.wnids):
            say(f"not taken from {recipe.train.initial_weights}: {skipped}")
    return model


def resolve_normalization(normalization, data):
    """A recipe's word as numbers on the 0..1 scale, measured on the training images."""
    if normalization == "mean_image":
        return {"mean": data.mean_image / 255, "std": 1.0}
    if normalization == "dataset":
        return {"mean": data.channel_mean / 255, "std": data.channel_std / 255}
    return normalization if normalization == "imagenet" else normalization.model_dump()


def compile_for_training(model, recipe, stream, devices):
    """Optimizer, loss, metrics and compiler; returns the metrics whose state is the run's."""
    set_batch_norm(model, recipe.train.batch_norm, devices)
    if recipe.loss.l2:
        add_l2(model, recipe.loss.l2)
    steps = stream.steps_per_epoch // recipe.train.accumulate_steps
    optimizer = make_optimizer_of(recipe, steps)
    accuracies = accuracy_metrics()
    model.compile(
        optimizer,
        CrossEntropy(recipe.loss.label_smoothing),
        metrics=accuracies,
        jit_compile=jit_compile(recipe.train.xla, devices),
    )
    optimizer.build(model.trainable_variables)
    return [model._loss_tracker, *accuracies]


def make_optimizer_of(recipe, steps_per_epoch):
    schedule = make_schedule(
        recipe.schedule.name,
        learning_rate=recipe.optimizer.learning_rate,
        steps_per_epoch=steps_per_epoch,
        num_epochs=recipe.train.epochs,
        warmup_epochs=recipe.schedule.warmup_epochs,
        **recipe.schedule.options,
    )
    return make_optimizer(
        recipe.optimizer.name,
        schedule,
        weight_decay=recipe.optimizer.weight_decay,
        clip_norm=recipe.optimizer.clip_norm,
        ema=recipe.train.ema or None,
        accumulate_steps=recipe.train.accumulate_steps,
        **recipe.optimizer.options,
    )


def check_training(recipe):
    """Refuse, before any data is read, an optimizer or schedule that does not work."""
    make_optimizer_of(recipe, steps_per_epoch=1)


def model_info_of(recipe, data):
    """What a model file says about itself, see `models.ship.model_info`."""
    return {
        "wnids": data.train.wnids,
        "class_names": data.train.class_names,
        "image_size": data.image_size,
        "dataset": data.train.store.dataset,
        "resize_filter": find_dataset(data.train.store.dataset).resize_filter,
        "verified": bool(data.train.store.verified),
        "recipe": recipe.model_dump(exclude_none=True, exclude={"reference", "measured"}),
    }
