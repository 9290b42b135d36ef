"""Restores a run from its newest checkpoint.

What must not have changed since is compared elsewhere: the recipe in `run_folder.check_run`, the
images in `same_images`, the recipe of each checkpoint in `state.newest_checkpoint`.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from keras_imnet64.backend.cluster import Cluster
from keras_imnet64.core.console import say
from keras_imnet64.models.info import model_info
from keras_imnet64.recipe.difference import decisions
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import BestEpoch, RunState
from keras_imnet64.runs import Run
from keras_imnet64.training.state import (
    Arrays,
    Checkpoint,
    Variables,
    assign_variables,
    load_checkpoint,
    newest_checkpoint,
)


def restore_checkpoint(
    run: Run,
    recipe: Recipe,
    variables: Variables,
    cluster: Cluster,
    before: tuple[int, int] | None = None,
) -> tuple[RunState, Arrays]:
    """Fills the variables from the newest usable checkpoint, if any; see `newest_checkpoint`.

    Returns:
        The state of the run, and the values of the metrics within the epoch.
    """
    checkpoint = _same_checkpoint(run, recipe, cluster, before)
    if checkpoint is None:
        return RunState(0, 0, recipe=decisions(recipe)), {}
    state, arrays = checkpoint.run_state, checkpoint.arrays
    metrics = {path: array for path, array in arrays.items() if path.startswith("metrics/")}
    if not state.step:  # an epoch begins; Keras would reset only the metrics that it has built
        metrics = {path: np.zeros_like(array) for path, array in metrics.items()}
    assign_variables(variables, arrays | metrics, checkpoint.path)
    if not cluster.from_writer(partial(_is_best_there, state.best, run)):
        state = replace(state, best=None)
    say(f"resuming from {checkpoint.path}")
    return state, metrics


def _same_checkpoint(
    run: Run, recipe: Recipe, cluster: Cluster, before: tuple[int, int] | None
) -> Checkpoint | None:
    """Returns the checkpoint that the writer chooses; the other processes read the same file."""
    chosen: list[Checkpoint | None] = []

    def choose() -> str | None:
        chosen.append(newest_checkpoint(run.checkpoints, decisions(recipe), before))
        return chosen[0].path.name if chosen[0] else None

    name = cluster.from_writer(choose)
    if name is not None and not chosen:
        path = run.checkpoints / name
        cluster.wait_for_file(path)
        chosen.append(load_checkpoint(path))
    cluster.gather(None)  # the writer may delete the file only when all have read it
    return chosen[0] if chosen else None


def _is_best_there(best: BestEpoch | None, run: Run) -> bool:
    """Whether best.keras is of the best epoch that a checkpoint records; says so if it is not."""
    if best is None:
        return False
    if not run.best.exists():
        problem = f"of epoch {best.epoch} is gone"
    elif model_info(run.best).get("epoch") != best.epoch:
        problem = f"is of an epoch later than {best.epoch}, which is now repeated"
    else:
        return True
    say(f"{run.best} {problem}: the best epoch is chosen among the next ones")
    return False
