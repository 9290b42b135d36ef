"""Builds a recipe's network and optimizer, and compiles the model; needs no images.

`model` fits the network to the images of a run. Nothing here imports TensorFlow, so that a program
with images of its own trains under JAX where TensorFlow is not installed.
"""

from collections.abc import Mapping

import keras

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Options
from keras_imnet64.evaluation.metrics import accuracy_metrics
from keras_imnet64.models import build_model, num_bands
from keras_imnet64.models.from_file import build_from_file
from keras_imnet64.models.init import initialize, seed_generators
from keras_imnet64.models.keras_private import loss_tracker
from keras_imnet64.models.options import FileOptions
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.training.groups import check_groups
from keras_imnet64.training.loss import add_l2, is_penalised, make_loss
from keras_imnet64.training.optim import is_decayed, make_optimizer, make_schedule
from keras_imnet64.training.parallel import jit_compile, set_batch_norm
from keras_imnet64.training.remat import set_remat
from keras_imnet64.training.saved_as_plain import SavedAsPlain
from keras_imnet64.training.sizes import set_sizes


def make_network(
    recipe: Recipe,
    *,
    image_size: int,
    num_classes: int,
    normalization: str | Options = "imagenet",
) -> keras.Model:
    """Returns the recipe's network with its initial weights, or with those of its file.

    Args:
        normalization: as in `build_model`, in place of the recipe's own; not for a file, which has
            its own.
    """
    if isinstance(recipe.model, FileOptions):
        model = build_from_file(
            recipe.model,
            image_size=image_size,
            num_classes=num_classes,
            dtype=recipe.train.dtype,
        )
        seed_generators(model, recipe.train.seed)
        return model
    model = build_model(
        recipe.model.name,
        image_size=image_size,
        num_classes=num_classes,
        normalization=normalization,
        dtype=recipe.train.dtype,
        **recipe.model.options,
    )
    initialize(model, recipe.train.seed, recipe.model.all_options.get("init", "default"))
    return model


def training_model(model: keras.Model) -> keras.Model:
    """Returns the model that trains in place of another, on the same layers and variables.

    Under TensorFlow it calls faster kernels; under JAX, XLA makes its own. The other model stays
    usable as before, with the trained weights at any time, and files of both are the same.
    """
    if keras.backend.backend() != "tensorflow":
        return SavedAsPlain(model.inputs[0], model.outputs[0], name=model.name)
    from keras_imnet64.training.training_model import TrainingModel

    return TrainingModel(model.inputs[0], model.outputs[0], name=model.name)


def compile_for_training(
    model: keras.Model,
    recipe: Recipe,
    steps_per_epoch: int,
    devices: Devices,
    smaller: Mapping[int, keras.Model] | None = None,
) -> list[keras.metrics.Metric]:
    """Compiles a model with the recipe's optimizer and loss.

    Args:
        steps_per_epoch: of the stream, in which each part of an accumulated batch is a step.
        smaller: the same network for the smaller sizes of `train.sizes`.

    Returns:
        The metrics whose state checkpoints hold.
    """
    set_batch_norm(model, recipe.train.batch_norm, devices)
    if recipe.loss.l2:
        add_l2(model, recipe.loss.l2, recipe.loss.l2_of, recipe.optimizer.groups)
    xla = jit_compile(recipe.train.xla, devices)
    sized = {size: training_model(each) for size, each in (smaller or {}).items()}
    for each in (model, *sized.values()):
        set_remat(each, recipe.train.remat, xla)
    set_sizes(model, sized)
    optimizer = optimizer_for(recipe, steps_per_epoch // recipe.train.accumulate_steps)
    accuracies = accuracy_metrics()
    model.compile(
        optimizer,
        make_loss(recipe.loss),
        metrics=accuracies,
        jit_compile=xla,
    )
    optimizer.build(model.trainable_variables)
    return [loss_tracker(model), *accuracies]


def optimizer_for(recipe: Recipe, updates_per_epoch: int) -> keras.optimizers.Optimizer:
    """Returns the recipe's optimizer with its schedule."""
    schedule = make_schedule(
        recipe.schedule.name,
        learning_rate=recipe.optimizer.learning_rate,
        steps_per_epoch=updates_per_epoch,
        num_epochs=recipe.train.epochs,
        warmup_epochs=recipe.schedule.warmup_epochs,
        warmup_learning_rate=recipe.schedule.warmup_learning_rate,
        by_epoch=recipe.schedule.by_epoch,
        **recipe.schedule.options,
    )
    return make_optimizer(
        recipe.optimizer.name,
        schedule,
        weight_decay=recipe.optimizer.weight_decay,
        ema=recipe.train.ema or None,
        accumulate_steps=recipe.train.accumulate_steps,
        clip_norm=recipe.optimizer.clip_norm,
        groups=recipe.optimizer.groups,
        lookahead=recipe.optimizer.lookahead,
        **recipe.optimizer.options,
    )


def check_training(recipe: Recipe) -> None:
    """Refuses a recipe of several networks, and an optimizer that cannot be made."""
    num_branches = num_bands(recipe.model.name, recipe.model.options)
    if num_branches:
        raise UserError(
            f"recipe {recipe.name} has {num_branches} branches, each a run of its own: set "
            f"model.band to 0 to {num_branches - 1}, or train all with the command `fit`"
        )
    optimizer_for(recipe, updates_per_epoch=1)


def check_group_options(recipe: Recipe, network: keras.Model) -> None:
    """Refuses `[[optimizer.groups]]` that apply to no variable of a network or change nothing.

    A network without variables, which was never built, passes: `make_model` refuses it.
    """
    variables, loss = network.trainable_variables, recipe.loss
    decayed = [
        variable.path
        for variable in variables
        if (recipe.optimizer.weight_decay and is_decayed(variable))
        or (loss.l2 and is_penalised(variable, loss.l2_of))
    ]
    if network.built:
        check_groups(recipe.optimizer.groups, [v.path for v in variables], decayed)
