"""Whose run folder it is: what may begin or go on in it, with which recipe, images and state."""

import contextlib
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from keras_imnet64.backend.environment import changed_settings, recorded_settings
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import write_atomic, write_json
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.models.info import model_info
from keras_imnet64.recipe.difference import decisions, refuse_other_recipe
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.runs import Run, check_folder, create_run, lock, remove_leftovers, set_aside
from keras_imnet64.training.same_images import forget_hashes, stores_of
from keras_imnet64.training.state import list_checkpoints, newest_checkpoint, write_state


def has_begun(out_dir):
    return Run(Path(out_dir)).recipe_file.exists()


def has_state(out_dir):
    """Whether a run has come as far as a checkpoint."""
    return bool(list_checkpoints(Run(Path(out_dir)).checkpoints))


def check_run(recipe, out_dir, fresh):
    """Refuse, before any work, a folder that this recipe cannot train into. Touches nothing."""
    run = check_folder(out_dir)
    if fresh or not has_begun(out_dir):
        return
    refuse_other_recipe(
        load_recipe(run.recipe_file),
        recipe,
        f"{run.path} holds a run of another recipe",
        "give this one another --name, or begin anew with --fresh",
    )
    if run.is_finished:
        raise UserError(
            f"the run in {run.path} is finished and is never overwritten: give another --name, or "
            "begin anew with --fresh, which keeps the old one under another name"
        )


def acquire_run(recipe, out_dir, fresh, stack):
    """The run folder, locked until `stack` ends, with the recipe in it."""
    if fresh and has_begun(out_dir):
        lock(create_run(out_dir)).close()  # nobody trains into it
        say(f"the run that was in {out_dir} is kept as {set_aside(out_dir)}")
    run = create_run(out_dir)
    stack.enter_context(lock(run))
    check_run(recipe, out_dir, fresh=False)  # another process may have finished it meanwhile
    remove_leftovers(run)
    write_atomic(run.recipe_file, recipe.to_toml())
    return run


def resume(run, recipe, variables, before=None):
    """Fill the variables from the newest whole checkpoint, if any; see `newest_checkpoint`.

    Returns:
        (progress dict of the run, {path: array} of the metrics within the epoch).
    """
    decided = decisions(recipe)
    found = newest_checkpoint(run.checkpoints, decided, before)
    if found is None:
        plateau = {"best": None, "wait": 0, "scale": 1.0}
        progress = {"epoch": 0, "step": 0, "history": [], "best": None, "plateau": plateau}
        return progress | {"recipe": decided, "rollbacks": []}, {}
    path, state, progress = found
    metric_state = {p: a for p, a in state.items() if p.startswith("metrics/")}
    if not progress["step"]:  # between epochs; Keras would reset only the metrics it has built
        metric_state = {path: np.zeros_like(array) for path, array in metric_state.items()}
    write_state(variables, state | metric_state, path)
    progress["best"] = still_there(progress["best"], run)
    say(f"going on from {path}")
    return progress, metric_state


def still_there(best, run):
    """The best epoch that a checkpoint knows, if best.keras is still, or already, of that epoch."""
    if best is None:
        return None
    if not run.best.exists():
        what = f"of epoch {best['epoch']} is gone"
    elif model_info(run.best).get("epoch") != best["epoch"]:
        what = f"is of an epoch later than {best['epoch']}, done again now"
    else:
        return best
    say(f"{run.best} {what}: it is chosen anew from here")
    return None


def write_environment(run, data, own_model, stream, devices, progress):
    """environment.json: the data's identity, and one entry for each process that trained."""
    packages = ("keras", "tensorflow", "jax", "tensorflow-datasets", "numpy", "keras-imnet64")
    entry = {
        "from_epoch": progress["epoch"],
        "from_step": progress["step"],
        "backend": devices.backend,
        "devices": list(devices.names),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in packages},
        "settings": recorded_settings(),
    }
    earlier = []
    if run.environment_file.exists():
        earlier = run.environment["processes"]
        for change in changed_settings(earlier[-1].get("settings", {}), entry["settings"]):
            say(f"settings {change}: last bits may differ from those of a run without a stop")
    stores = stores_of(data)
    write_json(
        run.environment_file,
        {
            "dataset": data.train.store.dataset,
            "verified": {split: bool(store.verified) for split, store in stores.items()},
            "digest": {split: store.digest for split, store in stores.items()},
            "own_model": own_model,
            "exactly_resumable": not stream.inexact_steps,
            "processes": [*earlier, entry],
        },
    )
    forget_hashes(run)


@contextlib.contextmanager
def report_os_errors(out_dir):
    """Turn a full disk and its like into a sentence."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        why = os_error_text(error, error.filename or out_dir)
        raise RunFailed(
            f"{why}{where}; what {out_dir} held before is intact, and the same command goes on "
            "from it"
        ) from error
