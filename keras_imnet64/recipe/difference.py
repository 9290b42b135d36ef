"""Compares recipes in what decides how a run goes on."""

import json
from collections.abc import Iterator, Mapping

from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.recipe.schema import Recipe

MAY_CHANGE = {  # in a run that goes on
    "data.in_memory",
    "train.checkpoint_every",
    "train.on_nan",
    "train.rollback_factor",
    "train.max_rollbacks",
}


def difference(old: Recipe, new: Recipe) -> list[str]:
    """Returns ["train.epochs: 40 -> 2", ...], in what decides how a run goes on."""
    before, after = decisions(old), decisions(new)
    keys = dict.fromkeys([*before, *after])
    changed = [key for key in keys if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in changed]


def decisions(recipe: Recipe) -> JsonObject:
    """Returns {dotted key: value} without results and what may change in mid-run.

    Checkpoints hold this, so it stays as it was when they were written.
    """
    content = recipe.model_dump(exclude={"reference", "measured", "name"})
    content["augment"] = [{"op": None, "layer": None} | step for step in content["augment"]]
    flat = dict(_flatten(content))
    if flat["train.initial_weights"]:  # which a run has taken, wherever the file is now
        flat["train.initial_weights"] = "a file"
    decided = {key: value for key, value in flat.items() if key not in MAY_CHANGE}
    return json.loads(json.dumps(decided, default=str))


def _flatten(table: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
