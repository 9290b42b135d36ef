"""What each branch is worth: `ensemble.csv` and `ensemble.png` in the run folder.

Rows of the table are of four kinds. A "branch" has its scores, its weight in the model, its size,
and what its training took. A "mixture" is the mean of the best so many branches, alike ("avg") or
by rank ("geo"), and the model that was written ("joined"). A "pair" has how often two branches give
the same first class, and how far their errors coincide: the correlation of being wrong, 0 for
branches that err independently. "single" is the network for the whole image, if one is named.
"""

import io
from itertools import combinations

import numpy as np

from keras_imnet64.core.files import write_atomic, write_csv
from keras_imnet64.models.load import load_model
from keras_imnet64.models.macs import count_macs, count_parameters

COLUMNS = (
    *("kind", "name", "branches", "top1", "top5", "loss", "weight", "ranked_on"),
    *("agreement", "error_correlation", "parameters", "macs", "seconds", "peak_memory_mb"),
)


def rows_for(members, models, found, weights, ranked_on, mixtures):
    """Rows of COLUMNS from the `BranchPredictions` of the branches and of these mixtures of them.

    Args:
        ranked_on: which images put the branches in order.
        mixtures: {name: weights [M]}, as they were asked for.
    """
    rows = [
        {"kind": "branch", "name": member.name, "branches": 1}
        | {"top1": found.top1[index], "top5": found.top5[index], "loss": found.loss[index]}
        | {"weight": weights[index]}
        | cost_of(member.run, models[index])
        for index, member in enumerate(members)
    ]
    for (name, mixture), scores in zip(mixtures.items(), found.mixed, strict=True):
        rows.append(
            {"kind": "mixture", "name": name, "branches": int(np.count_nonzero(mixture))}
            | scores
            | {"ranked_on": ranked_on}
        )
    for a, b in combinations(range(len(members)), 2):
        rows.append(
            {
                "kind": "pair",
                "name": f"{members[a].name} {members[b].name}",
                "branches": 2,
                "agreement": 100 * float((found.first[a] == found.first[b]).mean()),
                "error_correlation": correlation(found.right[a], found.right[b]),
            }
        )
    return rows


def row_of_single(run, scores):
    """The row of one network for the whole image, from its `Run` and what `evaluate` says."""
    return (
        {"kind": "single", "name": run.path.name, "branches": 0}
        | {key: scores[key] for key in ("top1", "top5", "loss")}
        | cost_of(run, load_model(run.model))
    )


def rounded(row):
    """Without the last digits of sums of floats."""
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}


def cost_of(run, model):
    """Of a network and of its training."""
    metrics = run.metrics
    return {
        "parameters": count_parameters(model),
        "macs": count_macs(model),
        "seconds": metrics.get("seconds", ""),
        "peak_memory_mb": metrics.get("peak_memory_mb") or "",
    }


def correlation(a, b):
    """Of two rows of booleans; 0 where one of them never changes."""
    if a.all() or b.all() or not a.any() or not b.any():
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def write_report(folder, rows):
    table = [dict.fromkeys(COLUMNS, "") | rounded(row) for row in rows]
    write_csv(folder / "ensemble.csv", COLUMNS, table)
    write_atomic(folder / "ensemble.png", image_of(rows))


def image_of(rows):
    """PNG: top-1 of the branches and of the best so many, and how far errors coincide."""
    from matplotlib.figure import Figure

    branches = {row["name"]: row for row in rows if row["kind"] == "branch"}
    names = list(branches)
    bands = [name.removeprefix("branch-") for name in names]
    figure = Figure(figsize=(12, 4), layout="constrained")
    bars, lines, map_ = figure.subplots(1, 3)

    bars.bar(range(len(names)), [branches[name]["top1"] for name in names])
    bars.set_xticks(range(len(names)), bands)
    bars.set(title="each branch", xlabel="band", ylabel="top-1 (%)")

    for fusion in ("avg", "geo"):
        few = [row for row in rows if row["name"].startswith(f"{fusion} of ")]
        lines.plot([row["branches"] for row in few], [row["top1"] for row in few], "o-")
        lines.lines[-1].set_label(fusion)
    joined = next(row for row in rows if row["name"] == "joined")
    lines.axhline(joined["top1"], linestyle="--", color="grey", label="joined")
    for row in rows:
        if row["kind"] == "single":
            lines.axhline(row["top1"], linestyle=":", color="black", label="single")
    lines.set(title="the best so many", xlabel="branches", ylabel="top-1 (%)")
    lines.xaxis.get_major_locator().set_params(integer=True)
    lines.legend()

    matrix = np.eye(len(names))
    for row in rows:
        if row["kind"] == "pair":
            a, b = (names.index(name) for name in row["name"].split())
            matrix[a, b] = matrix[b, a] = row["error_correlation"]
    shown = map_.imshow(matrix, vmin=0, vmax=1)
    map_.set(title="correlation of errors", xlabel="band", ylabel="band")
    for axis in (map_.xaxis, map_.yaxis):
        axis.set_ticks(range(len(names)), bands)
    figure.colorbar(shown, ax=map_)

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
