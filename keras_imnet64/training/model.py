"""Makes the model of a run: the recipe's network for the run's images, or the caller's model."""

import contextlib
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Options
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation.evaluate import check_model_fits
from keras_imnet64.models.contract import gives_probabilities
from keras_imnet64.models.from_file import replace_head
from keras_imnet64.models.init import seed_generators
from keras_imnet64.models.keras_private import all_layers
from keras_imnet64.models.load import check_loads_anywhere
from keras_imnet64.models.options import (
    FILE,
    WHITENING,
    ChannelNormalization,
    FileOptions,
    NetworkOptions,
    SpectralOptions,
)
from keras_imnet64.models.packages import needed_packages
from keras_imnet64.models.spectral import band_mean_and_std, band_of
from keras_imnet64.models.warm_start import warm_start
from keras_imnet64.models.whitening import is_unmeasured, set_filters
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import ModelInfo
from keras_imnet64.training.build import make_network
from keras_imnet64.training.data import Data
from keras_imnet64.training.sizes import smaller_networks

MAX_MEASURED_IMAGES = 10_000  # for the mean and standard deviation of a band
MAX_WHITENED_IMAGES = 5_000  # 64 pixels per side give 20 million patches
MEASURING_BATCH_SIZE = 100


def make_model(
    recipe: Recipe,
    data: Data,
    own_model: keras.Model | None = None,
    load_initial_weights: bool = True,
) -> keras.Model:
    """Returns the training model with its initial weights.

    Args:
        own_model: the caller's model, which is checked and returned.
        load_initial_weights: whether `train.initial_weights` is read, if the recipe has it, the
            filters of `model.whitening` are measured, and the head of a model from a file is drawn;
            not where a checkpoint has the weights.
    """
    if own_model is not None:
        check_model_fits(own_model, data.train, "your model", data.view)
        needed = check_loads_anywhere(own_model, "your model")
        if gives_probabilities(own_model):
            raise UserError(
                "your model gives probabilities, but the loss takes logits: remove the softmax"
            )
        if is_unmeasured(own_model):
            raise UserError(
                'your model\'s layer "whitening" has no filters yet, since the images are measured '
                "for a recipe's own network alone: name the network in the recipe, or call "
                "keras_imnet64.models.whitening.set_filters"
            )
        say_needed(needed)
        seed_generators(own_model, recipe.train.seed)
        return own_model
    normalization = resolve_normalization(recipe.model, data)
    model = make_network(
        recipe,
        image_size=data.image_size,
        num_classes=data.num_classes,
        normalization=normalization,
    )
    if recipe.model.all_options.get(WHITENING) and load_initial_weights:
        with Activity("measuring the patches of training images"):
            whitening = recipe.model.all_options[WHITENING]
            set_filters(model, one_view(data, MAX_WHITENED_IMAGES), normalization, whitening)
    if isinstance(recipe.model, FileOptions):
        say_needed(needed_packages(keras.saving.serialize_keras_object(model)))
    if isinstance(recipe.model, FileOptions) and load_initial_weights:
        path = recipe.model.path
        for variable in replace_head(model, path, data.train.wnids, recipe.train.seed):
            say(f"not taken from {path}: {variable}")
    if recipe.train.initial_weights and load_initial_weights:
        path = recipe.train.initial_weights
        skipped, differences = warm_start(model, path, data.train.wnids)
        for variable in skipped:
            say(f"not taken from {path}: {variable}")
        for layer in differences:
            say(f"taken from {path}, although it computes something else there: {layer}")
    return model


def check_own_dtype(recipe: Recipe, model: keras.Model) -> None:
    """Refuses a model of the caller's that computes in another dtype than the recipe states."""
    dtypes = {layer.compute_dtype for layer in all_layers(model) if layer.weights}
    stated, is_mixed = recipe.train.dtype, "bfloat16" in dtypes
    if "float16" in dtypes:
        raise UserError(
            "your model computes in float16, in which gradients vanish without a scaling of the "
            'loss, which is not supported: build it with the dtype "mixed_bfloat16" or "float32"'
        )
    if is_mixed != (stated == "mixed_bfloat16"):
        raise UserError(
            f'train.dtype is "{stated}", but your own model computes in '
            f"{'bfloat16' if is_mixed else 'float32'}: set it to "
            f'"{"mixed_bfloat16" if is_mixed else "float32"}", or build the model with the dtype '
            f'"{stated}"'
        )


