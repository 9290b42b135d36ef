"""The costs of a recipe's network: parameters and multiply-accumulates.

`recipes/costs.json` holds the costs of shipped recipes, so that a listing builds no network and
needs no Keras. After adding or changing a recipe, `python -m keras_imnet64.recipe.costs` rewrites
that table; a test builds every network and compares. `networks` builds, `models.macs` counts.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

from keras_imnet64.backend.loading import import_tensorflow
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.paths import expand
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.models.options import FileOptions, NetworkOptions
from keras_imnet64.recipe.loading import recipes_dir, shipped_recipes
from keras_imnet64.recipe.networks import num_branches, outline_of, sized_network
from keras_imnet64.recipe.schema import Recipe


class Costs(TypedDict):
    """A row of the table; None where the number of classes, or a file's network, is unknown."""

    parameters: int | None  # trainable
    macs: int | None  # multiply-accumulates per image of the full size
    smaller: NotRequired[dict[str, int]]  # the same per image of each smaller size of train.sizes


class Network(NamedTuple):
    """All that the costs depend on. An option at its default equals an option that is not given."""

    model: NetworkOptions
    image_size: int
    num_classes: int | None
    smaller_sizes: tuple[int, ...]


def costs_of(recipe: Recipe) -> Costs:
    """Returns the costs of a recipe's network at its image size and number of classes.

    The costs of a shipped recipe's network are looked up; any other is built, which imports Keras.

    Raises:
        UserError: the network cannot be built.
    """
    known = _known().get(network_of(recipe))
    return known.copy() if known else measure(recipe)


def measure(recipe: Recipe) -> Costs:
    """Returns the costs as counted in the network itself.

    Raises:
        UserError: the network cannot be built, or does not work on a size of `train.sizes`.
    """
    if _is_unknown(recipe):
        return {"parameters": None, "macs": None}
    import_tensorflow()  # without its messages; Keras would import it with them
    from keras_imnet64.models.keras_private import without_weights
    from keras_imnet64.models.macs import count_macs, count_parameters

    model, times = outline_of(recipe), max(1, num_branches(recipe))
    costs: Costs = {
        "parameters": times * count_parameters(model),
        "macs": times * count_macs(model),
    }
    if recipe.smaller_sizes:
        with without_weights():
            outlines = {size: sized_network(recipe, model, size) for size in recipe.smaller_sizes}
        costs["smaller"] = {str(size): count_macs(each) for size, each in outlines.items()}
    return costs


def parameters_that_train(recipe: Recipe, costs: Costs) -> int | None:
    """Returns how many of a recipe's parameters train: all but those that `train.freeze` freezes.

    Raises:
        UserError: the network cannot be built, or `train.freeze` does not fit it.
    """
    if costs["parameters"] is None or recipe.train.freeze is None:
        return costs["parameters"]
    import_tensorflow()
    from keras_imnet64.models.freeze import freeze_layers

    frozen = freeze_layers(outline_of(recipe), recipe.train.freeze).num_parameters
    return costs["parameters"] - max(1, num_branches(recipe)) * frozen


def macs_of_run(recipe: Recipe, costs: Costs) -> int | None:
    """Returns the multiply-accumulates of all forward passes of a run's training steps.

    The backward pass, which takes about twice as many, and scoring do not count. None where the
    number of images is not known: it is from `data.steps_per_epoch` or the data set's name.
    """
    images, macs = images_of_epoch(recipe), costs["macs"]
    if images is None or macs is None:
        return None
    smaller = costs.get("smaller", {})
    return sum(
        (stage.end_epoch - stage.first_epoch) * images * smaller.get(str(stage.image_size), macs)
        for stage in recipe.size_stages
    )


def images_of_epoch(recipe: Recipe) -> int | None:
    """Returns the images of an epoch's whole batches; None if only the images could tell."""
    data, dataset = recipe.data, find_dataset(recipe.data.dataset)
    if data.steps_per_epoch:
        return data.steps_per_epoch * data.batch_size
    count = dataset.splits.get("train")
    if count is None or data.classes not in (None, dataset.num_classes):
        return None
    samples = (count - data.holdout) * (2 if data.mirror == "both" else 1)
    return samples // data.batch_size * data.batch_size


def network_of(recipe: Recipe) -> Network:
    """Returns what the recipe's costs depend on; any normalization counts as the same."""
    model = recipe.model.model_copy(update={"normalization": "imagenet"})
    return Network(model, recipe.image_size, recipe.num_classes, recipe.smaller_sizes)


def _is_unknown(recipe: Recipe) -> bool:
    """Whether the images alone tell the number of classes, or the model's file is not there."""
    model = recipe.model
    is_missing = isinstance(model, FileOptions) and not expand(model.path).is_file()
    return recipe.num_classes is None or is_missing


def table_file() -> Path:
    return recipes_dir() / "costs.json"


def read_table() -> dict[str, Costs]:
    """Returns {recipe name: costs} as checked in."""
    return json.loads(table_file().read_text("utf-8"))


def write_table() -> None:
    """Measures every shipped recipe and writes the table, a row per line."""
    rows = {name: json.dumps(measure(recipe)) for name, recipe in shipped_recipes().items()}
    lines = [f"  {json.dumps(name)}: {row}" for name, row in rows.items()]
    write_atomic(table_file(), "{\n" + ",\n".join(lines) + "\n}\n")


@cache
def _known() -> dict[Network, Costs]:
    """Returns the costs in the table by network."""
    table = read_table()
    shipped = shipped_recipes().items()
    return {network_of(recipe): table[name] for name, recipe in shipped if name in table}


if __name__ == "__main__":
    write_table()
    print(f"{table_file()} has the costs of {len(read_table())} recipes")
