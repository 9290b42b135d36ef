"""The plan of a grid: which cells it has, and the recipe of each.

A setting is a combination of values, a cell one run of it: each setting has a cell for each seed.
Cells are numbered from 0; those of a setting follow each other.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.models import num_bands
from keras_imnet64.recipe.loading import check_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import Run
from keras_imnet64.sweep.axes import SEED, Axis, check_axes, take_axes, with_values

MAX_CELLS = 1000  # as many as a job array of Slurm has by default


def cell_folder(number: int) -> str:
    """Returns the name of a cell's run folder, within that of the sweep."""
    return f"cell-{number:03}"


@dataclass(frozen=True)
class Cell:
    """A run of a sweep."""

    number: int
    values: tuple[Json, ...]  # of the axes
    recipe: Recipe

    @property
    def folder(self) -> str:
        """The name of its run folder, within that of the sweep."""
        return cell_folder(self.number)

    def run(self, sweep_folder: Path) -> Run:
        return Run(sweep_folder / self.folder)


@dataclass(frozen=True)
class Plan:
    """The cells of a grid.

    Attributes:
        name: of the recipe.
        axes: the keys that differ between settings, without train.seed.
    """

    name: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(axis.key for axis in self.axes)


def plan_grid(content: JsonObject, grid: Sequence[Axis], num_seeds: int | None) -> Plan:
    """Returns the cells of all combinations of values and seeds.

    Args:
        content: the plain values of a recipe; lists in it are axes too, see `axes`.
        grid: further axes, which replace lists of the recipe.
        num_seeds: seeds of each setting, from the recipe's on; None for one, or for the values of
            train.seed if that is an axis.

    Raises:
        UserError: there is nothing to vary; the keys or values make no grid, or too large a one; a
            cell's recipe is wrong, or leaves no held-out images to choose by.
    """
    content = drop_results(content)
    given = {axis.key for axis in grid}
    axes = [*(axis for axis in take_axes(content) if axis.key not in given), *grid]
    check_axes(axes)
    seeds = _given_seeds(axes, num_seeds)
    axes = [axis for axis in axes if axis.path != SEED]
    if not axes and (seeds is None or len(seeds) < 2) and (num_seeds or 1) < 2:
        raise UserError(
            "there is nothing to vary: give --grid, --seeds, or a recipe in which a key has a list "
            "of values"
        )
    _check_size(axes, len(seeds) if seeds else num_seeds or 1)
    settings = list(product(*(axis.values for axis in axes)))
    first = check_cell_recipe(with_values(content, axes, settings[0], None))
    if seeds is None:
        seeds = tuple(first.train.seed + number for number in range(num_seeds or 1))
    cells = [
        Cell(number, values, check_cell_recipe(with_values(content, axes, values, seed)))
        for number, (values, seed) in enumerate(product(settings, seeds))
    ]
    return Plan(first.name, tuple(axes), seeds, tuple(cells))


def drop_results(content: JsonObject) -> JsonObject:
    """Returns a copy without published and measured results, which are not those of a cell."""
    others = {key: value for key, value in content.items() if key not in ("reference", "measured")}
    return copy.deepcopy(others)


def _given_seeds(axes: Sequence[Axis], num_seeds: int | None) -> tuple[int, ...] | None:
    """Returns the values of train.seed, None if it is no axis."""
    seeds = next((axis.values for axis in axes if axis.path == SEED), None)
    if seeds is not None and num_seeds is not None:
        raise UserError(
            f"--seeds {num_seeds} and the values of train.seed both set the seeds: give one of them"
        )
    return seeds


def _check_size(axes: Sequence[Axis], num_seeds: int) -> None:
    counts = [len(axis.values) for axis in axes] + [num_seeds]
    if math.prod(counts) > MAX_CELLS:
        raise UserError(
            f"a sweep has at most {MAX_CELLS:,} cells; received {math.prod(counts):,} "
            f"({' x '.join(f'{count:,}' for count in counts)}): give fewer values, or let --search "
            "choose"
        )


def check_cell_recipe(content: JsonObject) -> Recipe:
    """Returns the recipe of a cell; UserError if it is wrong or its runs cannot be compared."""
    recipe = check_recipe(content)
    if num_bands(recipe.model.name, recipe.model.options):
        raise UserError(
            f"recipe {recipe.name} trains an ensemble of branches, and a cell is a single network: "
            "set model.band to the number of one"
        )
    if recipe.selection != "holdout":
        select_on = recipe.train.select_on
        also = ', and train.select_on to "auto"' if select_on != "auto" else ""
        raise UserError(
            "a sweep chooses its best cell on training images that are held out, and recipe "
            f"{recipe.name} holds none out: set data.holdout to a number of them, such as 1000"
            f'{also}; received data.holdout = 0 and train.select_on = "{select_on}"'
        )
    return recipe
