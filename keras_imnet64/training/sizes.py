"""Progressive resolution: the networks that train on the smaller images of `train.sizes`.

Each is the network of the full size, in a graph for other images (`models.sizes`): the model that
trains calls the graph of the images that it is given, so that variables, optimizer, checkpoints
and the files that ship know nothing of sizes.
"""

from collections.abc import Mapping

import keras
import numpy as np

from keras_imnet64.core.types import Options, Tensor
from keras_imnet64.data.augment.shrink import shrink_mean
from keras_imnet64.models.keras_private import without_weights
from keras_imnet64.models.sizes import network_at
from keras_imnet64.recipe.networks import sized_network
from keras_imnet64.recipe.schema import Recipe


def smaller_networks(
    network: keras.Model, recipe: Recipe, normalization: str | Options, own_model: bool
) -> dict[int, keras.Model]:
    """Returns {pixels per side: the network in a graph for them} for `train.sizes`.

    Args:
        network: of the full size; the others share its layers and variables.
        normalization: the network's, see `build_model`; a mean image is shrunk as images are.
        own_model: whether the network is the caller's and not the recipe's.

    Raises:
        UserError: the network does not work on a size, or would need other weights.
    """
    if own_model:
        return {size: network_at(network, size) for size in recipe.smaller_sizes}
    return {
        size: sized_network(recipe, network, size, shrink_normalization(normalization, size))
        for size in recipe.smaller_sizes
    }


def check_sizes(recipe: Recipe, network: keras.Model, own_model: bool) -> None:
    """Refuses a network that does not work on the sizes of `train.sizes`; needs no images.

    Args:
        network: the caller's, or the outline of the recipe's.
    """
    with without_weights():
        smaller_networks(network, recipe, "imagenet", own_model)


def shrink_normalization(normalization: str | Options, size: int) -> str | Options:
    """Returns the normalization of smaller images: a mean for each pixel is shrunk."""
    if isinstance(normalization, str):
        return normalization
    mean = np.asarray(normalization["mean"])
    return {**normalization, "mean": shrink_mean(mean, size)} if mean.ndim == 3 else normalization


def set_sizes(model: keras.Model, smaller: Mapping[int, keras.Model]) -> None:
    """Lets a model take images of further sizes, each with a model of the same variables.

    The size of a batch must be known when a step is compiled: `Model.fit` is called once for each
    size, and `train_function` is made anew.
    """
    if not smaller:
        return
    plain_call = model.call

    def call(inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        size = inputs.shape[1]
        if size is None:
            raise ValueError(
                "the size of the images changes: call model.make_train_function(force=True) before "
                "the first batch of another size"
            )
        sized = smaller.get(size)
        return (sized.call if sized else plain_call)(inputs, training=training, mask=mask)

    model.call = call
    model.input_spec = keras.InputSpec(shape=(None, None, None, 3))
