"""Lets Optuna choose the cells of a sweep: TPE proposes values, successive halving prunes.

A cell is a trial of Optuna's study, and has its number. The study lies in `study.db`, a SQLite
database in the folder of the sweep; only the process that holds the folder's lock writes it. A
trial stays "running" there until its cell is finished or pruned, so a search that was killed goes
on with the trials that were running, and their cells resume from their checkpoints.
"""

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.types import Json, JsonObject, StrPath
from keras_imnet64.jobs.machine import Machine
from keras_imnet64.jobs.running import Ending, FailedJob, Job, again, run_jobs
from keras_imnet64.runs import HistoryRow, Run, lock
from keras_imnet64.sweep.axes import Axis, take_axes
from keras_imnet64.sweep.folder import (
    SweepFolder,
    begin,
    check_sweep_folder,
    read_cell,
    scores_by_epoch,
    write_cell_recipe,
)
from keras_imnet64.sweep.grid import (
    Outcome,
    cell_job,
    representatives,
    without_diverged,
    write_all,
)
from keras_imnet64.sweep.plan import MAX_CELLS, Cell, cell_folder, drop_results
from keras_imnet64.sweep.records import CellRecord, RangeRecord, SweepRecord
from keras_imnet64.sweep.results import with_results
from keras_imnet64.sweep.space import Range, Space, choice_of, make_space, rounded

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial

STUDY = "sweep"  # the name of the study in its database
REDUCTION = 3  # of the trials that reach a rung, a third goes on
RUNGS = 2  # at a ninth and at a third of the epochs
NUM_RANDOM = 5  # first trials, which explore the space before TPE begins
# What Optuna raises for a database of another version of its own, or with damaged rows.
WHEN_OPENED = (RuntimeError, KeyError, ValueError)


@dataclass(frozen=True)
class SearchPlan:
    """What a search may choose.

    Attributes:
        content: the plain values of the recipe, in which `space` sets some.
        record: of the sweep, without results.
    """

    content: JsonObject
    space: Space
    record: SweepRecord
    num_trials: int


def plan_search(
    content: JsonObject, space_parts: Sequence[Axis | Range], num_trials: int
) -> SearchPlan:
    """Returns the plan of a search.

    Args:
        content: the plain values of a recipe; lists in it are values to choose from, see `axes`.
        space_parts: further keys, which replace lists of the recipe.

    Raises:
        UserError: Optuna is not installed; the space is empty, wrong, or has no recipe at an edge.
    """
    if find_spec("optuna") is None:
        raise UserError(
            "--search needs Optuna, which is not installed: `pip install 'keras-imnet64[search]'` "
            "provides it"
        )
    if not 1 <= num_trials <= MAX_CELLS:
        raise UserError(f"--search must be 1 to {MAX_CELLS} trials; received {num_trials}")
    content = drop_results(content)
    given = {part.key for part in space_parts}
    axes = [axis for axis in take_axes(content) if axis.key not in given]
    space = make_space([*axes, *space_parts])
    recipes = [space.recipe(content, values) for values in space.samples()]
    first = recipes[0]
    record = SweepRecord(
        name=first.name,
        recipe=first.to_toml(),
        keys={axis.key: list(axis.values) for axis in space.axes},
        ranges={r.key: RangeRecord(r.low, r.high, r.is_log, r.is_whole) for r in space.ranges},
        seeds=[first.train.seed],
        trials=num_trials,
        held_out=first.data.holdout,
        cells=[],
        settings=[],
    )
    return SearchPlan(content, space, record, num_trials)


def run_search(
    plan: SearchPlan, out_dir: StrPath, machine: Machine, *, fresh: bool = False
) -> Outcome:
    """Trains cells that Optuna chooses until the study has so many trials; writes the results.

    Args:
        out_dir: folder of the sweep; the same call goes on in it, with more trials too.
        fresh: start over; an earlier sweep is kept under another name.

    Raises:
        UserError: see `run_grid`; the study in the folder cannot be read.
        RunFailed: the study could not be written, or the data not packed.
    """
    folder = check_sweep_folder(out_dir, plan.record, fresh)
    say(f"recipe   {plan.record.name}: a search of {plan.num_trials} trials")
    recipes = [plan.space.recipe(plan.content, values) for values in plan.space.samples()]
    shares, options = machine.prepare(representatives(recipes), plan.num_trials)
    begin(folder, plan.record, fresh)
    with lock(folder.as_run):
        search = Search(plan, folder, options)
        result = run_jobs(search, shares)
        record = replace(plan.record, trials=max(plan.num_trials, len(search.trials())))
        record = with_results(record, folder, search.cell_records())
        write_all(folder, record)
    return Outcome(record, without_diverged(result, folder), again(fresh))


