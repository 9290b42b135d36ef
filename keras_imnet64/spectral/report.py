"""Reports how much each branch contributes: `ensemble.csv` and `ensemble.png` in the run folder.

The table has four kinds of rows. A "branch" has its scores, its weight in the model, its size, and
the time and memory of its training. A "mixture" has the scores of the model file ("joined"), or of
the best few branches with equal weights ("avg") or weights by rank ("geo"). A "pair" has how often
two branches predict the same first class, and the correlation of their errors, 0 for branches that
err independently. "single" is the network for the whole image, if the user names one.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import keras
import numpy as np

from keras_imnet64.core.errors import UserError, reason, shortened
from keras_imnet64.core.files import read_small, write_atomic, write_csv
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.evaluation.predictions import BranchPredictions
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.models.macs import count_parameters, known_macs
from keras_imnet64.records import Scores
from keras_imnet64.runs import Run
from keras_imnet64.spectral.members import Member

MAX_REPORT_BYTES = 2**24  # a row takes 100 bytes


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of the logits of M branches."""

    name: str
    weights: list[float]  # M, 0 for a branch that is not part of the mixture


@dataclass(frozen=True)
class ReportRow:
    """A row of ensemble.csv; the fields are its columns, and None leaves one empty."""

    kind: Literal["branch", "mixture", "pair", "single"]
    name: str
    branches: int  # number of branches in it
    top1: float | None = None  # percent
    top5: float | None = None  # percent
    loss: float | None = None  # nats
    weight: float | None = None
    ranked_on: str | None = None  # the images on which the branches were ranked
    agreement: float | None = None  # percent of the images
    error_correlation: float | None = None
    parameters: int | None = None
    macs: int | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None

    def cells(self) -> JsonObject:
        """Returns the values by column, with floats rounded to six decimals."""
        return {column: _cell(value) for column, value in asdict(self).items()}


COLUMNS = tuple(field.name for field in fields(ReportRow))


def _cell(value: Json) -> Json:
    if value is None:
        return ""
    return round(value, 6) if isinstance(value, float) else value


def ensemble_rows(
    members: Sequence[Member],
    models: Sequence[keras.Model],
    predictions: BranchPredictions,
    weights: Sequence[float],
    mixtures: Sequence[Mixture],
    ranked_on: str,
) -> list[ReportRow]:
    """Returns the rows of all branches, mixtures and pairs.

    Args:
        predictions: those of the members and of these mixtures.
        weights: those of the members in the model file.
        ranked_on: the images on which the branches were ranked.
    """
    rows = [
        _network_row("branch", member.run, model, scores, branches=1, weight=weight)
        for member, model, scores, weight in zip(
            members, models, predictions.scores, weights, strict=True
        )
    ]
    for mixture, scores in zip(mixtures, predictions.mixture_scores, strict=True):
        count = int(np.count_nonzero(mixture.weights))
        row = ReportRow(
            "mixture",
            mixture.name,
            count,
            scores.top1,
            scores.top5,
            scores.loss,
            ranked_on=ranked_on,
        )
        rows.append(row)
    rows += _pair_rows([member.name for member in members], predictions)
    return rows


def _pair_rows(names: Sequence[str], predictions: BranchPredictions) -> Iterator[ReportRow]:
    first_class, is_right = predictions.first_class, predictions.is_right
    for a, b in combinations(range(len(names)), 2):
        yield ReportRow(
            "pair",
            f"{names[a]} {names[b]}",
            branches=2,
            agreement=100 * float((first_class[a] == first_class[b]).mean()),
            error_correlation=correlation(is_right[a], is_right[b]),
        )


def single_row(run: Run, scores: Scores) -> ReportRow:
    """Returns the row of the network for the whole image, from its finished run."""
    return _network_row("single", run, load_model(run.model), scores, branches=0)


