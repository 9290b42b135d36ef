"""Trains a recipe of any kind: an ordinary run, all branches of a spectral recipe, or one branch.

For all branches, child processes train (see the package `jobs`), and this process loads no backend.
Several such processes may have one folder, on any machines: they share out its branches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.backend.launchers import Place, check_backend
from keras_imnet64.backend.loading import chosen_backend
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_together
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.jobs.claims import SUMMARY, Claims
from keras_imnet64.jobs.machine import Machine
from keras_imnet64.jobs.running import Job, again, raise_unfinished, run_jobs
from keras_imnet64.jobs.shares import MachineShare
from keras_imnet64.jobs.sharing import SharedJobs
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import Run, lock, set_aside
from keras_imnet64.spectral.branches import (
    bands_of,
    branch_folder,
    branch_recipe,
    branch_runs,
    check_branches_fit,
    check_same_recipe,
    has_branches,
    with_band,
)

if TYPE_CHECKING:
    from keras_imnet64.backend.devices import Devices


@dataclass(frozen=True)
class Fitted:
    """What was trained.

    Attributes:
        scores: run (the folder) and its final scores: the content of metrics.json for an ordinary
            run or one branch, {branch: final scores} for all branches.
        is_reported: whether this process reports the scores. Of several that train together, one
            does.
    """

    scores: JsonObject
    is_reported: bool


def trains_all(recipe: Recipe, branch: int | None) -> bool:
    """Whether all branches of a recipe are to be trained, each as a run of its own."""
    return branch is None and bool(bands_of(recipe))


def fit_recipe(
    recipe: Recipe,
    out_dir: StrPath,
    *,
    branch: int | None = None,
    jobs: int = 1,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: str | None = None,
    virtual_devices: int | None = None,
    fresh: bool = False,
    place: Place | None = None,
    pack_progress: PackProgress | None = None,
    on_finished: Callable[[Run, "Devices"], None] | None = None,
) -> Fitted:
    """Trains a recipe into a folder: all its branches if it has branches, otherwise one run.

    Args:
        branch: the number of the only branch to train.
        jobs, data_dir, cache_dir, devices, virtual_devices: see `Machine`.
        fresh: start over; what was there is kept under another name.
        place: where this process stands among those that train one run, see `take_devices`.
        pack_progress: see `training.fit`.
        on_finished: called with an ordinary run, or that of one branch, and the devices on which it
            was trained; not for a run of several processes.

    Raises:
        UserError, RunFailed, Stopped: see `fit_branches` and `training.fit`.
    """
    if trains_all(recipe, branch) and place is not None:
        raise UserError(
            f"the branches of {recipe.name} are runs of their own, which processes with one folder "
            "share out without a coordinator: leave out --coordinator, --num-processes and "
            f"--process-id; received {place.num_processes} processes"
        )
    check_backend(place, chosen_backend())
    if jobs > 1 and (not trains_all(recipe, branch) or virtual_devices):
        raise UserError(
            "--jobs is for training all branches of a spectral recipe, without --branch and "
            f"--virtual-devices; received {jobs}"
        )
    if trains_all(recipe, branch):
        machine = Machine(jobs, devices, virtual_devices, data_dir, cache_dir)
        fitted = fit_branches(recipe, out_dir, machine, fresh=fresh)
        return Fitted({"run": str(out_dir), **fitted.scores}, fitted.is_reported)
    if branch is not None:
        check_branches_fit(out_dir, recipe)
        recipe, out_dir = branch_recipe(recipe, branch), branch_folder(out_dir, branch)
    from keras_imnet64.backend.devices import take_devices

    taken = take_devices(devices, virtual_devices, place=place)
    with taken.cluster:
        with Activity("loading keras"):
            from keras_imnet64.training.fit import fit

        run = fit(
            recipe,
            out_dir,
            data_dir=data_dir,
            cache_dir=cache_dir,
            devices=taken,
            fresh=fresh,
            pack_progress=pack_progress,
        )
        if on_finished is not None and place is None:
            on_finished(run, taken)
        is_writer = taken.cluster.is_writer
        return Fitted({"run": str(run.path), **(run.metrics if is_writer else {})}, is_writer)


def fit_branches(
    recipe: Recipe, out_dir: StrPath, machine: Machine, *, fresh: bool = False
) -> Fitted:
    """Trains all branches of a recipe that are not finished, several at a time.

    Of several processes with one folder, each trains branches that no other has taken, and waits
    for those that others have.

    Args:
        recipe: a recipe with band "all".
        out_dir: folder of the branches' run folders, `branch-00` and so on; the same call resumes
            branches in it.
        fresh: start all branches anew; earlier ones are kept under another name.

    Raises:
        UserError: the folder holds other files, or branches of another recipe; the network cannot
            be built, or its data not opened; there are fewer devices than jobs.
        RunFailed: some branches could not be trained; the others are finished.
        Stopped: a signal stopped training; the branches' states are saved.
    """
    folder, bands = Run(Path(out_dir)), bands_of(recipe)
    check_branches_fit(out_dir, None if fresh else recipe)
    say(f"recipe   {recipe.name}: {len(bands)} branches")
    is_done = not fresh and all(run.is_finished for run in _runs_of(bands, out_dir))
    checked = [] if is_done else [with_band(recipe, bands[0])]  # the others differ in their band

    def prepare() -> tuple[Sequence[MachineShare], list[str]]:
        return machine.prepare(checked, len(bands))

    prepared = prepare() if fresh or is_done else None
    if fresh and has_branches(out_dir):
        aside = set_aside(folder.path, [folder, *branch_runs(folder.path)])
        say(f"what was in {folder.path} is kept as {aside}")
    with Claims(folder.path) as claims:
        shares, options = prepared or claims.prepare_data(prepare)
        folder.path.mkdir(parents=True, exist_ok=True)
        with lock(folder, shared=True):
            unfinished = _unfinished_jobs(recipe, folder, options)
            write_together(folder.recipe_file, recipe.to_toml())  # from which the children read it
            source = SharedJobs(unfinished, claims, lambda run: run.is_finished)
            result = source.with_elsewhere(run_jobs(source, shares))
            source.say_shares()
        raise_unfinished(result, "branches", len(bands), again(fresh))
        scores = {run.path.name: run.metrics["model.keras"] for run in _runs_of(bands, out_dir)}
        is_reported = claims.once(SUMMARY, "", lambda: None, "reporting the scores")
    say(
        f"all branches are trained, and `ensemble {folder.path}` joins them"
        if is_reported
        else "another process has reported the scores"
    )
    return Fitted(scores, is_reported)


def _runs_of(bands: Sequence[int], out_dir: StrPath) -> list[Run]:
    return [Run(branch_folder(out_dir, band)) for band in bands]


def _unfinished_jobs(recipe: Recipe, folder: Run, options: Sequence[str]) -> list[Job]:
    """Returns the branches to train; UserError if a finished one is of another recipe.

    Args:
        options: of `fit`, for all branches.
    """
    unfinished = []
    recipe_file, out = str(folder.recipe_file), str(folder.path)
    arguments = ("fit", "--json", "--no-report", "--recipe", recipe_file, "--out", out)
    for band in bands_of(recipe):
        run = Run(branch_folder(folder.path, band))
        if run.is_finished:
            check_same_recipe(run, branch_recipe(recipe, band))
            say(f"{run.path.name}  finished before")
        else:
            log = folder.path / f"{run.path.name}.log"
            unfinished.append(Job(run, (*arguments, *options, "--branch", str(band)), log))
    return unfinished
