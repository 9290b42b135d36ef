"""Sections of a page about runs as their folders state them: settings, curves, speed, results."""

import statistics
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from keras_imnet64 import __version__
from keras_imnet64.charts import Curve, bars_svg, draw_svg, heat_map_svg
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.curves import TITLES, Against, read_points, scored_images
from keras_imnet64.pages import (
    bullets,
    details,
    figures,
    heading,
    joined,
    paragraph,
    preformatted,
    table,
    tabs,
)
from keras_imnet64.recipe.difference import difference
from keras_imnet64.recipe.loading import shipped_recipes
from keras_imnet64.recipe.schema import Recipe, ResultSection
from keras_imnet64.records import EpochRow
from keras_imnet64.report.reported import ReportedRun
from keras_imnet64.runs import Run
from keras_imnet64.spectral.report import ReportRow, read_rows

AXES: tuple[Against, ...] = ("steps", "minutes")
CURVES = ("loss", "top1")  # each beside its "val_" column
MAX_ROWS = 1000  # of the table of epochs
SPEED = ("learning_rate", "images_per_second")


def trained_section(runs: Sequence[ReportedRun]) -> Markup:
    """Says what was trained on which data, by which versions, on which devices."""
    facts = [facts_of(each) for each in runs]
    keys = dict.fromkeys(key for each in facts for key in each)
    columns = {"key": ""} | {str(number): each.label for number, each in enumerate(runs)}
    rows: list[JsonObject] = [
        {"key": key, **{str(number): each.get(key) for number, each in enumerate(facts)}}
        for key in keys
    ]
    differs = [len({row[str(number)] for number in range(len(runs))}) > 1 for row in rows]
    recipes = joined(
        details(f"the recipe of {each.label}", preformatted(each.recipe.to_toml()))
        for each in runs
        if each.recipe is not None
    )
    note = paragraph("Rows in which the runs differ stand out.", note=True)
    return table(rows, columns, marked=differs) + (note if len(runs) > 1 else Markup()) + recipes


def facts_of(reported: ReportedRun) -> dict[str, str]:
    """Returns what a run's folder states, as texts by their names."""
    recipe, metrics, environment = reported.recipe, reported.metrics, reported.subject.environment
    facts = {
        "data set": metrics.dataset,
        "scored images": f"all {metrics.model.count:,} of {metrics.split}",
        "classes": f"{len(reported.subject.info.wnids or ()):,}",
    }
    if recipe is None:
        return facts | {"predictions": "from a file"}
    facts |= {
        "images are verified": "yes"
        if metrics.verified
        else "NO: they need not be the published ones",
        "recipe": recipe.name,
        "network": "your own" if reported.subject.info.own_model else recipe.model.in_words,
        "batch size": f"{recipe.data.batch_size:,}",
        "epochs": f"{metrics.epochs or recipe.train.epochs:,} of {recipe.train.epochs:,}",
        "optimizer": f"{recipe.optimizer.name}, learning rate {recipe.optimizer.learning_rate:g}",
        "schedule": recipe.schedule.name,
        "augmentation": ", ".join(_name_of(step) for step in recipe.augment) or "none",
        "dtype": recipe.train.dtype,
        "seed": str(recipe.train.seed),
    }
    network = reported.examined.network if reported.examined is not None else None
    if network is not None:
        held_out, macs = network.num_held_out, network.macs
        facts["training images"] = f"{network.num_train:,}"
        facts["held out of training"] = f"{held_out:,}" if held_out else "none"
        facts["parameters"] = f"{network.parameters:,}"
        facts["multiply-accumulates"] = "not known" if macs is None else f"{macs:,}"
    if environment is not None:
        last = environment.processes[-1]
        facts["digest of the training images"] = environment.digest.train[:16]
        facts["processes"] = str(len(environment.processes))
        facts["backend"] = last.backend
        facts["devices"] = ", ".join(last.devices)
        facts["Python"] = last.python
        facts |= {f"version of {name}": version for name, version in last.versions.items()}
    return facts


def _name_of(step: Json) -> str:
    """Returns the name of an operation or layer of the augmentation."""
    return str(getattr(step, "op", None) or step.layer)


# ------------------------------------------------------------------------------------------ curves


