"""Trains the cells of a grid: those that are not finished, several at a time, or a single one.

Several processes may call `run_grid` with one folder, on any machines: they share out its cells.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.core.validation import to_json
from keras_imnet64.jobs.claims import SUMMARY, Claims
from keras_imnet64.jobs.machine import Machine
from keras_imnet64.jobs.running import Job, JobsResult, again, raise_unfinished, run_jobs
from keras_imnet64.jobs.shares import MachineShare
from keras_imnet64.jobs.sharing import SharedJobs
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import Run, lock
from keras_imnet64.sweep.axes import short_names, value_text
from keras_imnet64.sweep.folder import (
    SweepFolder,
    begin,
    check_cell_recipe_file,
    check_sweep_folder,
    read_cell,
    write_cell_recipe,
)
from keras_imnet64.sweep.pictures import write_pictures
from keras_imnet64.sweep.plan import Cell, Plan
from keras_imnet64.sweep.records import CellRecord, SweepRecord
from keras_imnet64.sweep.results import with_results, write_results

FIT = ("fit", "--json", "--no-report")  # the command that trains a cell
CHECKED: dict[str, bool | set[str]] = {  # the parts of a recipe that `preflight` looks at
    "model": True,
    "data": True,
    "augment": True,
    "loss": True,
    "optimizer": {"name", "groups", "lookahead", "weight_decay"},
    "train": {
        *("accumulate_steps", "early_stopping", "epochs", "freeze"),
        *("remeasure_statistics", "sizes"),
    },
}


@dataclass(frozen=True)
class Outcome:
    """The results of a sweep, and what has failed or was stopped meanwhile.

    Attributes:
        again: the command that goes on, for messages.
        is_written: whether this process has written the results. Of several processes, one does.
    """

    record: SweepRecord
    jobs: JobsResult
    again: str
    is_written: bool = True

    def raise_unfinished(self) -> None:
        """Raises an error if cells have failed, or a signal has stopped them."""
        num_cells = len(self.record.cells)
        raise_unfinished(self.jobs, "cells", num_cells, self.again)
        if self.record.best is None:
            states = Counter(cell.state for cell in self.record.cells)
            counts = ", ".join(f"{count} {state}" for state, count in states.items())
            raise RunFailed(
                f"no cell has come to its end ({counts}), so there is no best one: vary other "
                "values in a new sweep"
            )


def record_of(plan: Plan) -> SweepRecord:
    """Returns the record of a grid of which nothing is trained."""
    first = plan.cells[0].recipe
    return SweepRecord(
        name=plan.name,
        recipe=first.to_toml(),
        keys={axis.key: list(axis.values) for axis in plan.axes},
        ranges={},
        seeds=list(plan.seeds),
        trials=None,
        held_out=first.data.holdout,
        cells=[],
        settings=[],
    )


def run_grid(plan: Plan, out_dir: StrPath, machine: Machine, *, fresh: bool = False) -> Outcome:
    """Trains the cells of a grid that are not finished, and writes the results.

    Of several processes with one folder, each trains cells that no other has taken. The last one
    to be done writes the results.

    A cell whose loss or weight was not finite counts as done: it would end so again.

    Args:
        out_dir: folder of the sweep; the same call resumes the cells in it.
        fresh: start over; an earlier sweep is kept under another name.

    Raises:
        UserError: the folder holds something else; a network cannot be built, or its data not
            opened; there are fewer devices than jobs.
        RunFailed: the data could not be packed.
    """
    record = record_of(plan)
    folder = check_sweep_folder(out_dir, record, fresh)
    say(
        f"recipe   {plan.name}: {len(plan.cells)} cells, "
        f"{len(plan.cells) // len(plan.seeds)} combinations x {len(plan.seeds)} seeds"
    )
    todo = [cell for cell in plan.cells if fresh or not _is_done(cell.run(folder.path))]

    def prepare() -> tuple[Sequence[MachineShare], list[str]]:
        recipes = representatives([cell.recipe for cell in todo])
        return machine.prepare(recipes, len(plan.cells))

    prepared = prepare() if fresh or not todo else None
    if fresh:
        begin(folder, record, fresh)
    with Claims(folder.path) as claims:
        shares, options = prepared or claims.prepare_data(prepare)
        begin(folder, record, fresh=False)
        with lock(folder.as_run, shared=True):
            if len(todo) < len(plan.cells):
                say(f"{len(plan.cells) - len(todo)} cells were done before")
            jobs = _cell_jobs(plan, todo, folder, options)
            source = _shared_cells(todo, jobs, claims)
            result = without_diverged(source.with_elsewhere(run_jobs(source, shares)), folder)
            source.say_shares()
            record = with_results(record, folder, cell_records(plan, folder))
            others_go_on = result.stopped and source.others_train(jobs)
            is_written = not others_go_on and claims.once(
                SUMMARY, _digest(record), lambda: write_all(folder, record), "writing the results"
            )
    if not is_written and not others_go_on:
        say(f"another process has written the results into {folder.path}")
    return Outcome(record, result, again(fresh), is_written)


def _cell_jobs(
    plan: Plan, cells: Sequence[Cell], folder: SweepFolder, options: Sequence[str]
) -> list[Job]:
    """Returns the jobs of cells; UserError if the folder of one has a run of another recipe."""
    for cell in cells:
        check_cell_recipe_file(cell.run(folder.path), cell.recipe)
    return [cell_job(folder, cell, plan.keys, options) for cell in cells]


def _shared_cells(cells: Sequence[Cell], jobs: Sequence[Job], claims: Claims) -> SharedJobs:
    """Returns the source of the cells that this process takes."""
    recipes = {cell.folder: cell.recipe for cell in cells}

    def write_recipe(job: Job) -> None:
        write_cell_recipe(job.run, recipes[job.name])

    return SharedJobs(jobs, claims, _is_done, write_recipe)


def _digest(record: SweepRecord) -> str:
    """Returns a text that differs if the results differ."""
    return hashlib.sha256(json.dumps(to_json(record)).encode()).hexdigest()


def _is_done(run: Run) -> bool:
    return run.is_finished or run.not_finite_file.exists()


def representatives(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Returns one of the recipes that share all that is checked before training begins."""
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        found.setdefault(recipe.model_dump_json(include=CHECKED), recipe)
    return list(found.values())


