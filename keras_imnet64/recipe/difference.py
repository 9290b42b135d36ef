"""Compares recipes in what decides how a run goes on."""

import json

from keras_imnet64.core.errors import UserError


def difference(old, new):
    """["train.epochs: 40 -> 2", ...] between two recipes, in what decides how a run goes on."""
    old, new = decisions(old), decisions(new)
    keys = dict.fromkeys([*old, *new])
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def check_same_recipe(run_dir, begun, recipe, remedy):
    """Refuses to resume a run with another recipe than it was begun with.

    Args:
        run_dir: the run's folder, for the message.
        begun: the recipe that the run was begun with.
        remedy: the end of the message, which tells the user what to do.

    Raises:
        UserError: the two differ in a decision.
    """
    changes = difference(begun, recipe)
    if changes:
        raise UserError(
            f"{run_dir} was begun with another recipe ({'; '.join(changes[:4])}): {remedy}"
        )


def decisions(recipe):
    """{dotted key: value} as JSON has them, without results and what may change in mid-run."""
    flat = _flatten(recipe.model_dump(exclude={"reference", "measured", "name"}))
    if flat["train.initial_weights"]:  # which a run has taken, wherever the file is now
        flat["train.initial_weights"] = "a file"
    decided = {key: value for key, value in flat.items() if key not in MAY_CHANGE}
    return json.loads(json.dumps(decided, default=str))


def _flatten(table, prefix=""):
    flat = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


MAY_CHANGE = {  # in a run that goes on
    "data.in_memory",
    "train.checkpoint_every",
    "train.on_nan",
    "train.rollback_factor",
    "train.max_rollbacks",
}
