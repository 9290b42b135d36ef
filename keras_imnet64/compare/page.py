"""Shows the result of a comparison in a browser: one HTML file that loads nothing, see `pages`."""

from collections.abc import Iterator

from markupsafe import Markup

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
from keras_imnet64.curves import name_images
from keras_imnet64.pages import bullets, details, document, heading, joined, paragraph, table

STEP_COLUMNS = {
    "stage": "stage",
    "where": "layer or variable",
    "size": "difference in units of its scale",
    "scale": "scale: the largest number",
    "allowed": "explained by rounding",
}


def page(result: Result) -> str:
    """Returns the page of a comparison."""
    return document(f"{result.recipe}, compared", verdicts(result))


def verdicts(result: Result) -> Markup:
    """Returns what a page says of a comparison."""
    return joined(_body(result))


def finished_page(result: FinishedResult) -> str:
    """Returns the page of finished runs and model files."""
    return document("Runs, compared", joined(_finished_body(result)))


def _body(result: Result) -> Iterator[Markup]:
    yield paragraph(
        f"{result.num_steps} steps of {result.images_per_step} images on each side, from the same "
        "start and the same batches."
    )
    yield table([side_row(side) for side in result.sides], COLUMNS)
    if result.num_steps > 1:
        yield heading("Loss of each step")
        steps = tuple(float(step + 1) for step in range(result.num_steps))
        curves = [
            Curve(side.label, steps, side.losses, dashed=number > 0)
            for number, side in enumerate(result.sides)
            if side.losses
        ]
        yield draw_svg(curves, "step", "loss")
        yield heading("Distance of the losses from those of the first side")
        apart = [Curve(p.second, steps, p.distances) for p in result.pairs if p.distances]
        stick = Curve("yardstick: starts one last bit apart", steps, result.yardstick, dashed=True)
        sticks = [
            stick,
            *(
                Curve(f"second yardstick, for {p.second}", steps, p.second_yardstick, dashed=True)
                for p in result.pairs
                if p.second_yardstick
            ),
        ]
        if any(value > 0 for curve in [*apart, *sticks] for value in curve.y):
            yield draw_svg([*apart, *sticks], "step", "distance", is_log=True)
        else:
            yield paragraph("All losses are the same to the last bit.")
    for pair in result.pairs:
        yield from _pair(pair)
    if result.scores is not None:
        yield from _scores(result.scores)


def _pair(pair: PairResult) -> Iterator[Markup]:
    verdict, *lines = pair_lines(pair)
    yield heading(verdict)
    yield bullets(line.strip() for line in lines)
    for step in pair.steps:
        yield details(f"Step {step.step + 1}, tensor by tensor", _step_table(step))


def _step_table(step: StepComparison) -> Markup:
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
    return table(rows, STEP_COLUMNS, marked=[each.is_real for each in step.differences])


def _scores(scores: FinalScores) -> Iterator[Markup]:
    yield heading(f"Scores after {scores.after}")
    yield paragraph(images_in_words(scores))
    yield table([score_row(side) for side in scores.sides], SCORE_COLUMNS)
    yield bullets(pair.in_words for pair in scores.pairs)


def _finished_body(result: FinishedResult) -> Iterator[Markup]:
    yield paragraph(images_in_words(result))
    yield table([model_row(model) for model in result.models], MODEL_COLUMNS)
    yield bullets(pair.in_words for pair in result.pairs)
    if result.curves:
        labels, images = name_images(
            [each.label for each in result.curves], [each.images for each in result.curves]
        )
        yield heading(f"Top-1 of the {images} after each epoch")
        curves = [
            Curve(label, each.epochs, each.val_top1)
            for label, each in zip(labels, result.curves, strict=True)
        ]
        yield draw_svg(curves, "epoch", "top-1 (%)", markers=True)
    if result.settings:
        yield heading("Settings that differ")
        yield table(*settings_table(result))
