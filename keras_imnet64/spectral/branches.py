"""The branches of a spectral recipe: their numbers, recipes and run folders.

A branch is an ordinary run of the recipe with `model.band` set to its number. Training a branch
needs only the recipe, so branches can also be trained on different machines.
"""

from pathlib import Path
from typing import Literal

from keras_imnet64.core.branches import BRANCH_FOLDERS, branch_name
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath
from keras_imnet64.models import num_bands
from keras_imnet64.recipe.difference import refuse_other_recipe
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import Run, check_folder


def bands_of(recipe: Recipe) -> range:
    """Returns the numbers of the branches that a recipe has; an ordinary recipe has none."""
    return range(num_bands(recipe.model.name, recipe.model.options))


def branch_recipe(recipe: Recipe, band: int) -> Recipe:
    """Returns the recipe of one branch.

    Raises:
        UserError: the recipe has no branches, or none of this number.
    """
    bands = bands_of(recipe)
    if not bands:
        raise UserError(
            f'recipe {recipe.name} has no branches: its model is not spectral with band "all"; '
            f"received --branch {band}"
        )
    if band not in bands:
        raise UserError(f"--branch must be from 0 to {bands[-1]}; received {band}")
    return with_band(recipe, band)


def with_band(recipe: Recipe, band: int | Literal["all"]) -> Recipe:
    """Returns a spectral recipe with another band."""
    model = recipe.model.model_copy(update={"band": band})
    return recipe.model_copy(update={"model": model})


def branch_folder(out_dir: StrPath, band: int) -> Path:
    """Returns the run folder of a branch."""
    return Path(out_dir) / branch_name(band)


def has_branches(out_dir: StrPath) -> bool:
    """Whether a folder holds run folders of branches, or their logs."""
    return any(Path(out_dir).glob(BRANCH_FOLDERS))


def branch_runs(out_dir: StrPath) -> list[Run]:
    """Returns the runs of the branches in a folder that have begun, in the order of their bands.

    Folders such as `branch-00.1`, in which --fresh keeps earlier runs, are left out.
    """
    files = Path(out_dir).glob(f"{BRANCH_FOLDERS}/recipe.toml")
    folders = [file.parent for file in files if file.parent.suffix == ""]
    in_order = sorted(folders, key=lambda folder: (len(folder.name), folder.name))  # 99, 100
    return [Run(folder) for folder in in_order]


def is_ordinary_run(run: Run) -> bool:
    """Whether a folder holds an ordinary run, not branches."""
    return run.recipe_file.exists() and not bands_of(load_recipe(run.recipe_file))


def check_branches_fit(out_dir: StrPath, recipe: Recipe | None) -> None:
    """Refuses a folder in which the branches of a recipe cannot be trained.

    Args:
        recipe: None allows branches of any recipe in the folder.

    Raises:
        UserError: the folder holds other files, or branches of another recipe.
    """
    run = Run(Path(out_dir))
    if is_ordinary_run(run):
        raise UserError(
            f"{out_dir} holds an ordinary run and cannot hold branches too; choose another --name "
            "or --out"
        )
    if not has_branches(out_dir):
        check_folder(out_dir)
    elif recipe and run.recipe_file.exists():
        check_same_recipe(run, recipe)


def check_same_recipe(run: Run, recipe: Recipe) -> None:
    """Refuses a folder whose training began with another recipe."""
    refuse_other_recipe(
        load_recipe(run.recipe_file),
        recipe,
        f"{run.path} was begun with another recipe",
        "give this ensemble another --name, or begin it anew with --fresh",
        reads_weights=True,
    )
