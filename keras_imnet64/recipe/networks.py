"""The network of a recipe: its outline, without weights, and its graphs for smaller images.

`training.build` makes the network that trains; `costs` counts what an outline holds and does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.types import Options
from keras_imnet64.models import build_model, num_bands
from keras_imnet64.models.options import FileOptions
from keras_imnet64.recipe.schema import Recipe

if TYPE_CHECKING:
    import keras


def outline_of(
    recipe: Recipe,
    input_size: int | None = None,
    normalization: str | Options = "imagenet",
    num_classes: int | None = None,
) -> keras.Model:
    """Returns the recipe's network without weights; raises a UserError if it cannot be built.

    The network of a model's file has that file's weights. For a recipe of several branches, which
    all have the same shapes, this is the first branch.

    Args:
        input_size, normalization: as for `build_model`.
        num_classes: in place of the recipe's.
    """
    from keras_imnet64.models.keras_private import without_weights

    num_classes = num_classes or recipe.num_classes or 2  # unknown: any number checks the network
    if isinstance(recipe.model, FileOptions):
        from keras_imnet64.models.from_file import build_from_file

        return build_from_file(recipe.model, image_size=recipe.image_size, num_classes=num_classes)
    options = recipe.model.options | ({"band": 0} if num_branches(recipe) else {})
    with without_weights():
        return build_model(
            recipe.model.name,
            image_size=recipe.image_size,
            num_classes=num_classes,
            input_size=input_size,
            normalization=normalization,
            dtype=recipe.train.dtype if input_size else "float32",
            **options,
        )


def sized_network(
    recipe: Recipe, network: keras.Model, size: int, normalization: str | Options = "imagenet"
) -> keras.Model:
    """Returns the recipe's network, with its variables, in a graph for smaller images.

    Args:
        network: of the full size, or its outline.
        size: pixels per side.
        normalization: of images of that size, as for `build_model`.

    Raises:
        UserError: the network does not work on that size, or would need other weights.
    """
    from keras_imnet64.models.sizes import check_takes_sizes, network_at

    check_takes_sizes(network)
    if isinstance(recipe.model, FileOptions):
        return network_at(network, size)
    try:
        pattern = outline_of(recipe, size, normalization, network.outputs[0].shape[-1])
    except Exception as error:  # a layer may raise any exception where a map would be empty
        raise UserError(
            f"train.sizes: {recipe.model.name} does not work on {size} pixels ({reason(error)}): "
            "choose a larger size"
        ) from error
    return network_at(network, size, pattern)


def num_branches(recipe: Recipe) -> int:
    """Returns the number of branches of a recipe's ensemble, or 0 for any other network."""
    return num_bands(recipe.model.name, recipe.model.options)