@contextlib.contextmanager
def as_before(model: keras.Model | None) -> Iterator[None]:
    """Gives back a model of the caller's as it was, but for its weights, when the block ends.

    While it trains, its variables have the L2 penalty of the recipe, and its batch normalisation is
    synchronised over several devices.
    """
    own_layers = all_layers(model) if model is not None else []
    norms = [layer for layer in own_layers if isinstance(layer, keras.layers.BatchNormalization)]
    variables = model.trainable_variables if model is not None else []
    synchronized = [norm.synchronized for norm in norms]
    regularizers = [variable.regularizer for variable in variables]
    try:
        yield
    finally:
        for norm, before in zip(norms, synchronized, strict=True):
            norm.synchronized = before
        for variable, regularizer in zip(variables, regularizers, strict=True):
            variable.regularizer = regularizer


def say_needed(packages: Iterable[str]) -> None:
    """Notes which packages beside Keras the model files of a run need."""
    for package in packages:
        say(f"note: the model files of this run need {package} to be loaded")


def make_smaller(
    recipe: Recipe, data: Data, network: keras.Model, own_model: bool
) -> dict[int, keras.Model]:
    """Returns the network for the smaller images of `train.sizes`, see `smaller_networks`."""
    if not recipe.smaller_sizes:
        return {}
    normalization = "imagenet" if own_model else resolve_normalization(recipe.model, data)
    return smaller_networks(network, recipe, normalization, own_model)


def resolve_normalization(network: NetworkOptions, data: Data) -> str | Options:
    """Returns the recipe's normalization as numbers on the 0..1 scale, "imagenet" or "file".

    For "mean_image" and "dataset" the numbers are measured on the training images.
    """
    normalization = network.normalization
    if isinstance(normalization, ChannelNormalization):
        return normalization.model_dump()
    if normalization in ("imagenet", FILE):
        return normalization
    if isinstance(network, SpectralOptions):
        assert isinstance(network.band, int)  # `check_training` refuses "all"
        return measure_band(normalization, data, network.factor, network.band)
    if normalization == "mean_image":
        assert data.mean_image is not None  # recipes refuse it for images of any size
        return {"mean": data.mean_image / 255, "std": 1.0}
    return {"mean": data.channel_mean / 255, "std": data.channel_std / 255}


def measure_band(normalization: str, data: Data, factor: int, band: int) -> Options:
    """Returns the normalization of a band, measured on one crop of evenly spaced images."""
    if normalization == "mean_image":
        assert data.mean_image is not None  # as in `resolve_normalization`
        return {"mean": band_of(data.mean_image, factor, band) / 255, "std": 1.0}
    return band_mean_and_std(one_view(data, MAX_MEASURED_IMAGES), factor, band)


def one_view(data: Data, max_images: int) -> Iterator[np.ndarray]:
    """Yields one crop of evenly spaced training images, uint8 [B, H, W, 3], not augmented.

    Raises:
        ImageFailed: an image is gone, or has changed since it was indexed.
    """
    images = data.train.evenly_spaced(max_images)
    batch_size = min(len(images), MEASURING_BATCH_SIZE)
    batches = evaluation_batches(images, batch_size, data.one_crop_view)
    with as_run_failed(images.store):
        for pixels, _, weights in batches.as_numpy_iterator():
            yield pixels[weights > 0]


def model_info_of(recipe: Recipe, data: Data, own_model: bool, epoch: int) -> ModelInfo:
    """Returns what a run's model file of an epoch, counted from 1, states about itself.

    Args:
        own_model: whether the network is the caller's and not the recipe's.
    """
    store, view = data.train.store, data.view
    return ModelInfo(
        wnids=tuple(data.train.wnids),
        class_names=tuple(data.train.class_names),
        image_size=data.image_size,
        dataset=store.dataset,
        resize_filter=view.resize_filter if view else find_dataset(store.dataset).resize_filter,
        ten_crop=view.ten_crop if view else None,
        resize=view.resize if view and not store.image_size else recipe.evaluation.resize,
        views=None if recipe.evaluation.views == "none" else recipe.evaluation.views,
        verified=bool(store.verified),
        own_model=own_model,
        recipe=recipe.without_results(),
        epoch=epoch,
    )
