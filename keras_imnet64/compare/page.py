"""Shows the result of a comparison in a browser: one HTML file that loads nothing.

All text is escaped: names of recipes, layers and classes may come from anywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from keras_imnet64.charts import Curve, draw_svg
from keras_imnet64.compare.result import (
    FinalScores,
    FinishedResult,
    PairResult,
    Result,
)
from keras_imnet64.compare.text import (
    COLUMNS,
    MODEL_COLUMNS,
    SCORE_COLUMNS,
    images_in_words,
    model_row,
    pair_lines,
    score_row,
    settings_table,
    side_row,
)
from keras_imnet64.compare.verdict import StepComparison
from keras_imnet64.core.console import text_of
from keras_imnet64.core.types import Json

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd }
.real { font-weight: bold; color: #b00020 }
svg { max-width: 100%; height: auto }
"""
STEP_COLUMNS = {
    "stage": "stage",
    "where": "layer or variable",
    "size": "difference in units of its scale",
    "scale": "scale: the largest number",
    "allowed": "explained by rounding",
}


def page(result: Result) -> str:
    """Returns the page of a comparison."""
    return _document(f"{result.recipe}, compared", _body(result))


def finished_page(result: FinishedResult) -> str:
    """Returns the page of finished runs and model files."""
    return _document("Runs, compared", _finished_body(result))


def _body(result: Result) -> Iterator[str]:
    yield _paragraph(
        f"{result.num_steps} steps of {result.images_per_step} images on each side, from the same "
        "start and the same batches."
    )
    yield _table([side_row(side) for side in result.sides], COLUMNS)
    if result.num_steps > 1:
        yield "<h2>Loss of each step</h2>"
        steps = tuple(float(step + 1) for step in range(result.num_steps))
        curves = [
            Curve(side.label, steps, side.losses, dashed=number > 0)
            for number, side in enumerate(result.sides)
            if side.losses
        ]
        yield draw_svg(curves, "step", "loss")
        yield "<h2>Distance of the losses from those of the first side</h2>"
        apart = [Curve(p.second, steps, p.distances) for p in result.pairs if p.distances]
        stick = Curve("yardstick: starts one last bit apart", steps, result.yardstick, dashed=True)
        if any(value > 0 for curve in [*apart, stick] for value in curve.y):
            yield draw_svg([*apart, stick], "step", "distance", is_log=True)
        else:
            yield _paragraph("All losses are the same to the last bit.")
    for pair in result.pairs:
        yield from _pair(pair)
    if result.scores is not None:
        yield from _scores(result.scores)


def _pair(pair: PairResult) -> Iterator[str]:
    verdict, *details = pair_lines(pair)
    yield f"<h2>{escape(verdict)}</h2>"
    yield f"<ul>{''.join(f'<li>{escape(line.strip())}</li>' for line in details)}</ul>"
    for step in pair.steps:
        yield (
            f"<details><summary>Step {step.step + 1}, tensor by tensor</summary>"
            f"{_step_table(step)}</details>"
        )


def _step_table(step: StepComparison) -> str:
    rows = [
        {
            "stage": each.stage,
            "where": each.where,
            "size": f"{each.size:.2g}",
            "scale": f"{each.scale:.3g}",
            "allowed": f"{each.allowed:g}",
        }
        for each in step.differences
    ]
    return _table(rows, STEP_COLUMNS, [each.is_real for each in step.differences])


def _scores(scores: FinalScores) -> Iterator[str]:
    yield f"<h2>Scores after {scores.epochs} epochs</h2>"
    yield _paragraph(images_in_words(scores))
    yield _table([score_row(side) for side in scores.sides], SCORE_COLUMNS)
    yield f"<ul>{''.join(f'<li>{escape(pair.in_words)}</li>' for pair in scores.pairs)}</ul>"


def _finished_body(result: FinishedResult) -> Iterator[str]:
    yield _paragraph(images_in_words(result))
    yield _table([model_row(model) for model in result.models], MODEL_COLUMNS)
    yield f"<ul>{''.join(f'<li>{escape(pair.in_words)}</li>' for pair in result.pairs)}</ul>"
    if result.curves:
        yield "<h2>Top-1 of the validation images after each epoch</h2>"
        curves = [Curve(each.label, each.epochs, each.val_top1) for each in result.curves]
        yield draw_svg(curves, "epoch", "top-1 (%)", markers=True)
    if result.settings:
        yield "<h2>Settings that differ</h2>"
        yield _table(*settings_table(result))


def _document(title: str, body: Iterator[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(
    rows: Sequence[Mapping[str, Json]],
    columns: Mapping[str, str],
    marked: Sequence[bool] | None = None,
) -> str:
    """Returns rows as a table.

    Args:
        marked: which rows stand out.
    """
    head = "".join(f"<th>{escape(heading)}</th>" for heading in columns.values())
    lines = []
    for row, is_marked in zip(rows, marked or [False] * len(rows), strict=True):
        cells = "".join(f"<td>{escape(text_of(row[key]))}</td>" for key in columns)
        lines.append(f'<tr class="real">{cells}</tr>' if is_marked else f"<tr>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"
