"""The folder of a sweep: which sweep it holds, and what its cells have reached.

sweep.json                  what is varied, and the results; another sweep does not go on here
cell-000/  cell-000.log     an ordinary run, and the output of its processes
cell-001/  cell-001.log
claims/                     which process trains which cell, see `jobs.claims`
best.toml                   the recipe of the best setting, for `fit`
sweep.csv                   a row for each cell
*.png                       the pictures, see `pictures`
study.db                    of a search: Optuna's study
sweep.slurm                 of --slurm: the script of a job array
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import write_atomic, write_json, write_together
from keras_imnet64.core.paths import check_writable, os_error_text
from keras_imnet64.core.types import StrPath
from keras_imnet64.core.validation import read_record, to_json
from keras_imnet64.recipe.difference import difference, other_weights, refuse_other_recipe
from keras_imnet64.recipe.loading import check_recipe, load_recipe, parse_toml
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import LEFTOVERS, Run, set_aside
from keras_imnet64.sweep.records import CellRecord, RangeRecord, State, SweepRecord

OTHER_FOLDER = "choose another --name or --out, or start over with --fresh"


@dataclass(frozen=True)
class SweepFolder:
    """Paths of a sweep's folder."""

    path: Path

    @property
    def record_file(self) -> Path:
        return self.path / "sweep.json"

    @property
    def best_file(self) -> Path:
        return self.path / "best.toml"

    @property
    def table_file(self) -> Path:
        return self.path / "sweep.csv"

    @property
    def study_file(self) -> Path:
        return self.path / "study.db"

    @property
    def script_file(self) -> Path:
        return self.path / "sweep.slurm"

    @property
    def as_run(self) -> Run:
        """The folder as one that `runs.lock` locks."""
        return Run(self.path)

    def read(self) -> SweepRecord:
        """Returns the record; UserError if it is missing or damaged."""
        try:
            return read_record(SweepRecord, self.record_file)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.record_file} is missing or damaged ({reason(error)}): restore it, or "
                "start the sweep over with --fresh"
            ) from error

    def write(self, record: SweepRecord) -> None:
        write_json(self.record_file, to_json(record))


def check_sweep_folder(path: StrPath, record: SweepRecord, fresh: bool) -> SweepFolder:
    """Refuses a folder that this sweep cannot use; changes nothing.

    Args:
        record: of the sweep, without results.
        fresh: whether the folder may hold another sweep.
    """
    folder = SweepFolder(Path(path))
    try:
        check_writable(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be used as the folder of a sweep ({os_error_text(error, path)}); "
            "choose another --name or --out"
        ) from None
    if folder.as_run.recipe_file.exists():
        raise UserError(
            f"{path} holds a run and cannot hold a sweep too; choose another --name or --out"
        )
    if not folder.record_file.exists():
        ours = {folder.as_run.lock_file, folder.as_run.claims, *folder.path.glob(LEFTOVERS)}
        if folder.path.is_dir() and set(folder.path.iterdir()) - ours:
            raise UserError(
                f"{path} is not empty and holds no sweep; choose another --name or --out"
            )
    elif not fresh:
        _check_same_sweep(folder, record)
    return folder


def _check_same_sweep(folder: SweepFolder, record: SweepRecord) -> None:
    """Refuses to go on with a sweep of other keys, values, seeds or settings."""
    earlier = folder.read()
    changes = []
    for what, old, new in (
        ("keys", _keys_text(earlier), _keys_text(record)),
        ("seeds", str(earlier.seeds), str(record.seeds)),
    ):
        if old != new:
            changes.append(f"{what}: {old} -> {new}")
    old_recipe, new_recipe = (check_recipe(parse_toml(each.recipe)) for each in (earlier, record))
    if not changes:
        changes = difference(old_recipe, new_recipe) + other_weights(old_recipe, new_recipe)
    if changes:
        raise UserError(f"{folder.path} holds another sweep ({changes[0]}): {OTHER_FOLDER}")


def _keys_text(record: SweepRecord) -> str:
    """Returns 'search optimizer.learning_rate=[0.1, 0.2] model.depth=10..22', values in full."""
    lists = [f"{key}={json.dumps(values)}" for key, values in record.keys.items()]
    ranges = [_range_text(key, bounds) for key, bounds in record.ranges.items()]
    return " ".join([*(["search"] if record.trials else []), *lists, *ranges]) or "none"


def _range_text(key: str, bounds: RangeRecord) -> str:
    low, high = (int(x) if bounds.is_whole else float(x) for x in (bounds.low, bounds.high))
    return f"{key}={low}..{high}{':log' if bounds.is_log else ''}"


def begin(folder: SweepFolder, record: SweepRecord, fresh: bool) -> None:
    """Creates the folder with its record, unless the sweep has begun; call it once checked."""
    if fresh and folder.record_file.exists():
        cells = [Run(file.parent) for file in sorted(folder.path.glob("cell-*/.lock"))]
        aside = set_aside(folder.path, [folder.as_run, *cells])
        say(f"the earlier sweep in {folder.path} is kept as {aside}")
    folder.path.mkdir(parents=True, exist_ok=True)
    if not folder.record_file.exists():
        write_together(folder.record_file, json.dumps(to_json(record), indent=2) + "\n")


def write_cell_recipe(run: Run, recipe: Recipe) -> None:
    """Writes the recipe of a cell into its run folder, from which its process reads it.

    Raises:
        UserError: the folder holds a run of another recipe.
    """
    check_cell_recipe_file(run, recipe)
    run.path.mkdir(exist_ok=True)
    write_atomic(run.recipe_file, recipe.to_toml())


def check_cell_recipe_file(run: Run, recipe: Recipe) -> None:
    """Refuses a run folder of another recipe than that of the cell."""
    if run.recipe_file.exists():
        refuse_other_recipe(
            load_recipe(run.recipe_file),
            recipe,
            f"{run.path} holds a run of another recipe than this cell's",
            "move it away, or start the sweep over with --fresh",
            reads_weights=True,
        )


def read_cell(
    folder: SweepFolder, number: int, name: str, values: dict[str, object], seed: int
) -> CellRecord:
    """Returns what a cell has reached, from the files of its run.

    Args:
        name: of its run folder.
    """
    run = Run(folder.path / name)
    if run.is_finished:
        metrics = run.read_metrics()
        best = metrics.best
        return CellRecord(
            number,
            name,
            values,
            seed,
            "finished",
            val_top1=best.val_top1 if best else None,
            epoch=best.epoch if best else None,
            epochs=metrics.epochs or 0,
            seconds=metrics.training_seconds,
        )
    rows = run.history_so_far
    scores = scores_by_epoch(rows)
    epoch = max(scores, key=lambda each: (scores[each], -each), default=None)
    return CellRecord(
        number,
        name,
        values,
        seed,
        _state(run, bool(rows)),
        val_top1=None if epoch is None else scores[epoch],
        epoch=epoch,
        epochs=len(rows),
    )


def scores_by_epoch(rows: Sequence[dict[str, str]]) -> dict[int, float]:
    """Returns {epoch: val_top1} of the rows of a history that have a score.

    A row that is damaged counts as one without: the run's own process reads its checkpoint.
    """
    scores = {}
    for row in rows:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            scores[int(row["epoch"])] = float(row["val_top1"])
    return scores


def _state(run: Run, has_epochs: bool) -> State:
    """Returns the state of a run that is not finished."""
    if run.not_finite_file.exists():
        return "not finite"
    return "begun" if has_epochs else "waiting"
