"""The costs of a recipe's network: parameters and multiply-accumulates.

`recipes/costs.json` holds the costs of shipped recipes, so that a listing builds no network and
needs no Keras. After adding or changing a recipe, `python -m keras_imnet64.recipe.costs` rewrites
that table; a test builds every network and compares. `models.macs` counts.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.library_logs import import_tensorflow
from keras_imnet64.models import build_model, num_bands
from keras_imnet64.models.options import NetworkOptions
from keras_imnet64.recipe.loading import recipes_dir, shipped_recipes
from keras_imnet64.recipe.schema import Recipe

if TYPE_CHECKING:
    import keras


class Costs(TypedDict):
    """A row of the table; None where the number of classes is unknown."""

    parameters: int | None  # trainable
    macs: int | None  # multiply-accumulates per image


class Network(NamedTuple):
    """All that the costs depend on. An option at its default equals an option that is not given."""

    model: NetworkOptions
    image_size: int
    num_classes: int | None


def costs_of(recipe: Recipe) -> Costs:
    """Returns the costs of a recipe's network at its image size and number of classes.

    The costs of a shipped recipe's network are looked up; any other is built, which imports Keras.

    Raises:
        UserError: the network cannot be built.
    """
    if not recipe.num_classes:
        return {"parameters": None, "macs": None}
    known = _known().get(network_of(recipe))
    return known.copy() if known else measure(recipe)


def measure(recipe: Recipe) -> Costs:
    """Returns the costs as counted in the network itself."""
    import_tensorflow()  # without its messages; Keras would import it with them
    from keras_imnet64.models.macs import count_macs, count_parameters

    model, times = outline_of(recipe), max(1, _num_bands(recipe))
    return {"parameters": times * count_parameters(model), "macs": times * count_macs(model)}


def outline_of(recipe: Recipe) -> keras.Model:
    """Returns the recipe's network without weights; raises a UserError if it cannot be built.

    For a recipe of several branches, which all have the same shapes, this is the first branch.
    """
    from keras_imnet64.models.keras_private import without_weights

    options = recipe.model.options | ({"band": 0} if _num_bands(recipe) else {})
    with without_weights():
        return build_model(
            recipe.model.name,
            image_size=recipe.image_size,
            num_classes=recipe.num_classes or 2,  # unknown: check the network with any number
            **options,
        )


def network_of(recipe: Recipe) -> Network:
    """Returns what the recipe's costs depend on; any normalization counts as the same."""
    model = recipe.model.model_copy(update={"normalization": "imagenet"})
    return Network(model, recipe.image_size, recipe.num_classes)


def _num_bands(recipe: Recipe) -> int:
    return num_bands(recipe.model.name, recipe.model.options)


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
