"""Draws the results of a sweep: a curve for one key, heat maps for pairs of keys, and parallel
coordinates for more.

All show the mean of the held-out top-1 over the seeds of a setting.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from keras_imnet64.charts import literal
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.types import Json
from keras_imnet64.sweep.axes import short_names, value_text
from keras_imnet64.sweep.folder import SweepFolder
from keras_imnet64.sweep.records import SettingRecord, SweepRecord
from keras_imnet64.sweep.results import ranking, score_text, values_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE = "held-out top-1 (%)"
MAX_PAIRS = 10  # of five keys
LOG_FROM = 8  # ratio of the largest and the smallest value
DPI = 120
FADED = "0.6"  # of what is not finished; visible on light and dark paper


def write_pictures(folder: SweepFolder, record: SweepRecord) -> list[str]:
    """Writes the pictures of a sweep as PNG, and returns the names of the files."""
    names = []
    for name, figure in pictures(record).items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI)
        names.append(f"{name}.png")
        write_atomic(folder.path / names[-1], content.getvalue())
    return names


def pictures(record: SweepRecord) -> "dict[str, Figure]":
    """Returns the pictures by name; none before a setting is finished."""
    return {name: draw() for name, draw in drawings(record).items()}


def drawings(record: SweepRecord, paper: str = "white") -> "dict[str, Callable[[], Figure]]":
    """Returns the functions that draw the pictures, by name.

    Args:
        paper: the colour behind labels.
    """
    found: dict[str, Callable[[], Figure]] = {}
    keys = _keys(record)
    if record.best is None or not keys:
        return found
    if len(keys) == 1:
        return {f"curve-{_file_name(keys[0])}": partial(curve, record, keys[0])}
    if not record.trials:
        for pair in list(combinations(keys, 2))[:MAX_PAIRS]:
            name = f"heat-map-{_file_name(pair[0])}-{_file_name(pair[1])}"
            found[name] = partial(heat_map, record, *pair)
    if len(keys) > 2 or record.trials:
        found["parallel-coordinates"] = partial(parallel_coordinates, record, keys, paper)
    return found


def _keys(record: SweepRecord) -> list[str]:
    """Returns the keys that have more than one value."""
    lists = [key for key, values in record.keys.items() if len(values) > 1]
    return [*lists, *record.ranges]


def _file_name(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key)


def _title(record: SweepRecord, more: str = "") -> str:
    seeds = f", mean ± standard deviation of {len(record.seeds)} seeds"
    return f"{SCORE}{seeds if len(record.seeds) > 1 else ''}{more}"


# -------------------------------------------------------------------------------------- heat maps


def heat_map(record: SweepRecord, row_key: str, column_key: str) -> "Figure":
    """Returns the scores of all pairs of values; with more keys, of the best setting of each pair.

    Args:
        row_key, column_key: two keys of `SweepRecord.keys`.
    """
    from matplotlib.figure import Figure

    rows, columns = record.keys[row_key], record.keys[column_key]
    table = [[best_of_pair(record, {row_key: r, column_key: c}) for c in columns] for r in rows]
    means = [[math.nan if s is None or s.mean is None else s.mean for s in line] for line in table]
    figure = Figure(
        figsize=(2.6 + 1.05 * max(3, len(columns)), 1.8 + 0.62 * max(2, len(rows))),
        layout="constrained",
    )
    axes = figure.subplots()
    axes.set_facecolor("0.9")
    x_edges, y_edges = (np.arange(count + 1) - 0.5 for count in (len(columns), len(rows)))
    image = axes.pcolormesh(x_edges, y_edges, np.ma.masked_invalid(means), cmap="viridis")
    axes.invert_yaxis()  # the first row is the upper one
    known = [mean for line in means for mean in line if not math.isnan(mean)]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    for y, line in enumerate(table):
        for x, setting in enumerate(line):
            is_dark = not math.isnan(means[y][x]) and means[y][x] < middle
            axes.text(
                x,
                y,
                _cell_text(record, setting),
                ha="center",
                va="center",
                color="white" if is_dark else "black",
            )
    names = short_names([row_key, column_key])
    _set_ticks(axes, "x", columns, names[column_key])
    _set_ticks(axes, "y", rows, names[row_key])
    others = len(_keys(record)) > 2
    axes.set_title(
        _title(record, ";\nof each pair the best over the other keys" if others else ""),
        fontsize=10,
    )
    figure.colorbar(image, ax=axes)
    return figure


def best_of_pair(record: SweepRecord, pair: dict[str, Json]) -> SettingRecord | None:
    """Returns the best setting that has these values."""
    fitting = [s for s in record.settings if all(s.values[k] == v for k, v in pair.items())]
    return fitting[ranking(fitting)[0]] if fitting else None


def _cell_text(record: SweepRecord, setting: SettingRecord | None) -> str:
    """Returns the mean and, below it, the spread; or the state of a setting without scores."""
    if setting is None:
        return ""
    if setting.mean is None:
        return record.cells[setting.cells[0]].state
    return f"{setting.mean:.2f}" + ("" if setting.spread is None else f"\n± {setting.spread:.2f}")


def _set_ticks(axes: "Axes", which: str, values: Sequence[Json], name: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(range(len(values)), [literal(value_text(value)) for value in values])
    axis.set_label_text(literal(name))


# ------------------------------------------------------------------------------------------ curves


def curve(record: SweepRecord, key: str) -> "Figure":
    """Returns the scores over the values of a key, with the spread as bars and a dot per cell."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    places = _places(record, key)
    means = {i: s.mean for i, s in enumerate(record.settings) if s.mean is not None}
    order = sorted(means, key=lambda index: places[index])
    axes.errorbar(
        [places[index] for index in order],
        [means[index] for index in order],
        yerr=[record.settings[index].spread or 0.0 for index in order],
        fmt="o-",
        capsize=3,
    )
    for index in order:
        cells = [record.cells[number] for number in record.settings[index].cells]
        scores = [c.val_top1 for c in cells if c.state == "finished" and c.val_top1 is not None]
        axes.plot([places[index]] * len(scores), scores, ".", color="0.4", markersize=4)
    if _is_numeric(record, key):
        if _is_log(record, key):
            axes.set_xscale("log")
        axes.set_xlabel(literal(key))
    else:
        _set_ticks(axes, "x", record.keys[key], key)
    axes.set(ylabel=SCORE, title=_title(record))
    axes.grid(visible=True, color=FADED, alpha=0.4)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    return figure