def curves_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Draws loss and top-1 of each epoch, over steps and over minutes."""
    panels = {}
    for against in AXES:
        drawn = [chart for metric in CURVES if (chart := curves_of(runs, metric, against))]
        if drawn:
            panels[f"over {against}"] = figures(drawn)
    if not panels:
        return None
    rows = [_epoch_row(each.label, row) for each in runs for row in each.subject.run.history_so_far]
    if not rows:  # an ensemble has the curves of its branches, and no epochs of its own
        return tabs("curves", panels)
    every = -(-len(rows) // MAX_ROWS)
    summary = "every epoch" if every == 1 else f"one epoch in {every}"
    columns = {"run": "run"} if len(runs) > 1 else {}
    columns |= {name: name for name in EpochRow.__dataclass_fields__}
    return tabs("curves", panels) + details(summary, table(rows[::every], columns, digits=4))


def curves_of(
    runs: Sequence[ReportedRun], metric: str, against: Against
) -> tuple[Markup, str] | None:
    """Returns a metric in training (dashed) and after epochs; None without two epochs."""
    curves = []
    for each in runs:
        name = f"{each.label}, " if len(runs) > 1 else ""
        images = scored_images(each.run.path)
        scored = _curve(each.run, against, f"val_{metric}", f"{name}{images}")
        training = _curve(each.run, against, metric, f"{name}training")
        curves += [scored] if scored else []
        # The curves of several runs keep to what they are compared by.
        curves += [_dashed(training)] if training and (len(runs) == 1 or not scored) else []
        curves += _branch_curves(each, against, f"val_{metric}")
    if not curves:
        return None
    title = {"loss": "loss", "top1": "top-1 (%)"}[metric]
    recipe = runs[0].recipe if metric == "top1" and len(runs) == 1 else None
    published = recipe and recipe.reference
    marks = {"published": published.accuracy} if published and published.accuracy else {}
    return draw_svg(curves, against, title, markers=True, marks=marks), ""


def _curve(run: Run, against: Against, metric: str, label: str) -> Curve | None:
    """Returns a curve of a run, None where it has fewer than two values.

    Raises:
        UserError: the history is damaged.
    """
    if not run.history_file.is_file():
        return None
    curve = read_points(run, against, metric, label)
    return curve if len(curve.y) > 1 else None


def _dashed(curve: Curve) -> Curve:
    return Curve(curve.label, curve.x, curve.y, dashed=True)


def _branch_curves(reported: ReportedRun, against: Against, metric: str) -> list[Curve]:
    """Returns the curves of an ensemble's branches."""
    found = [
        _curve(run, against, metric, f"{run.path.name}, {scored_images(run.path)}")
        for run in reported.subject.branches
    ]
    return [curve for curve in found if curve is not None]


def _epoch_row(label: str, row: dict[str, str]) -> JsonObject:
    numbers = {name: _number(row.get(name)) for name in EpochRow.__dataclass_fields__}
    return {"run": label} | numbers


def _number(text: str | None) -> float | int | None:
    """Returns a cell of history.csv as the number that it is, None for none."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    if value != value:
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


# ------------------------------------------------------------------------------- speed and results


def speed_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Shows learning rate, throughput, duration and memory of training."""
    rows: list[JsonObject] = []
    for each in runs:
        if each.recipe is None:
            continue
        rates = [_number(row.get("images_per_second")) for row in each.subject.run.history_so_far]
        known = [rate for rate in rates if rate]
        rows.append(
            {
                "run": each.label,
                "rate": float(statistics.median(known)) if known else None,
                "seconds": each.metrics.seconds,
                "training_seconds": each.metrics.training_seconds,
                "memory": each.metrics.peak_memory_mb,
            }
        )
    if not rows:
        return None
    columns = {
        "run": "run",
        "rate": "images/s, median epoch",
        "seconds": "seconds of all steps",
        "training_seconds": "seconds from the first step to the model file",
        "memory": "peak memory (MB)",
    }
    drawn = []
    for metric in SPEED:
        curves = [_curve(each.run, "steps", metric, each.label) for each in runs]
        present = [curve for curve in curves if curve is not None]
        if present:
            drawn.append((draw_svg(present, "steps", TITLES[metric], markers=True), ""))
    return table(rows, columns, digits=1) + (figures(drawn) if drawn else Markup())


def results_section(runs: Sequence[ReportedRun]) -> Markup:
    """Holds the published results, and those that this package has measured, against the runs'."""
    rows: list[JsonObject] = []
    for each in runs:
        scores, recipe = each.metrics.model, each.recipe
        rows += _earlier_results(recipe) if recipe is not None else []
        views = f", {each.metrics.views} views" if scores.top1_views is not None else ""
        rows.append(
            {
                "result": f"{each.label}, model.keras" if recipe is not None else each.label,
                "top1": scores.top1,
                "top5": scores.top5,
                "seconds": each.metrics.training_seconds,
                "note": f"{scores.count:,} images; {_uncertainty(scores.top1, scores.count)}",
                "source": "",
            }
        )
        if views:
            rows.append(
                rows[-1]
                | {"result": f"{each.label}{views}", "top1": scores.top1_views}
                | {"top5": scores.top5_views}
            )
        best = each.metrics.best
        if best is not None and each.metrics.selected_on not in (None, "none"):
            rows.append(
                {
                    "result": f"{each.label}, best.keras",
                    "top1": best.top1,
                    "top5": best.top5,
                    "seconds": None,
                    "note": f"epoch {best.epoch}, chosen on {each.metrics.selected_on}",
                    "source": "",
                }
            )
    unique = list({tuple(row.items()): row for row in rows}.values())
    columns = {"result": "result", "top1": "top-1 (%)", "top5": "top-5 (%)", "seconds": "seconds"}
    columns |= {"note": "note", "source": "source"}
    return table(unique, columns) + joined(map(_changes, runs))