class Search:
    """The source of a search's jobs: asks the study for trials, and tells it what came of them.

    Args:
        options: of `fit`, for all cells.
    """

    def __init__(self, plan: SearchPlan, folder: SweepFolder, options: Sequence[str]) -> None:
        self.plan, self.folder, self.options = plan, folder, options
        self.running: dict[str, tuple[Trial, int]] = {}  # trial and its epochs, by job
        with report_study_errors(folder.study_file, UserError, WHEN_OPENED):
            self.study = open_study(folder.study_file, _fewest_epochs(plan))
            self._check_trials()
            self._interrupted = self._interrupted_trials()

    def _check_trials(self) -> None:
        """Refuses a study that does not know a cell which lies in the folder."""
        known = {cell_folder(trial.number) for trial in self.trials()}
        cells = {path.name for path in self.folder.path.glob("cell-*") if path.is_dir()}
        if cells - known:
            raise UserError(
                f"{self.folder.study_file} lacks the trial of {min(cells - known)}: restore it, or "
                "start over with --fresh"
            )

    def _interrupted_trials(self) -> "list[Trial]":
        """Returns the trials that are running in the study, each with all of its values."""
        from optuna import Trial

        found = []
        for frozen in self.trials():
            if not frozen.state.is_finished():
                self._use_sampler_of(frozen.number)
                found.append(Trial(self.study, frozen._trial_id))  # it has no public name
                suggest(found[-1], self.plan.space)
        return found

    def _use_sampler_of(self, trial_number: int) -> None:
        self.study.sampler = make_sampler(self.plan.record.seeds[0], trial_number)

    def trials(self) -> "list[FrozenTrial]":
        """Returns all trials of the study; the number of each is its place."""
        return self.study.get_trials(deepcopy=False)

    # --------------------------------------------------------------------------------------- jobs

    def next_job(self) -> Job | None:
        """Returns the job of a trial that was interrupted, else of a new one."""
        with report_study_errors(self.folder.study_file):
            while (trial := self._next_trial()) is not None:
                job = self._begin(trial)
                if job:
                    return job
        return None

    def _next_trial(self) -> "Trial | None":
        if self._interrupted:
            return self._interrupted.pop(0)
        number = len(self.trials())
        if number >= self.plan.num_trials:
            return None
        self._use_sampler_of(number)
        return self.study.ask()

    def _begin(self, trial: "Trial") -> Job | None:
        """Returns the job of a trial; None if the trial has come to its end."""
        values = suggest(trial, self.plan.space)
        try:
            recipe = self.plan.space.recipe(self.plan.content, values)
        except UserError as error:
            say(f"{cell_folder(trial.number)}  is left out: {error}")
            self._prune(trial)
            return None
        cell = Cell(trial.number, tuple(values.values()), recipe)
        run = cell.run(self.folder.path)
        if run.is_finished or run.not_finite_file.exists():  # before the study was told
            self._tell_end(trial, run)
            return None
        write_cell_recipe(run, recipe)
        job = cell_job(self.folder, cell, self.plan.space.keys, self.options)
        self.running[job.name] = trial, recipe.train.epochs
        if not self._catch_up(job):
            return None
        return job

    def _catch_up(self, job: Job) -> bool:
        """Reports the epochs that were trained before; returns whether the trial may go on."""
        return all(self.may_continue(job, row) for row in job.run.history_so_far)

    def may_continue(self, job: Job, row: HistoryRow) -> bool:
        """Reports an epoch's score, and returns whether the trial is among the better ones.

        A trial that has trained all of its epochs is not pruned.
        """
        trial, num_epochs = self.running[job.name]
        for epoch, score in scores_by_epoch([row]).items():
            with report_study_errors(self.folder.study_file):
                if self._is_finished(trial):
                    return False
                reported = self.trials()[trial.number].intermediate_values
                if epoch not in reported:
                    trial.report(score, epoch)
                is_last = epoch >= max([epoch, *reported])
                if is_last and epoch < num_epochs and trial.should_prune():
                    say(f"{job.name}  pruned after epoch {epoch}: other trials are better")
                    self._prune(trial)
                    return False
        return True

    def may_have_more(self) -> bool:
        return False  # a process that ends may leave room for one, but none comes by itself

    def is_lost(self, job: Job) -> bool:
        return False  # no other process trains them

    def job_ended(self, job: Job, ending: Ending, failure: FailedJob | None) -> None:
        """Tells the study about a trial that is done; one that failed or was stopped stays open."""
        trial, _ = self.running[job.name]
        with report_study_errors(self.folder.study_file):
            if not self._is_finished(trial):
                self._tell_end(trial, job.run)

    def _tell_end(self, trial: "Trial", run: Run) -> None:
        best = run.read_metrics().best if run.is_finished else None
        if best and best.val_top1 is not None:
            self.study.tell(trial, best.val_top1)
        elif run.not_finite_file.exists():
            self._prune(trial)  # so that TPE avoids such values

    def _prune(self, trial: "Trial") -> None:
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState.PRUNED)

    def _is_finished(self, trial: "Trial") -> bool:
        return self.trials()[trial.number].state.is_finished()

    # ------------------------------------------------------------------------------------ results

    def cell_records(self) -> list[CellRecord]:
        """Returns what the trials have reached, by their numbers."""
        from optuna.trial import TrialState

        with report_study_errors(self.folder.study_file):
            trials = self.trials()
        found = []
        for trial in trials:
            values = values_of(trial.params, self.plan.space)
            name, seed = cell_folder(trial.number), self.plan.record.seeds[0]
            cell = read_cell(self.folder, trial.number, name, values, seed)
            if trial.state == TrialState.PRUNED and cell.state in ("begun", "waiting"):
                cell = replace(cell, state="pruned")
            found.append(cell)
        return found


