"""The results of a sweep: settings in order of merit, and the recipe of the best one."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from keras_imnet64.core.files import csv_text, write_atomic
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import is_folder_name
from keras_imnet64.runs import Run
from keras_imnet64.sweep.axes import value_text
from keras_imnet64.sweep.folder import SweepFolder
from keras_imnet64.sweep.records import CellRecord, FinalScores, SettingRecord, SweepRecord

CELL_COLUMNS = ("cell", "seed", "state", "val_top1", "epoch", "epochs", "seconds")


def with_results(
    record: SweepRecord, folder: SweepFolder, cells: Sequence[CellRecord]
) -> SweepRecord:
    """Returns the record of a sweep with what these cells have reached."""
    settings = summarize(cells, len(record.seeds))
    best = best_setting(settings)
    scores = None
    if best is not None:
        scores = final_scores(folder, [cells[number] for number in settings[best].cells])
    return replace(record, cells=list(cells), settings=settings, best=best, best_scores=scores)


def summarize(cells: Sequence[CellRecord], num_seeds: int) -> list[SettingRecord]:
    """Returns the settings in the order of their first cells, with the mean over their seeds.

    Args:
        cells: those of a setting, one for each seed, follow each other.
    """
    starts = range(0, len(cells), num_seeds)
    return [_setting(cells[start : start + num_seeds]) for start in starts]


def _setting(cells: Sequence[CellRecord]) -> SettingRecord:
    scores = [c.val_top1 for c in cells if c.state == "finished" and c.val_top1 is not None]
    return SettingRecord(
        cells[0].values,
        [cell.number for cell in cells],
        len(scores),
        statistics.mean(scores) if scores else None,
        statistics.stdev(scores) if len(scores) > 1 else None,
    )


def best_setting(settings: Sequence[SettingRecord]) -> int | None:
    """Returns the index of the best setting; None if no cell is finished."""
    order = ranking(settings)
    return order[0] if order and settings[order[0]].mean is not None else None


def ranking(settings: Sequence[SettingRecord]) -> list[int]:
    """Returns the indices of settings, the best first.

    A setting of which a seed is not finished comes after all that are complete: the seed may have
    diverged. Of equal means, the earlier setting comes first.
    """

    def merit(index: int) -> tuple[bool, float]:
        setting = settings[index]
        is_complete = setting.num_finished == len(setting.cells)
        return is_complete, -math.inf if setting.mean is None else setting.mean

    return sorted(range(len(settings)), key=merit, reverse=True)


def final_scores(folder: SweepFolder, cells: Sequence[CellRecord]) -> FinalScores | None:
    """Returns the scores of best.keras on the validation split, the mean over finished cells."""
    finished = [Run(folder.path / cell.folder) for cell in cells if cell.state == "finished"]
    scores = [score for run in finished if (score := run.read_metrics().best)]
    if not scores:
        return None
    top1 = [score.top1 for score in scores]
    return FinalScores(
        statistics.mean(top1),
        statistics.mean(score.top5 for score in scores),
        statistics.stdev(top1) if len(top1) > 1 else None,
        scores[0].count,
    )


def write_results(folder: SweepFolder, record: SweepRecord) -> None:
    """Writes sweep.csv, best.toml and, last, sweep.json."""
    columns = [*CELL_COLUMNS, *record.keys, *record.ranges]
    write_atomic(folder.table_file, csv_text(columns, _rows(record)))
    if record.best is not None:
        write_atomic(folder.best_file, best_recipe_text(folder, record))
    folder.write(record)


def _rows(record: SweepRecord) -> Iterator[JsonObject]:
    for cell in record.cells:
        row = {"cell": cell.folder, **asdict(cell)}
        plain = {column: _csv_value(row[column]) for column in CELL_COLUMNS}
        yield plain | {key: _csv_value(value) for key, value in cell.values.items()}


def _csv_value(value: Json) -> Json:
    if value is None:
        return ""
    return value if isinstance(value, int | float | str) else value_text(value)


def best_recipe_text(folder: SweepFolder, record: SweepRecord) -> str:
    """Returns the best setting's recipe as TOML with which `fit` trains it, and what it reached."""
    assert record.best is not None
    setting = record.settings[record.best]
    first = record.cells[setting.cells[0]]
    recipe = load_recipe(Run(folder.path / first.folder).recipe_file)
    name = f"{recipe.name}-best"
    recipe = recipe.model_copy(update={"name": name if is_folder_name(name) else recipe.name})
    lines = [
        f"The best of {len(record.settings)} combinations of {record.name}, chosen on "
        f"{record.held_out:,} held-out images:",
        f"top-1 {score_text(setting)} over {setting.num_finished} of {len(setting.cells)} seeds.",
    ]
    return "".join(f"# {line}\n" for line in lines) + recipe.to_toml()


def values_text(setting: SettingRecord) -> str:
    """Returns "optimizer.learning_rate=0.1 loss.l2=0.001"; "the recipe as it is" without keys."""
    values = [f"{key}={value_text(value)}" for key, value in setting.values.items()]
    return " ".join(values) or "the recipe as it is"


def score_text(setting: SettingRecord) -> str:
    """Returns "57.30 ± 0.82 %", mean and spread, or the mean alone; "-" if there is none."""
    if setting.mean is None:
        return "-"
    spread = "" if setting.spread is None else f" ± {setting.spread:.2f}"
    return f"{setting.mean:.2f}{spread} %"
