"""Draws curves in one plot: a PNG for a file, or an SVG that a page holds."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """A line of the picture."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False  # so that a curve that it covers can be seen


def draw(
    curves: Sequence[Curve],
    x_title: str,
    y_title: str,
    *,
    marks: Mapping[str, float] | None = None,
    markers: bool = True,
) -> bytes:
    """Returns a PNG of curves in one plot.

    Args:
        marks: values of the vertical axis to mark with a dashed line, by label.
        markers: whether each point has a dot.
    """
    file = io.BytesIO()
    figure = _plot(curves, x_title, y_title, marks or {}, markers, is_log=False)
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def draw_svg(
    curves: Sequence[Curve],
    x_title: str,
    y_title: str,
    *,
    markers: bool = False,
    is_log: bool = False,
) -> str:
    """Returns the same as the element <svg> of a page, which refers to nothing outside of it.

    Args:
        is_log: whether the vertical axis is logarithmic; points that are not positive are left out.
    """
    file = io.BytesIO()
    figure = _plot(curves, x_title, y_title, {}, markers, is_log)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue().decode()
    svg = text[text.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def _plot(
    curves: Sequence[Curve],
    x_title: str,
    y_title: str,
    marks: Mapping[str, float],
    markers: bool,
    is_log: bool,
) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        style = ("o" if markers else "") + ("--" if curve.dashed else "-")
        colour = f"C{number}"  # of matplotlib's own ten
        axes.plot(curve.x, curve.y, style, markersize=3, linewidth=1.4, color=colour)
        axes.lines[-1].set_label(_literal(curve.label))
    for label, value in marks.items():
        axes.axhline(value, linestyle="--", linewidth=1, color="0.35")
        axes.lines[-1].set_label(_literal(f"{label}: {value:g}"))
    axes.set(xlabel=x_title, ylabel=y_title)
    axes.set_xlim(left=min(0, *(min(curve.x) for curve in curves)))
    if is_log:
        axes.set_yscale("log", nonpositive="mask")
    axes.grid(visible=True, color="0.88")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _literal(label: str) -> str:
    """Returns a label that matplotlib shows as it is: no formula, and not hidden."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label