def _earlier_results(recipe: Recipe) -> list[JsonObject]:
    """Returns the rows of the results that a recipe states."""
    rows = [
        _result(f"measured before under {backend} ({recipe.name})", result)
        for backend, result in recipe.measured.items()
    ]
    published = recipe.reference
    return ([_result(f"published ({recipe.name})", published)] if published else []) + rows


def _result(name: str, result: ResultSection) -> JsonObject:
    top5 = result.top5
    if top5 is None and result.top5_error is not None:
        top5 = round(100 - result.top5_error, 2)
    return {
        "result": name,
        "top1": result.accuracy,
        "top5": top5,
        "seconds": result.seconds,
        "note": result.note or "",
        "source": result.source or "",
    }


def _uncertainty(percent: float, count: int) -> str:
    """Returns how far an accuracy on so many images may lie from that on all images."""
    share = percent / 100
    error = 100 * float(np.sqrt(share * (1 - share) / count))
    return f"top-1 has a standard error of {error:.2f} from their choice"


def _changes(reported: ReportedRun) -> Markup:
    """Says in which settings a run differs from the shipped recipe of its name."""
    recipe = reported.recipe
    shipped = shipped_recipes().get(recipe.name) if recipe is not None else None
    changes = difference(shipped, recipe) if recipe is not None and shipped is not None else []
    if recipe is None or not changes:
        return Markup()
    return paragraph(
        f"{reported.label} was trained with other settings than the shipped recipe "
        f"{recipe.name}, to which earlier results belong:"
    ) + bullets(changes)


# --------------------------------------------------------------------------------------- ensembles


def ensemble_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Shows what each branch of an ensemble contributes: plots and table of ensemble.csv."""
    parts = []
    for each in runs:
        file = each.run.path / "ensemble.csv"
        if each.subject.is_ensemble and file.is_file():
            rows = read_rows(file)
            if len(runs) > 1:
                parts.append(heading(each.label))
            parts.append(figures(ensemble_charts(rows)))
            cells = [{key: value for key, value in vars(row).items()} for row in rows]
            columns = {key: key.replace("_", " ") for key in vars(rows[0])}
            parts.append(details("every branch, mixture and pair", table(cells, columns)))
    return joined(parts) if parts else None


def ensemble_charts(rows: Sequence[ReportRow]) -> list[tuple[Markup, str]]:
    """Draws the accuracy of branches and mixtures, and how far the branches' errors agree."""
    branches = [row for row in rows if row.kind == "branch"]
    charts = [
        (
            bars_svg({row.name: row.top1 or 0.0 for row in branches}, "top-1 (%)", " %"),
            "Each branch alone.",
        )
    ]
    mixtures = []
    for fusion in ("avg", "geo"):
        best = [row for row in rows if row.name.startswith(f"{fusion} of ")]
        x, y = [float(row.branches) for row in best], [row.top1 or 0.0 for row in best]
        if best:
            mixtures.append(Curve(fusion, tuple(x), tuple(y)))
    marks = {
        row.name if row.kind == "mixture" else "single": row.top1 or 0.0
        for row in rows
        if row.name == "joined" or row.kind == "single"
    }
    if mixtures:
        charts.append(
            (
                draw_svg(mixtures, "branches", "top-1 (%)", markers=True, marks=marks),
                "Mixtures of the best branches.",
            )
        )
    names = [row.name for row in branches]
    matrix = np.zeros((len(names), len(names)))
    for row in rows:
        if row.kind == "pair":
            a, b = (names.index(name) for name in row.name.split())
            matrix[a, b] = matrix[b, a] = max(0.0, row.error_correlation or 0.0)
    if matrix.any():
        charts.append(
            (
                heat_map_svg(matrix, names, names, ("branch", "branch")),
                "Branches with errors that agree: their correlation, 0 where they are independent.",
            )
        )
    return charts


def about_section(runs: Sequence[ReportedRun]) -> Markup:
    """Says what made the page, and from which files."""
    lines = [f"{each.label}: {each.subject.path}" for each in runs]
    return paragraph(
        f"Made by keras_imnet64 {__version__} from what is listed below. The page is one file and "
        "loads nothing; its pictures are validation images of the data set, whose licence holds "
        "for them."
    ) + bullets(lines)
