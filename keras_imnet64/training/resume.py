"""Restores a run from its newest checkpoint.

What must not have changed since is compared elsewhere: the recipe in `run_folder.check_run`, the
images in `same_images`, the recipe of each checkpoint in `state.newest_checkpoint`.
"""

from dataclasses import replace

import numpy as np

from keras_imnet64.core.console import say
from keras_imnet64.models.info import model_info
from keras_imnet64.recipe.difference import decisions
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import BestEpoch, RunState
from keras_imnet64.runs import Run
from keras_imnet64.training.state import Arrays, Variables, assign_variables, newest_checkpoint


def restore_checkpoint(
    run: Run, recipe: Recipe, variables: Variables, before: tuple[int, int] | None = None
) -> tuple[RunState, Arrays]:
    """Fills the variables from the newest usable checkpoint, if any; see `newest_checkpoint`.

    Returns:
        The state of the run, and the values of the metrics within the epoch.
    """
    checkpoint = newest_checkpoint(run.checkpoints, decisions(recipe), before)
    if checkpoint is None:
        return RunState(0, 0, recipe=decisions(recipe)), {}
    state, arrays = checkpoint.run_state, checkpoint.arrays
    metrics = {path: array for path, array in arrays.items() if path.startswith("metrics/")}
    if not state.step:  # an epoch begins; Keras would reset only the metrics that it has built
        metrics = {path: np.zeros_like(array) for path, array in metrics.items()}
    assign_variables(variables, arrays | metrics, checkpoint.path)
    state = replace(state, best=_check_best(state.best, run))
    say(f"resuming from {checkpoint.path}")
    return state, metrics


def _check_best(best: BestEpoch | None, run: Run) -> BestEpoch | None:
    """Returns the best epoch recorded in a checkpoint, or None if best.keras does not match it."""
    if best is None:
        return None
    if not run.best.exists():
        problem = f"of epoch {best.epoch} is gone"
    elif model_info(run.best).get("epoch") != best.epoch:
        problem = f"is of an epoch later than {best.epoch}, which is now repeated"
    else:
        return best
    say(f"{run.best} {problem}: the best epoch is chosen among the next ones")
    return None
