"""Finds the members of an ensemble: finished branches of one recipe, data set and class order."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_imnet64.core.branches import branch_name
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath
from keras_imnet64.models.info import read_model_info
from keras_imnet64.recipe.difference import refuse_other_recipe
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import ModelInfo
from keras_imnet64.runs import Run, not_finished, open_run
from keras_imnet64.spectral.branches import (
    bands_of,
    branch_folder,
    branch_runs,
    is_ordinary_run,
    with_band,
)
from keras_imnet64.training.data import Data


@dataclass(frozen=True)
class Member:
    """A trained branch."""

    band: int
    run: Run
    recipe: Recipe
    info: ModelInfo

    @property
    def name(self) -> str:
        return self.run.path.name


def find_members(
    run: Run, branches: Sequence[int] | None, allow_missing: bool
) -> tuple[list[Member], list[str]]:
    """Finds the finished branches of a folder, all of one recipe and one class order.

    Args:
        branches: numbers of the branches to join; None for all branches of the recipe.
        allow_missing: leave out the branches that are not finished.

    Returns:
        (the members, the names of the branches that are left out).

    Raises:
        UserError: the folder holds no branches, or branches that do not belong together; a branch
            is missing, or the recipe has no branch of a number.
    """
    if is_ordinary_run(run):
        raise UserError(f"{run.path} holds an ordinary run; name the folder that holds branches")
    present = branch_runs(run.path)
    if not present:
        raise UserError(
            f"{run.path} has no branches: train them with `fit` and a recipe with band all"
        )
    recipe = load_recipe(present[0].recipe_file)
    bands = bands_of(with_band(recipe, "all"))
    if not bands:
        raise UserError(f"{present[0].path} holds a run of an ordinary recipe, not a branch")
    wanted = sorted(set(branches)) if branches else bands
    for band in wanted:
        if band not in bands:
            raise UserError(
                f"--branches must be from 0 to {bands[-1]} for {recipe.name}; received {band}"
            )
    missing = [band for band in wanted if not Run(branch_folder(run.path, band)).is_finished]
    names = [branch_name(band) for band in missing]
    if missing and not allow_missing:
        raise UserError(
            f"{', '.join(names)} of {run.path} are not finished: train them with `fit --branch`, "
            "choose others with --branches, or join the rest with --allow-missing"
        )
    members = [_open_member(run, band) for band in wanted if band not in missing]
    if not members:
        raise UserError(f"no branch of {run.path} is finished")
    for member in members[1:]:
        _check_belongs(member, members[0])
    if names:
        say(f"left out, not finished: {', '.join(names)}")
    return members, names


def open_single(path: StrPath, first: Member) -> Run:
    """Returns the finished run of the single network that the branches are compared with.

    Raises:
        UserError: the run is not finished or damaged, or was trained on other data or classes than
            the first member.
    """
    run = open_run(path)
    if not run.is_finished:
        raise not_finished(run)
    run.metrics  # noqa: B018 (reading them refuses a damaged file now)
    info = read_model_info(run.model)
    for subject, is_same in (
        ("data", info.dataset == first.info.dataset),
        ("classes", info.wnids == first.info.wnids),
    ):
        if not is_same:
            raise UserError(
                f"--single {path} was trained on other {subject} than the branches; only scores on "
                "the same images are comparable"
            )
    return run


def check_same_images(members: Sequence[Member], data: Data) -> None:
    """Refuses branches whose training or validation images differ from those on this machine."""
    for member in members:
        trained_on = member.run.read_environment().digest
        for split, digest, local_digest in (
            ("train", trained_on.train, data.train.store.digest),
            ("validation", trained_on.validation, data.final.store.digest),
        ):
            if digest != local_digest:
                raise UserError(
                    f"{member.run.path} was trained on other {split} images than those on this "
                    "machine; only branches of the same images can be joined"
                )


def _open_member(run: Run, band: int) -> Member:
    """Reads a finished branch; UserError if its folder or its file holds another band."""
    branch = Run(branch_folder(run.path, band))
    recipe = load_recipe(branch.recipe_file)
    info = read_model_info(branch.model)
    band_in_file = (info.recipe or {}).get("model", {}).get("band")
    for found, place in (
        (recipe.model.options.get("band"), branch.path),
        (band_in_file, branch.model),
    ):
        if found != band:
            raise UserError(f"{place} holds band {found}, not band {band} as its folder says")
    return Member(band, branch, recipe, info)


def _check_belongs(member: Member, first: Member) -> None:
    """Refuses a branch of another recipe or class order than the first member."""
    refuse_other_recipe(
        with_band(first.recipe, 0),
        with_band(member.recipe, 0),
        f"{member.run.path} was trained with another recipe than {first.name}",
        "only branches of one recipe can be joined",
    )
    if member.info.wnids != first.info.wnids:
        raise UserError(
            f"{member.run.path} has its classes in another order than {first.name}; only branches "
            "of one data set can be joined"
        )
