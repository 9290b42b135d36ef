"""From a recipe to its network, optimizer and compiled model; its images are told in `data`."""

from dataclasses import replace

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation.evaluate import check_model_fits
from keras_imnet64.evaluation.metrics import accuracy_metrics
from keras_imnet64.models import build_model, num_bands
from keras_imnet64.models.contract import ends_in_softmax
from keras_imnet64.models.init import initialize, seed_generators
from keras_imnet64.models.load import check_loads_anywhere
from keras_imnet64.models.warm_start import warm_start
from keras_imnet64.training.loss import CrossEntropy, add_l2
from keras_imnet64.training.optim import make_optimizer, make_schedule
from keras_imnet64.training.parallel import jit_compile, set_batch_norm

IMAGES_MEASURED = 10_000  # of which mean and spread of a band are taken
BATCH_MEASURED = 100


def make_model(recipe, data, own=None, warm=True):
    """The training model with its initial weights; `warm`: those of a file, if the recipe says."""
    if own is not None:
        check_model_fits(own, data.train, "your model", data.view)
        check_loads_anywhere(own, "your model")
        if ends_in_softmax(own):
            raise UserError("your model ends in a softmax; the loss takes logits: leave it out")
        seed_generators(own, recipe.train.seed)
        return own
    model = build_model(
        recipe.model.name,
        image_size=data.image_size,
        num_classes=data.num_classes,
        normalization=resolve_normalization(recipe.model, data),
        dtype=recipe.train.dtype,
        **recipe.model.options,
    )
    initialize(model, recipe.train.seed)
    if recipe.train.initial_weights and warm:
        path = recipe.train.initial_weights
        skipped, differing = warm_start(model, path, data.train.wnids)
        for what in skipped:
            say(f"not taken from {path}: {what}")
        for what in differing:
            say(f"taken from {path}, for another network: {what}")
    return model


def resolve_normalization(section, data):
    """The word in a recipe's `model` as numbers on the 0..1 scale, measured on training images."""
    normalization = section.normalization
    if normalization not in ("mean_image", "dataset"):
        return normalization if normalization == "imagenet" else normalization.model_dump()
    if section.name == "spectral":
        return measure_band(normalization, data, section.options["factor"], section.options["band"])
    if normalization == "mean_image":
        return {"mean": data.mean_image / 255, "std": 1.0}
    return {"mean": data.channel_mean / 255, "std": data.channel_std / 255}


def measure_band(normalization, data, factor, band):
    """The same of a band; mean and spread are those of some thousands of images, as shown."""
    from keras_imnet64.models.spectral import band_mean_and_std, band_of

    if normalization == "mean_image":
        return {"mean": band_of(data.mean_image, factor, band) / 255, "std": 1.0}
    some = data.train.evenly_spaced(IMAGES_MEASURED)
    view = data.view and replace(data.view, ten_crop=False)
    batches = evaluation_batches(some, min(len(some), BATCH_MEASURED), view)
    shown = (images[weights > 0] for images, _, weights in batches.as_numpy_iterator())
    return band_mean_and_std(shown, factor, band)


def compile_for_training(model, recipe, stream, devices):
    """Optimizer, loss, metrics and compiler; returns the metrics whose state is the run's."""
    set_batch_norm(model, recipe.train.batch_norm, devices)
    if recipe.loss.l2:
        add_l2(model, recipe.loss.l2, recipe.loss.l2_of)
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
    """Refuse, before any data is read, what is no one network, and an optimizer that fails."""
    bands = num_bands(recipe.model.name, recipe.model.options)
    if bands:
        raise UserError(
            f"recipe {recipe.name} has {bands} branches, each a run of its own: set model.band to "
            f"0 to {bands - 1}, or train all with the command `fit`"
        )
    make_optimizer_of(recipe, steps_per_epoch=1)


def model_info_of(recipe, data, own):
    """What a model file says about itself, see `models.info.model_info`.

    `own`: the network is the caller's, and not the one that the recipe names.
    """
    return {
        "wnids": data.train.wnids,
        "class_names": data.train.class_names,
        "image_size": data.image_size,
        "dataset": data.train.store.dataset,
        **_shown_as(data),
        "verified": bool(data.train.store.verified),
        "own_model": own,
        "recipe": recipe.model_dump(exclude_none=True, exclude={"reference", "measured"}),
    }


def _shown_as(data):
    """How images are shown to the model, as `images.View.of` reads it."""
    if data.view is None:
        return {"resize_filter": find_dataset(data.train.store.dataset).resize_filter}
    view = data.view
    shown = {"resize_filter": view.resize_filter, "ten_crop": view.ten_crop}
    return shown | ({"resize": view.resize} if view.resize else {})
