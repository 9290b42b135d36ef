"""Shows the result of a sweep on the terminal: a row for each setting, the best one first."""

from pathlib import Path

from keras_imnet64.core.console import say, show, show_table
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.core.validation import to_json
from keras_imnet64.sweep.axes import short_names, value_text
from keras_imnet64.sweep.folder import SweepFolder
from keras_imnet64.sweep.records import SettingRecord, SweepRecord
from keras_imnet64.sweep.results import ranking, score_text, values_text

MAX_ROWS = 40  # of settings; sweep.csv has all


def show_result(path: StrPath, record: SweepRecord, as_json: bool) -> None:
    """Prints the settings and the best of them; with `as_json` the content of sweep.json.

    Args:
        path: the folder of the sweep.
    """
    if as_json:
        show({"sweep": str(path), **to_json(record)}, as_json=True)
        return
    folder = SweepFolder(Path(path))
    rows, columns = settings_table(record)
    show_table(rows[:MAX_ROWS], columns)
    if len(rows) > MAX_ROWS:
        say(f"{len(rows) - MAX_ROWS} more combinations are in {folder.table_file}")
    show(best_in_words(folder, record), as_json=False)


def settings_table(record: SweepRecord) -> tuple[list[JsonObject], dict[str, str]]:
    """Returns (rows, columns) of all settings, the best one first."""
    columns = {
        **short_names([*record.keys, *record.ranges]),
        "score": "held-out top-1",
        "finished": "finished",
        "epochs": "epochs trained",
        "cells": "cells",
    }
    return [_row(record, record.settings[index]) for index in ranking(record.settings)], columns


def _row(record: SweepRecord, setting: SettingRecord) -> JsonObject:
    cells = [record.cells[number] for number in setting.cells]
    others = sorted({cell.state for cell in cells if cell.state != "finished"})
    finished = f"{setting.num_finished} of {len(cells)}"
    first, last = cells[0].folder, cells[-1].folder
    return {
        **{key: value_text(value) for key, value in setting.values.items()},
        "score": score_text(setting),
        "finished": ", ".join([finished, *others]),
        "epochs": max(cell.epochs for cell in cells),
        "cells": first if first == last else f"{first} to {last.removeprefix('cell-')}",
    }


def best_in_words(folder: SweepFolder, record: SweepRecord) -> JsonObject:
    """Returns what is shown of the best setting, by name."""
    if record.best is None:
        return {"best": None}
    setting, scores = record.settings[record.best], record.best_scores
    shown: JsonObject = {
        "best": values_text(setting),
        "held-out top-1": f"{score_text(setting)} of {record.held_out:,} images, by which it was "
        "chosen",
    }
    if scores:
        spread = "" if scores.spread is None else f" ± {scores.spread:.2f}"
        shown["final top-1"] = (
            f"{scores.top1:.2f}{spread} % of {scores.num_images:,} images of the validation split"
        )
    return shown | {"recipe": str(folder.best_file), "sweep": str(folder.path)}