def _network_row(
    kind: Literal["branch", "single"],
    run: Run,
    model: keras.Model,
    scores: Scores,
    *,
    branches: int,
    weight: float | None = None,
) -> ReportRow:
    """Returns the row of a network, with its size and the time and memory of its training."""
    metrics = run.read_metrics()
    return ReportRow(
        kind,
        run.path.name,
        branches,
        scores.top1,
        scores.top5,
        scores.loss,
        weight,
        parameters=count_parameters(model),
        macs=known_macs(model, read_model_info(run.model).image_size),
        seconds=metrics.seconds,
        peak_memory_mb=metrics.peak_memory_mb or None,
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the correlation of two rows of booleans [N]; 0 if one of them is constant."""
    if a.all() or b.all() or not a.any() or not b.any():
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def write_report(folder: Path, rows: Sequence[ReportRow]) -> None:
    """Writes the table and its plot into a run folder."""
    write_csv(folder / "ensemble.csv", COLUMNS, [row.cells() for row in rows])
    write_atomic(folder / "ensemble.png", plot(rows))


def read_rows(path: Path) -> list[ReportRow]:
    """Returns the rows of an ensemble.csv; raises a UserError if it is damaged."""
    kinds = get_type_hints(ReportRow)
    try:
        text = read_small(path, MAX_REPORT_BYTES).decode()
        lines = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        rows = [
            ReportRow(**{column: _value(line[column], kinds[column]) for column in COLUMNS})
            for line in lines
        ]
        _check_rows(rows)
        return rows
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({reason(error)}): run `ensemble` again") from error


def _check_rows(rows: Sequence[ReportRow]) -> None:
    branches = [row.name for row in rows if row.kind == "branch"]
    if not branches:
        raise ValueError("it has no branch")
    for row in rows:
        names = row.name.split()
        if row.kind == "pair" and (len(names) != 2 or not set(names) <= set(branches)):
            raise ValueError(f'its pair "{shortened(row.name, 80)}" is none of its branches')


def _value(cell: str, kind: object) -> Json:
    """Returns a cell as the value that a field of `ReportRow` holds."""
    types = get_args(kind)
    if cell == "" and type(None) in types:
        return None
    if kind is int or int in types:
        return int(cell)
    return float(cell) if float in types else cell


def plot(rows: Sequence[ReportRow]) -> bytes:
    """Returns a PNG: top-1 of the branches and of mixtures, and the correlation of errors."""
    from matplotlib.figure import Figure

    branches = [row for row in rows if row.kind == "branch"]
    names = [row.name for row in branches]
    bands = [name.removeprefix("branch-") for name in names]
    figure = Figure(figsize=(12, 4), layout="constrained")
    bars, lines, heat_map = figure.subplots(1, 3)

    bars.bar(range(len(names)), [row.top1 for row in branches])
    bars.set_xticks(range(len(names)), bands)
    bars.set(title="each branch", xlabel="band", ylabel="top-1 (%)")

    for fusion in ("avg", "geo"):
        best = [row for row in rows if row.name.startswith(f"{fusion} of ")]
        lines.plot([row.branches for row in best], [row.top1 for row in best], "o-", label=fusion)
    joined = next(row for row in rows if row.name == "joined")
    lines.axhline(joined.top1, linestyle="--", color="grey", label="joined")
    for row in rows:
        if row.kind == "single":
            lines.axhline(row.top1, linestyle=":", color="black", label="single")
    lines.set(title="mixtures of the best branches", xlabel="branches", ylabel="top-1 (%)")
    lines.xaxis.get_major_locator().set_params(integer=True)
    lines.legend()

    matrix = np.eye(len(names))
    for row in rows:
        if row.kind == "pair":
            a, b = (names.index(name) for name in row.name.split())
            matrix[a, b] = matrix[b, a] = row.error_correlation
    colours = heat_map.imshow(matrix, vmin=0, vmax=1)
    heat_map.set(title="correlation of errors", xlabel="band", ylabel="band")
    for axis in (heat_map.xaxis, heat_map.yaxis):
        axis.set_ticks(range(len(names)), bands)
    figure.colorbar(colours, ax=heat_map)

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