# ---------------------------------------------------------------------------------------- the study


def open_study(file: Path, num_epochs: int) -> "Study":
    """Returns the study in a database, and creates it if there is none.

    Args:
        num_epochs: of the shortest cell; the first rung of successive halving is at a ninth.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A URL would take characters of the path, such as % and ?, for its own.
    connect = partial(sqlite3.connect, file, check_same_thread=False)
    return optuna.create_study(
        storage=optuna.storages.RDBStorage(
            f"sqlite:///{file.name}", engine_kwargs={"creator": connect}
        ),
        study_name=STUDY,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=math.ceil(num_epochs / REDUCTION**RUNGS), reduction_factor=REDUCTION
        ),
    )


def make_sampler(seed: int, trial_number: int) -> "TPESampler":
    """Returns the sampler of one trial, whose draws depend on the seed and the trial's number.

    A sampler for the whole study would draw again what it drew before an interruption.
    """
    import optuna

    (mixed,) = np.random.SeedSequence([seed, trial_number]).generate_state(1)
    return optuna.samplers.TPESampler(seed=int(mixed), n_startup_trials=NUM_RANDOM)


def suggest(trial: "Trial", space: Space) -> dict[str, Json]:
    """Returns the values of a trial by key, as Optuna proposes them or has proposed them before."""
    for axis in space.axes:
        trial.suggest_categorical(axis.key, [choice_of(value) for value in axis.values])
    for each in space.ranges:
        if each.is_whole:
            trial.suggest_int(each.key, int(each.low), int(each.high), log=each.is_log)
        else:
            trial.suggest_float(each.key, each.low, each.high, log=each.is_log)
    return values_of(trial.params, space)


def values_of(params: Mapping[str, Json], space: Space) -> dict[str, Json]:
    """Returns the values of a recipe for the parameters of a trial, by key."""
    values: dict[str, Json] = {}
    for axis in space.axes:
        choices = [choice_of(value) for value in axis.values]
        values[axis.key] = axis.values[choices.index(params[axis.key])]
    for each in space.ranges:
        drawn = params[each.key]
        values[each.key] = drawn if each.is_whole else rounded(drawn, each)
    return values


def _fewest_epochs(plan: SearchPlan) -> int:
    samples = plan.space.samples()
    return min(plan.space.recipe(plan.content, values).train.epochs for values in samples)


@contextmanager
def report_study_errors(
    file: Path, kind: type[UserError] = RunFailed, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Raises an error of one sentence for any error of Optuna or of its database.

    Args:
        also: further errors that the study may raise.
    """
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    kinds: tuple[type[Exception], ...] = (OptunaError, SQLAlchemyError, sqlite3.Error, *also)
    try:
        yield
    except kinds as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise kind(
            f"{file}, the study of the search, cannot be used ({reason(first_line)}): restore it, "
            "or start over with --fresh"
        ) from error
