"""Folders that hold several runs, comparisons and sweeps: what they say, and their runs."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from keras_imnet64.charts import PAPER, figure_svg
from keras_imnet64.compare import is_comparison, read_result, whole_runs
from keras_imnet64.compare.page import verdicts
from keras_imnet64.core.types import StrPath
from keras_imnet64.pages import Section, details, figures, paragraph, preformatted, table
from keras_imnet64.report.subjects import MAX_RUNS
from keras_imnet64.runs import Run
from keras_imnet64.sweep.folder import SweepFolder
from keras_imnet64.sweep.pictures import drawings, line_tips
from keras_imnet64.sweep.records import SweepRecord
from keras_imnet64.sweep.results import best_recipe_text
from keras_imnet64.sweep.text import best_in_words, settings_table


def unfold(paths: Sequence[StrPath]) -> tuple[list[Section], list[StrPath]]:
    """Returns (sections of the comparisons and sweeps among paths, the runs to show)."""
    sections: list[Section] = []
    runs: list[StrPath] = []
    for number, path in enumerate(paths):
        folder = SweepFolder(Path(path))
        if is_comparison(path):
            result = read_result(path)
            title = f"{result.recipe}, compared"
            found = whole_runs(path, result.scores)
            body = verdicts(result)
            if len(found) > MAX_RUNS:
                body += paragraph(
                    f"Below are {MAX_RUNS} of its {len(found)} whole runs.", note=True
                )
            sections.append(Section(f"comparison-{number}", title, body))
            runs += found[:MAX_RUNS]
        elif folder.record_file.is_file():
            record = folder.read()
            best = best_runs(folder, record)
            runs += best[:MAX_RUNS]
            title, body = f"Sweep of {record.name}", sweep_body(folder, record)
            if len(best) > MAX_RUNS:
                note = f"Below are {MAX_RUNS} of the {len(best)} runs of the best combination."
                body += paragraph(note, note=True)
            sections.append(Section(f"sweep-{number}", title, body))
        else:
            runs.append(path)
    return sections, runs


def sweep_body(folder: SweepFolder, record: SweepRecord) -> Markup:
    """Shows a sweep: the best setting, all settings, the pictures, and the best recipe."""
    if not record.cells:
        return paragraph(
            "The cells of this sweep have not been summed up yet: run the command that began it "
            "once more, which does so without training anything again.",
            note=True,
        )
    finished = sum(cell.state == "finished" for cell in record.cells)
    text = (
        f"{finished:,} of {len(record.cells):,} cells are finished. Combinations are compared on "
        f"{record.held_out:,} training images that are held out, and nothing is chosen by the "
        "images that the best of them is scored on."
    )
    best = [{"key": key, "value": value} for key, value in best_in_words(folder, record).items()]
    body = paragraph(text) + table(best, {"key": "", "value": ""}) + table(*settings_table(record))
    tips = line_tips(record)
    drawn = [(figure_svg(draw, name, tips), "") for name, draw in drawings(record, PAPER).items()]
    if drawn:
        body += figures(drawn)
    if record.best is not None:
        body += details("the best recipe", preformatted(best_recipe_text(folder, record)))
    return body


def best_runs(folder: SweepFolder, record: SweepRecord) -> list[Path]:
    """Returns the finished cells of the best setting, one for each seed."""
    if record.best is None:
        return []
    cells = [record.cells[number] for number in record.settings[record.best].cells]
    runs = [folder.path / cell.folder for cell in cells]
    return [run for run in runs if Run(run).is_finished]
