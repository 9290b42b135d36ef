"""Checks and prepares a run folder: whether a run may start or resume there.

`runs` has the folder's paths; `resume` restores its newest checkpoint.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

from keras_imnet64.backend.cluster import Cluster
from keras_imnet64.backend.environment import changed_settings, recorded_settings
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import write_atomic, write_json
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.tables import WITH_DEFAULTS
from keras_imnet64.core.types import StrPath
from keras_imnet64.core.validation import to_json
from keras_imnet64.models.from_file import find_file
from keras_imnet64.models.options import FileOptions
from keras_imnet64.recipe.difference import all_settings, refuse_other_recipe
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import Environment, PerSplit, ProcessEntry, RunState
from keras_imnet64.runs import (
    Run,
    check_folder,
    create_run,
    lock,
    remove_leftovers,
    remove_unbegun,
    set_aside,
)
from keras_imnet64.training.same_images import delete_hashes
from keras_imnet64.training.setup import TrainingSetup
from keras_imnet64.training.state import list_checkpoints

RECORDED_PACKAGES = ("keras", "tensorflow", "jax", "tensorflow-datasets", "numpy", "keras-imnet64")


def has_begun(out_dir: StrPath) -> bool:
    return Run(Path(out_dir)).recipe_file.exists()


def has_checkpoint(out_dir: StrPath) -> bool:
    return bool(list_checkpoints(Run(Path(out_dir)).checkpoints))


def check_run(recipe: Recipe, out_dir: StrPath, fresh: bool) -> None:
    """Refuses a folder that this recipe cannot train into; changes nothing."""
    run = check_folder(out_dir)
    if fresh or not has_begun(out_dir):
        return
    if isinstance(recipe.model, FileOptions):
        find_file(recipe.model)  # without it, its recipe would seem to be another one
    refuse_other_recipe(
        load_recipe(run.recipe_file),
        recipe,
        f"{run.path} holds a run of another recipe",
        "choose another --name, or start over with --fresh",
    )
    if run.is_finished:
        raise UserError(
            f"the run in {run.path} is finished and is never overwritten: choose another --name, "
            "or start over with --fresh, which keeps the old run under another name"
        )


def check_together(recipe: Recipe, fresh: bool, cluster: Cluster) -> None:
    """Refuses processes of a run that differ in their recipe, its start or their versions."""
    versions = {f"version of {name}": version(name) for name in RECORDED_PACKAGES}
    settings = {
        f"setting {key}": str(value) for key, value in all_settings(recipe, WITH_DEFAULTS).items()
    }
    del settings["setting data.in_memory"]  # machines may have more or less of it
    cluster.agree(
        versions | settings | {"--fresh": str(fresh)},
        "install the same versions and start the same command on each machine",
    )


def keep_initial_weights(recipe: Recipe, out_dir: StrPath, cluster: Cluster) -> Recipe:
    """Returns the recipe of a run that resumes, with the path of the weights that it began with."""
    run = Run(Path(out_dir))
    path = cluster.from_writer(lambda: load_recipe(run.recipe_file).train.initial_weights)
    if path == recipe.train.initial_weights:
        return recipe
    if cluster.is_writer:
        say(f"note: this run began with the weights of {path}, and does not read any again")
    train = recipe.train.model_copy(update={"initial_weights": path})
    return recipe.model_copy(update={"train": train})


@contextmanager
def acquire_together(
    recipe: Recipe, out_dir: StrPath, fresh: bool, cluster: Cluster
) -> Iterator[Run]:
    """Does what `acquire_run` does, on the writer; the other processes must see the folder."""
    run, is_new = Run(Path(out_dir)), not has_begun(out_dir)
    with ExitStack() as held:
        cluster.from_writer(
            lambda: str(held.enter_context(acquire_run(recipe, out_dir, fresh)).path)
        )
        try:
            cluster.check_shared(run.path)
        except UserError:
            if cluster.is_writer and is_new:
                remove_unbegun(run)
            raise
        yield run


@contextmanager
def acquire_run(recipe: Recipe, out_dir: StrPath, fresh: bool) -> Iterator[Run]:
    """Locks the run folder within the context, and writes the recipe into it."""
    if fresh and has_begun(out_dir):
        aside = set_aside(out_dir, [create_run(out_dir)])
        say(f"the earlier run in {out_dir} is kept as {aside}")
    run = create_run(out_dir)
    with lock(run):
        check_run(recipe, out_dir, fresh=False)  # another process may have finished it meanwhile
        remove_leftovers(run)
        write_atomic(run.recipe_file, recipe.to_toml())
        yield run


def write_environment(run: Run, setup: TrainingSetup, state: RunState) -> None:
    """Writes environment.json: the data's identity, and one entry for each process that trained."""
    process = ProcessEntry(
        from_epoch=state.epoch,
        from_step=state.step,
        backend=setup.devices.backend,
        devices=setup.devices.names,
        python=sys.version.split()[0],
        versions={name: version(name) for name in RECORDED_PACKAGES},
        settings=recorded_settings(),
        num_processes=setup.devices.cluster.num_processes,
    )
    earlier: tuple[ProcessEntry, ...] = ()
    if run.environment_file.exists():
        earlier = run.read_environment().processes
        for change in changed_settings(earlier[-1].settings, process.settings):
            say(f"setting {change}: last bits may differ from those of an uninterrupted run")
    train, final = setup.data.train.store, setup.data.final.store
    environment = Environment(
        dataset=train.dataset,
        verified=PerSplit(bool(train.verified), bool(final.verified)),
        digest=PerSplit(train.digest, final.digest),
        own_model=setup.own_model,
        exactly_resumable=not setup.stream.inexact_steps,
        processes=(*earlier, process),
    )
    write_json(run.environment_file, to_json(environment))
    delete_hashes(run)


@contextmanager
def report_os_errors(out_dir: StrPath) -> Iterator[None]:
    """Raises a RunFailed for an error of the system, such as a full disk."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        problem = os_error_text(error, error.filename or out_dir)
        raise RunFailed(
            f"{problem}{where}; the files that {out_dir} held before are intact, and the same "
            "command resumes from them"
        ) from error