def cell_job(folder: SweepFolder, cell: Cell, keys: Sequence[str], options: Sequence[str]) -> Job:
    """Returns the job that trains a cell, whose recipe must be written when the job starts.

    Args:
        keys: of the cell's values.
        options: of `fit`, for all cells.
    """
    run, names = cell.run(folder.path), short_names(keys)
    arguments = (*FIT, "--recipe", str(run.recipe_file), "--out", str(run.path), *options)
    values = [f"{names[k]}={value_text(v)}" for k, v in zip(keys, cell.values, strict=True)]
    note = " ".join([*values, f"seed={cell.recipe.train.seed}"])
    return Job(run, arguments, folder.path / f"{cell.folder}.log", note)


def cell_records(plan: Plan, folder: SweepFolder) -> list[CellRecord]:
    """Returns what the cells of a plan have reached."""
    return [
        read_cell(
            folder,
            cell.number,
            cell.folder,
            dict(zip(plan.keys, cell.values, strict=True)),
            cell.recipe.train.seed,
        )
        for cell in plan.cells
    ]


def write_all(folder: SweepFolder, record: SweepRecord) -> None:
    """Writes the results of a sweep and their pictures.

    Args:
        record: with the results.
    """
    write_results(folder, record)
    with Activity("drawing the pictures"):
        write_pictures(folder, record)


def without_diverged(result: JobsResult, folder: SweepFolder) -> JobsResult:
    """Returns the result without the cells that failed because a number was not finite."""
    failed = [job for job in result.failed if not _is_done(Run(folder.path / job.name))]
    return JobsResult(failed, result.stopped)


def fit_cell(
    plan: Plan,
    number: int,
    out_dir: StrPath,
    machine: Machine,
    pack_progress: PackProgress | None = None,
) -> JsonObject:
    """Trains a single cell in this process, as for a job array.

    Returns:
        dict: run (its folder) and the content of its metrics.json.

    Raises:
        UserError, RunFailed, Stopped: see `training.fit`; there is no such cell; the folder holds
            something else.
    """
    if not 0 <= number < len(plan.cells):
        raise UserError(f"--cell must be from 0 to {len(plan.cells) - 1}; received {number}")
    record = record_of(plan)
    folder = check_sweep_folder(out_dir, record, fresh=False)
    cell = plan.cells[number]
    run = cell.run(Path(out_dir))
    if run.is_finished:  # an array that is submitted again has finished cells too
        say(f"{cell.folder}  finished before")
        return {"run": str(run.path), **run.metrics}
    if _is_done(run):
        raise RunFailed(
            f"{cell.folder} diverged before, see {run.not_finite_file}: remove its folder to train "
            "it again"
        )
    from keras_imnet64.backend.devices import take_devices

    taken = take_devices(machine.devices, machine.virtual_devices)
    with Activity("loading keras"):
        from keras_imnet64.training.fit import fit

    begin(folder, record, fresh=False)
    fit(
        cell.recipe,
        run.path,
        data_dir=machine.data_dir,
        cache_dir=machine.cache_dir,
        devices=taken,
        pack_progress=pack_progress,
    )
    return {"run": str(run.path), **run.metrics}
