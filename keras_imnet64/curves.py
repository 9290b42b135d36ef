"""Draws curves of runs as a picture: accuracy against minutes, epochs or steps, from history.csv.

Minutes are those of `training_seconds`: the wall clock from a run's first step on, with
compilation and the scores of epochs. Runs of versions that did not record it have the seconds of
their epochs' steps instead, and their label says so. `charts` draws.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate, compress
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from keras_imnet64.charts import Curve, draw
from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.paths import check_output_file
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.records import EpochRow
from keras_imnet64.runs import Run, open_run, unique_labels

Against: TypeAlias = Literal["minutes", "epochs", "steps"]
COUNTED: dict[Against, str] = {"epochs": "epoch", "steps": "step"}  # columns of history.csv
TITLES = {  # of what can be drawn, a column of history.csv
    "val_top1": "top-1 of {images} (%)",
    "val_top5": "top-5 of {images} (%)",
    "val_loss": "cross-entropy of {images}",
    "top1": "top-1 in training (%)",
    "top5": "top-5 in training (%)",
    "loss": "loss in training",
    "learning_rate": "learning rate",
    "images_per_second": "images per second",
}
assert set(TITLES) < {field.name for field in fields(EpochRow)}
MAX_CURVES = 10  # as many colours as can be told apart

ScoredImages: TypeAlias = Literal["held-out images", "validation images", "scored images"]


def draw_runs(
    runs: Sequence[StrPath],
    out: StrPath,
    *,
    against: Against = "minutes",
    metric: str = "val_top1",
    published: Mapping[str, float] | None = None,
) -> JsonObject:
    """Writes a PNG with a curve for each run.

    Args:
        runs: run folders with at least two finished epochs, which need not be finished.
        out: the picture, whose name ends in .png.
        against: what the horizontal axis shows.
        metric: a key of TITLES.
        published: values to mark with a horizontal line, by label.

    Returns:
        dict: out, metric, against, and runs, a list with the label, length, best and last value of
        each curve.

    Raises:
        UserError: a folder is no run, or its history is missing, damaged, or too short to draw.
    """
    check_output_file(out, ".png")
    if metric not in TITLES:
        raise UserError(f'there is no curve of "{metric}": {nearest(metric, TITLES)}')
    if len(runs) > MAX_CURVES:
        raise UserError(f"a picture has at most {MAX_CURVES} runs; received {len(runs)}")
    labels = unique_labels(runs)
    title = TITLES[metric]
    if metric.startswith("val_"):
        labels, images = name_images(labels, [scored_images(run) for run in runs])
        title = title.format(images=images)
    curves = [
        read_curve(run, against, metric, label) for run, label in zip(runs, labels, strict=True)
    ]
    write_atomic(Path(out), draw(curves, against, title, marks=published))
    best = min if metric in ("loss", "val_loss") else max
    return {
        "out": str(out),
        "metric": metric,
        "against": against,
        "runs": [
            {
                "run": curve.label,
                against: round(curve.x[-1], 2),
                "best": best(curve.y),
                "last": curve.y[-1],
            }
            for curve in curves
        ],
    }


def scored_images(path: StrPath) -> ScoredImages:
    """Returns which images the scores of a run's epochs are of, by its recipe."""
    try:
        selection = load_recipe(Run(Path(path)).recipe_file).selection
    except UserError:  # a recipe that this version does not read: its curves are there all the same
        return "scored images"
    return "held-out images" if selection == "holdout" else "validation images"


def name_images(
    labels: Sequence[str], images: Sequence[ScoredImages]
) -> tuple[list[str], ScoredImages]:
    """Returns (labels, the images of all runs); if these differ, the labels state them."""
    if len(set(images)) == 1:
        return list(labels), images[0]
    stated = [f"{label}, {each}" for label, each in zip(labels, images, strict=True)]
    return stated, "scored images"


def read_curve(path: StrPath, against: Against, metric: str, label: str) -> Curve:
    """Returns the curve of a run; its label also says if its minutes are not the wall clock's.

    Raises:
        UserError: the folder is no run, or its history is missing, damaged, or too short to draw.
    """
    run = open_run(path)
    if not run.history_file.exists():
        raise UserError(f"the run in {path} has no history.csv: no epoch of it is finished")
    curve = read_points(run, against, metric, label)
    if len(curve.y) < 2:
        raise UserError(
            f"a curve needs two finished epochs with a {metric}; the run in {path} has "
            f"{len(curve.y)}"
        )
    return curve


def check_history(run: Run) -> None:
    """Refuses a history in which a number that can be drawn is damaged."""
    if run.history_file.is_file():
        for metric in TITLES:
            for against in get_args(Against):
                read_points(run, against, metric, "")


def read_points(run: Run, against: Against, metric: str, label: str) -> Curve:
    """Returns the curve of a run that has a history; it may have no points, or one.

    Raises:
        UserError: the history is damaged.
    """
    rows = run.history
    has_value = [row.get(metric) not in ("", None) for row in rows]  # see `train.validate_every`
    y = _numbers(run, list(compress(rows, has_value)), metric)
    if against in COUNTED:
        x = _numbers(run, rows, COUNTED[against])
    elif all(row.get("training_seconds") for row in rows):
        x = tuple(s / 60 for s in _numbers(run, rows, "training_seconds"))
    else:
        label = f"{label} (steps alone)"
        x = tuple(s / 60 for s in accumulate(_numbers(run, rows, "seconds")))
    return Curve(label, tuple(compress(x, has_value)), y)


def _numbers(run: Run, rows: Sequence[Mapping[str, str]], column: str) -> tuple[float, ...]:
    """Returns a column of a history as finite numbers."""
    try:
        numbers = tuple(float(row[column]) for row in rows)
    except (KeyError, TypeError, ValueError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UserError(
            f"{run.history_file} is damaged: its column {column} does not hold a number for each "
            "epoch; restore the file"
        )
    return numbers