def _places(record: SweepRecord, key: str) -> list[float]:
    """Returns where the settings stand on the axis of a key."""
    values = [setting.values[key] for setting in record.settings]
    if _is_numeric(record, key):
        return [float(value) for value in values]
    return [float(record.keys[key].index(value)) for value in values]


def _is_numeric(record: SweepRecord, key: str) -> bool:
    if key in record.ranges:
        return True
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in record.keys[key])


def _is_log(record: SweepRecord, key: str) -> bool:
    """Whether the axis of a key with numbers is logarithmic."""
    if key in record.ranges:
        return record.ranges[key].is_log
    low, high = (float(bound(map(_number, record.keys[key]))) for bound in (min, max))
    return low > 0 and high / low >= LOG_FROM


def _number(value: Json) -> float:
    return float(value)


# ---------------------------------------------------------------------------- parallel coordinates


def parallel_coordinates(record: SweepRecord, keys: Sequence[str], paper: str) -> "Figure":
    """Returns a line for each setting through its values and its score, which colours it.

    The gid of a line is that of `line_tips`.
    """
    from matplotlib import colormaps, rcParams
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.8 + 1.6 * len(keys), 4.4), layout="constrained")
    axes = figure.subplots()
    scores = [setting.mean for setting in record.settings if setting.mean is not None]
    low, high = min(scores), max(scores)
    columns = [_column(record, key) for key in keys]
    for index in reversed(ranking(record.settings)):
        setting = record.settings[index]
        heights = [places[index] for places, _ in columns]
        if setting.mean is None:
            axes.plot(heights, color=FADED, linewidth=0.8, gid=_gid(index))
            continue
        height = _scaled(setting.mean, low, high)
        colour = colormaps["viridis"](0.2 + 0.7 * height)  # its ends vanish on paper
        axes.plot([*heights, height], color=colour, linewidth=1.6, gid=_gid(index))
    box = {"facecolor": paper, "edgecolor": "none", "alpha": 0.8, "pad": 1}
    ticks = [*(labels for _, labels in columns), _score_labels(low, high)]
    for x, labels in enumerate(ticks):
        axes.axvline(x, color=rcParams["axes.edgecolor"], linewidth=1)
        for height, label in labels.items():
            axes.text(x + 0.04, height, literal(label), fontsize=9, va="center", bbox=box)
    names = short_names(keys)
    axes.set_xticks(range(len(ticks)), [*(literal(names[key]) for key in keys), SCORE])
    axes.set(yticks=[], xlim=(-0.1, len(keys) + 0.4), ylim=(-0.06, 1.06))
    axes.set_title(_title(record), fontsize=10)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    return figure


def _gid(index: int) -> str:
    return f"setting-{index}"


def line_tips(record: SweepRecord) -> dict[str, list[str]]:
    """Returns what the lines of parallel coordinates stand for, by their gids."""
    return {
        _gid(index): [f"{values_text(setting)}: {score_text(setting)}"]
        for index, setting in enumerate(record.settings)
    }


def _score_labels(low: float, high: float) -> dict[float, str]:
    """Returns the labels of the axis of scores by their heights."""
    return {_scaled(score, low, high): f"{score:.2f}" for score in (low, high)}


def _column(record: SweepRecord, key: str) -> tuple[list[float], dict[float, str]]:
    """Returns the heights of the settings on the axis of a key, from 0 to 1, and its labels.

    The values of a list stand at equal distances.
    """
    if key not in record.ranges:
        values = record.keys[key]
        heights = [index / (len(values) - 1) for index in range(len(values))]
        labels = {height: value_text(v) for height, v in zip(heights, values, strict=True)}
        return [heights[values.index(setting.values[key])] for setting in record.settings], labels
    bounds = record.ranges[key]
    scale = math.log if bounds.is_log else float
    low, high = scale(bounds.low), scale(bounds.high)
    places = [_scaled(scale(float(s.values[key])), low, high) for s in record.settings]
    middle = math.sqrt(bounds.low * bounds.high) if bounds.is_log else (low + high) / 2
    ends = {0.0: bounds.low, 0.5: middle, 1.0: bounds.high}
    return places, {height: value_text(value) for height, value in ends.items()}


def _scaled(value: float, low: float, high: float) -> float:
    """Returns where a value lies between two others, from 0 to 1."""
    return 0.5 if low == high else (value - low) / (high - low)
