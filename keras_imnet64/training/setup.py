"""Builds what a recipe trains: the compiled model and the stream of training batches.

`fit` trains this setup; programs with their own training loop get it from `training_setup`. `data`
selects the images, `model` makes the model for them, and `build` compiles it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import keras

from keras_imnet64.backend.cluster import Cluster
from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.models.freeze import Frozen, freeze_layers
from keras_imnet64.models.warm_start import find_weights
from keras_imnet64.recipe.loading import as_recipe
from keras_imnet64.recipe.networks import outline_of
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.training.build import (
    check_group_options,
    check_training,
    compile_for_training,
    training_model,
)
from keras_imnet64.training.data import Data, check_length, load_data, make_stream
from keras_imnet64.training.model import check_own_dtype, make_model, make_smaller
from keras_imnet64.training.parallel import check_batch_norm, jit_compile
from keras_imnet64.training.sizes import check_sizes
from keras_imnet64.training.statistics import check_statistics


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of a training run, before its first step.

    Attributes:
        data: the selected images: to train on, to validate on, and to score the result on.
        stream: the training batches; `stream.batch(epoch, step)` returns uint8 images [B, H, W, 3]
            and labels as NumPy arrays.
        network: the model of Keras' own layers, with its initial weights: the same variables as
            those of `model`, which may call faster functions.
        smaller: the same network for the smaller sizes of `train.sizes`, by pixels per side.
        model: compiled; pixels [B, H, W, 3] -> float32 logits [B, K].
        metrics: the metrics whose state checkpoints hold.
        own_model: whether the model is the caller's and not the recipe's.
        frozen: the layers of the network that `train.freeze` freezes.
    """

    recipe: Recipe
    devices: Devices
    data: Data
    stream: TrainingStream
    network: keras.Model
    smaller: Mapping[int, keras.Model]
    model: keras.Model
    metrics: Sequence[keras.metrics.Metric]
    own_model: bool
    frozen: Frozen


@keras_defaults()
def training_setup(
    recipe: Recipe | StrPath,
    *,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: Devices | None = None,
    pack_progress: PackProgress | None = None,
) -> TrainingSetup:
    """Makes the compiled model and the training stream with which `fit` trains a recipe.

    Calling `model.train_on_batch` on `stream.batch(epoch, step)`, step after step, trains the model
    as `fit` does; with `train.sizes` call `model.make_train_function(force=True)` before the first
    batch of another size. What `fit` does between epochs and at the end is left to the caller: the
    plateau schedule, early stopping, `train.average_last` and `train.remeasure_statistics`, and
    that averages ship in place of the weights: those of `train.ema` are
    `optim.averaged_weights(model.optimizer)`, Lookahead's `optim.slow_weights(model.optimizer)`.
    Nothing is written, except that a data set that is not packed yet is packed.

    Args:
        recipe: a `Recipe`, or the name or path of one.
        data_dir: the folder of data sets, see `datasets.open_dataset`.
        cache_dir: the folder whose `packed` holds the packed stores; None: the data dir.
        devices: the result of `take_devices`; None takes all. On several devices use the model
            within `devices.scope()`.
        pack_progress: called as (description, done, total) while a data set is packed.

    Raises:
        UserError: the recipe cannot be trained here.
    """
    return build_setup(
        as_recipe(recipe),
        devices or take_devices(),
        data_dir=data_dir,
        cache_dir=cache_dir,
        pack_progress=pack_progress,
    )


def build_setup(
    recipe: Recipe,
    devices: Devices,
    *,
    model: keras.Model | None = None,
    load_initial_weights: bool = True,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    pack_progress: PackProgress | None = None,
) -> TrainingSetup:
    """Makes the parts of a run; refuses a recipe that cannot be trained before reading any data.

    Args:
        model: see `fit`.
        load_initial_weights: whether `train.initial_weights` is read; a resumed run takes its
            weights from a checkpoint.
    """
    check_setup(recipe, devices, model)
    if load_initial_weights and recipe.train.initial_weights:
        find_weights(recipe.train.initial_weights)
    cluster = devices.cluster
    with Activity(f"opening {recipe.data.dataset}"):
        data = cluster.in_turns(
            f"opening {recipe.data.dataset}",
            partial(load_data, recipe, data_dir, cache_dir, pack_progress),
        )
        check_same_stores(data, cluster)
        stream = make_stream(recipe, data, part=cluster.part)
        check_length(recipe, stream)
    return setup_on(data, stream, recipe, devices, model, load_initial_weights)


def check_same_stores(data: Data, cluster: Cluster) -> None:
    """Refuses stores that differ between the machines of a run."""
    digests = {
        f"{split} images of {store.dataset} (their digest)": store.digest
        for split, store in data.stores.items()
    }
    remedy = "prepare the data set from the same source on each machine, or on a shared file system"
    cluster.agree(digests, remedy)


def check_setup(recipe: Recipe, devices: Devices, model: keras.Model | None = None) -> None:
    """Refuses a recipe that cannot be trained on these devices, whatever its images are."""
    num_parts = recipe.train.accumulate_steps
    devices.check_batch_size(
        recipe.data.batch_size // num_parts,
        "data.batch_size / train.accumulate_steps" if num_parts > 1 else "data.batch_size",
    )
    jit_compile(recipe.train.xla, devices)  # for its refusals
    check_batch_norm(recipe.train.batch_norm, devices)
    check_network(recipe, model)


def check_network(recipe: Recipe, model: keras.Model | None = None) -> None:
    """Refuses a recipe that cannot be trained on any devices, whatever its images are."""
    check_training(recipe)
    with Activity("checking the network"):
        network = outline_of(recipe) if model is None else model  # refuses what cannot be built
        if model is None:
            freeze_layers(network, recipe.train.freeze)
        elif recipe.train.initial_weights:
            raise UserError(
                "train.initial_weights is for the network of a recipe, and your own model has its "
                f"weights: remove it; received {recipe.train.initial_weights!r}"
            )
        elif recipe.train.freeze is not None:
            raise UserError(
                "train.freeze is for the network of a recipe: set layer.trainable = False in "
                f"layers of your own model instead; received {recipe.train.freeze!r}"
            )
        else:
            check_own_dtype(recipe, model)
        check_sizes(recipe, network, own_model=model is not None)
        check_statistics(recipe, network)
        check_group_options(recipe, network)


def setup_on(
    data: Data,
    stream: TrainingStream,
    recipe: Recipe,
    devices: Devices,
    model: keras.Model | None = None,
    load_initial_weights: bool = True,
) -> TrainingSetup:
    """Makes and compiles the model on images that are at hand; see `build_setup`."""
    with Activity("building the network"), devices.scope():
        network = make_model(recipe, data, model, load_initial_weights)
        frozen = freeze_layers(network, recipe.train.freeze)
        smaller = make_smaller(recipe, data, network, own_model=model is not None)
        trained = training_model(network)
        metrics = compile_for_training(trained, recipe, stream.steps_per_epoch, devices, smaller)
    return TrainingSetup(
        recipe=recipe,
        devices=devices,
        data=data,
        stream=stream,
        network=network,
        smaller=smaller,
        model=trained,
        metrics=metrics,
        own_model=model is not None,
        frozen=frozen,
    )
