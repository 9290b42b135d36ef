"""Compares recipes in the settings that must not change when a run resumes."""

import json
import os
from collections.abc import Mapping

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.paths import expand
from keras_imnet64.core.tables import WITH_DEFAULTS
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.recipe.schema import Recipe

MAX_CHANGES_NAMED = 4
MAY_CHANGE = {
    "data.in_memory",
    "train.checkpoint_every",
    "train.on_nan",
    "train.rollback_factor",
    "train.max_rollbacks",
    "train.remat",
}


def refuse_other_recipe(
    old: Recipe, new: Recipe, problem: str, remedy: str, *, reads_weights: bool = False
) -> None:
    """Refuses a recipe that differs from an earlier one in its `decisions`.

    Args:
        reads_weights: whether runs that have not begun read `train.initial_weights`, so that the
            file must be the same.

    Raises:
        UserError: "<problem> (<the first differences>): <remedy>".
    """
    changes = difference(old, new)
    if reads_weights:
        changes += other_weights(old, new)
    if changes:
        raise UserError(f"{problem} ({'; '.join(changes[:MAX_CHANGES_NAMED])}): {remedy}")


def difference(old_recipe: Recipe, new_recipe: Recipe) -> list[str]:
    """Returns ["train.epochs: 40 -> 2", ...], the `decisions` in which two recipes differ.

    An option that a recipe leaves out is the same as its default.
    """
    old, new = (
        {k: v for k, v in all_settings(each, WITH_DEFAULTS).items() if k not in MAY_CHANGE}
        for each in (old_recipe, new_recipe)
    )
    keys = dict.fromkeys([*old, *new])
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def other_weights(old: Recipe, new: Recipe) -> list[str]:
    """Returns the paths of the initial weights, if they are not the same, as `difference` does."""
    paths = [each.train.initial_weights for each in (old, new)]
    files = [path and os.path.abspath(expand(path)) for path in paths]
    is_same = paths[0] == paths[1] or files[0] == files[1]
    return [] if is_same else [f"train.initial_weights: {paths[0]} -> {paths[1]}"]


def decisions(recipe: Recipe) -> JsonObject:
    """Returns the settings that must not change when a run resumes: {dotted key: JSON value}.

    Results, the recipe's name and the settings of MAY_CHANGE are left out. Checkpoints hold the
    rest, so its form must not change.
    """
    return {key: value for key, value in all_settings(recipe).items() if key not in MAY_CHANGE}


def all_settings(recipe: Recipe, form: str | None = None) -> JsonObject:
    """Returns the `decisions` and the settings of MAY_CHANGE: {dotted key: JSON value}.

    Args:
        form: WITH_DEFAULTS for all options; None for those that the recipe states.
    """
    content = recipe.model_dump(exclude={"reference", "measured", "name"}, context=form)
    content["augment"] = [{"op": None, "layer": None} | step for step in content["augment"]]
    flat = _flatten(content)
    if flat["train.initial_weights"]:  # the run has its weights, so its path may change
        flat["train.initial_weights"] = "a file"
    if "model.path" in flat:  # `model.sha256` says which file it is, wherever it lies
        flat["model.path"] = "a file"
    settings: JsonObject = json.loads(json.dumps(flat, default=str))
    return settings


def _flatten(table: Mapping[str, Json], prefix: str = "") -> JsonObject:
    flat: JsonObject = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
