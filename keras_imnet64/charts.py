"""Draws charts with matplotlib: a PNG for a file, or an SVG that a page holds.

The SVG of a page follows its colours, light or dark: ink, grid and accent are drawn in three
colours that nothing else has, which then become those of `pages`. What the pointer rests on shows
its values (`<title>`).
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from keras_imnet64.core.errors import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, ACCENT = "#010203", "#010204", "#010205"
PAPER = "#010206"  # behind labels
PAGE_COLOURS = {
    INK: "currentColor",
    GRID: "var(--line)",
    ACCENT: "var(--accent)",
    PAPER: "var(--paper)",
}
ACCENT_RGB = (0x40, 0x80, 0xE0)  # of pixels, which cannot follow the page: visible on both papers
SERIES = (  # of curves: at least 3:1 against white and against the dark page
    *("#3b7ddd", "#cf6a17", "#2b9a5c", "#d0453c", "#8d68d8"),
    *("#a0724e", "#cf55a2", "#7b858f", "#8f8a1c", "#1e95a8"),
)
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
SIZE = (5.6, 3.5)  # inches: about as wide as a phone, so that text there is not made smaller
MAX_DOTS = 60  # of a curve, each with its values
MAX_IN_PLOT = 6  # labels of a picture that stand among its curves; more stand beside them
MAX_LABEL = 28  # characters of a name beside an axis
MAX_CELLS = 40  # per side of a heat map whose cells show their values


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
    from matplotlib.figure import Figure

    is_crowded = len(curves) + len(marks or {}) > MAX_IN_PLOT
    figure = Figure(figsize=(8.5 if is_crowded else 6.5, 4), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        style = ("o" if markers else "") + ("--" if curve.dashed else "-")
        colour = f"C{number}"  # of matplotlib's own ten
        axes.plot(curve.x, curve.y, style, markersize=3, linewidth=1.4, color=colour)
        axes.lines[-1].set_label(literal(curve.label))
    for label, value in (marks or {}).items():
        axes.axhline(value, linestyle="--", linewidth=1, color="0.35")
        axes.lines[-1].set_label(literal(f"{label}: {value:g}"))
    axes.set(xlabel=x_title, ylabel=y_title)
    axes.set_xlim(left=min(0, *(min(curve.x) for curve in curves)))
    _plain(axes, "0.88")
    if is_crowded:
        figure.legend(frameon=False, loc="outside right upper")
    else:
        axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return file.getvalue()


# --------------------------------------------------------------------------------- charts of a page


def draw_svg(
    curves: Sequence[Curve],
    x_title: str,
    y_title: str,
    *,
    marks: Mapping[str, float] | None = None,
    markers: bool = False,
    is_log: bool = False,
) -> Markup:
    """Returns curves as an <svg>, whose dots show their values.

    Args:
        marks: values of the vertical axis to mark with a dashed line, by label.
        markers: whether points have dots, at most MAX_DOTS of a curve.
        is_log: whether the vertical axis is logarithmic; points that are not positive are left out.
    """
    tips: dict[str, list[str]] = {}
    with _page_figure() as figure:
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            label, every = literal(curve.label), -(-len(curve.x) // MAX_DOTS)
            axes.plot(
                curve.x,
                curve.y,
                ("o" if markers else "") + ("--" if curve.dashed else "-"),
                markersize=3.5,
                linewidth=1.5,
                markevery=every,
                color=SERIES[number % len(SERIES)],
                label=label,
                gid=f"curve{number}",
            )
            shown = list(zip(curve.x, curve.y, strict=True))[::every]
            tips[f"curve{number}"] = [
                f"{curve.label}: {y_title} {y:.5g} at {x_title} {x:.5g}"
                for x, y in shown
                if np.isfinite(y) and not (is_log and y <= 0)
            ]
        for label, value in (marks or {}).items():
            axes.axhline(value, linestyle=":", linewidth=1.2, color=INK, label=literal(label))
        axes.set(xlabel=x_title, ylabel=y_title)
        if is_log:
            axes.set_yscale("log", nonpositive="mask")
        _plain(axes, GRID)
        if len(curves) + len(marks or {}) > 1:
            axes.legend(frameon=False)
        return _svg(figure, tips if markers else {}, f"{y_title} by {x_title}")


def bars_svg(values: Mapping[str, float], x_title: str, unit: str = "") -> Markup:
    """Returns horizontal bars, the first on top, each of which shows its value.

    Args:
        values: by their labels.
        unit: of the values, as they are shown.
    """
    with _page_figure(height=max(1.2, 0.6 + 0.2 * len(values))) as figure:
        axes = figure.subplots()
        bars = axes.barh(range(len(values)), list(values.values()), height=0.7, color=ACCENT)
        for number, bar in enumerate(bars):
            bar.set_gid(f"bar{number}")
        names = [literal(shortened(label, MAX_LABEL)) for label in values]
        axes.set_yticks(range(len(values)), names)
        axes.invert_yaxis()
        axes.set(xlabel=x_title, xlim=(0, None))
        _plain(axes, GRID, axis="x")
        tips = {
            f"bar{number}": [f"{label}: {value:.4g}{unit}"]
            for number, (label, value) in enumerate(values.items())
        }
        return _svg(figure, tips, x_title)


def histogram_svg(values: Sequence[float], edges: Sequence[float], x: str, y: str) -> Markup:
    """Returns a histogram, whose bars show their counts.

    Args:
        edges: of the bins, one more than there are.
        x, y: titles of the axes.
    """
    from matplotlib.ticker import MaxNLocator

    counts, bounds = np.histogram(values, edges)
    with _page_figure() as figure:
        axes = figure.subplots()
        bars = axes.bar(bounds[:-1], counts, np.diff(bounds) * 0.92, align="edge", color=ACCENT)
        tips = {}
        for number, (bar, count) in enumerate(zip(bars, counts, strict=True)):
            bar.set_gid(f"bar{number}")
            tips[f"bar{number}"] = [f"{count:,} {y}: {bounds[number]:g} to {bounds[number + 1]:g}"]
        axes.set(xlabel=x, ylabel=y, xlim=(bounds[0], bounds[-1]))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axes, GRID, axis="y")
        return _svg(figure, tips, f"{y} by {x}")


def heat_map_svg(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    titles: tuple[str, str],
    *,
    tip: str = "{row} / {column}: {value:.4g}",
    max_marks: int = MAX_CELLS**2,
) -> Markup:
    """Returns a matrix as cells, the darker the larger; cells of zero are left empty.

    Args:
        values: floats [R, C], not negative; up to MAX_CELLS per side each cell shows its value,
            unless more than `max_marks` are not zero: one takes 800 bytes.
        rows, columns: labels, R and C; or none, and the axes have numbers.
        titles: of the vertical and the horizontal axis.
        tip: what a cell shows, with row, column and value.
    """
    num_rows, num_columns = values.shape
    side = min(5.6, 2.4 + 0.2 * max(num_rows, num_columns)) if rows else 5.0
    alpha = np.sqrt(values / max(float(values.max()), 1e-12))
    with _page_figure(height=side) as figure:
        axes = figure.subplots()
        tips = {}
        if max(values.shape) > MAX_CELLS or np.count_nonzero(values) > max_marks:
            pixels = np.empty((*values.shape, 4), "uint8")
            pixels[..., :3], pixels[..., 3] = ACCENT_RGB, np.round(255 * alpha)
            axes.imshow(pixels, interpolation="none", aspect="auto")
        else:
            tips["cells"] = _draw_cells(axes, values, alpha, rows, columns, tip)
        axes.set(xlim=(-0.5, num_columns - 0.5), ylim=(num_rows - 0.5, -0.5))
        axes.set(ylabel=titles[0], xlabel=titles[1])
        if rows:
            axes.set_yticks(range(num_rows), [literal(shortened(t, MAX_LABEL)) for t in rows])
            names = [literal(shortened(t, MAX_LABEL)) for t in columns]
            axes.set_xticks(range(num_columns), names, rotation=90)
        axes.patch.set_visible(False)
        axes.spines[:].set_color(GRID)
        axes.tick_params(length=0, labelsize=8)
        return _svg(figure, tips, f"{titles[0]} by {titles[1]}")


def _draw_cells(
    axes: "Axes",
    values: np.ndarray,
    alpha: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    tip: str,
) -> list[str]:
    """Draws the cells of a heat map that are not zero; returns what each shows."""
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    where = list(zip(*np.nonzero(values), strict=True))
    cells = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in where]
    colours = [to_rgba(ACCENT, alpha[cell]) for cell in where]
    axes.add_collection(PatchCollection(cells, facecolor=colours, linewidth=0, gid="cells"))
    return [
        tip.format(row=rows[row], column=columns[column], value=values[row, column])
        for row, column in where
    ]


def reliability_svg(
    confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, edges: np.ndarray
) -> Markup:
    """Returns a reliability diagram: accuracy of the images in each bin of confidence.

    Args:
        confidence, accuracy: means of each bin, floats [M] in 0..1.
        counts: images in each bin, integers [M].
        edges: of the bins, [M + 1] in 0..1.
    """
    with _page_figure() as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], linestyle=":", color=INK, linewidth=1.2)
        bars = axes.bar(edges[:-1], accuracy, np.diff(edges), align="edge", color=ACCENT, alpha=0.7)
        tips = {}
        for number, bar in enumerate(bars):
            bar.set_gid(f"bar{number}")
            tips[f"bar{number}"] = [
                f"{counts[number]:,} images: {100 * accuracy[number]:.1f} % right at a mean "
                f"probability of {100 * confidence[number]:.1f} %"
            ]
        axes.set(xlabel="probability of the predicted class", ylabel="share of right answers")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        _plain(axes, GRID)
        return _svg(figure, tips, "reliability diagram")


# ------------------------------------------------------------------------------------ SVG of pages


def figure_svg(
    draw: "Callable[[], Figure]", name: str, tips: Mapping[str, Sequence[str]] | None = None
) -> Markup:
    """Returns a figure that another module draws as an <svg> of a page.

    Args:
        draw: makes the figure; frames and text have the page's ink, and what it draws in INK, GRID,
            ACCENT or PAPER follows the page too.
        name: for readers who hear the page.
        tips: what the marks of a group show, by its gid.
    """
    with _page_figure():  # for its colours and fonts
        figure = draw()
        figure.patch.set_visible(False)
        return _svg(figure, tips or {}, name)


@contextlib.contextmanager
def _page_figure(height: float = SIZE[1]) -> "Iterator[Figure]":
    """Yields a figure for a page; its SVG must be made within the block."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {**dict.fromkeys(ink, INK)}  # Any: one of 300 literal names
    style |= {"svg.fonttype": "none", "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        figure.patch.set_visible(False)
        yield figure


def _plain(axes: "Axes", grid: str, axis: Literal["both", "x", "y"] = "both") -> None:
    """Leaves of the frame the two axes, and adds a grid behind the curves."""
    axes.patch.set_visible(False)
    axes.grid(visible=True, color=grid, axis=axis)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: "Figure", tips: Mapping[str, Sequence[str]], name: str) -> Markup:
    """Returns a figure as an <svg> of a page.

    Args:
        tips: what the marks in the group of an id show, in the order in which they are drawn.
        name: for readers who hear the page.
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(file.getvalue())
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for group in list(root.iter(f"{{{SVG}}}g")):
        marks = _marks(group) if group.get("id") in tips else []
        for mark, tip in zip(marks, tips.get(group.get("id", ""), ()), strict=False):
            title = ElementTree.Element(f"{{{SVG}}}title")
            title.text = printable(tip)
            mark.insert(0, title)
    for side in ("width", "height"):
        root.attrib.pop(side, None)
    root.set("role", "img")
    root.set("aria-label", printable(name))
    _use_page_style(root)
    _use_own_ids(root)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _marks(group: ElementTree.Element) -> list[ElementTree.Element]:
    """Returns what a group draws: its dots if it has any, else its paths."""
    hidden = {each for defs in group.iter(f"{{{SVG}}}defs") for each in defs.iter()}
    for kind in ("use", "path"):
        marks = [each for each in group.iter(f"{{{SVG}}}{kind}") if each not in hidden]
        if marks:
            return marks
    return []


def _use_page_style(root: ElementTree.Element) -> None:
    """Gives what is drawn the font and the colours of its page."""
    for element in root.iter():
        for name in {"style", "fill", "stroke"} & element.attrib.keys():
            value = element.attrib[name]
            value = re.sub(r"font: ([\d.]+px) [^;]*", r"font: \1 system-ui, sans-serif", value)
            for drawn, shown in PAGE_COLOURS.items():
                value = value.replace(drawn, shown)
            element.set(name, value)


def _use_own_ids(root: ElementTree.Element) -> None:
    """Drops ids that nothing refers to, and makes the others unique in a page of several charts."""
    references = ("clip-path", f"{{{XLINK}}}href")
    is_id = re.compile(r"#([pm][0-9a-f]+)\b")
    values = [element.get(name, "") for element in root.iter() for name in references]
    referred = {found for value in values for found in is_id.findall(value)}
    prefix = f"i{hashlib.sha256(ElementTree.tostring(root)).hexdigest()[:8]}"
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in referred:
            element.set("id", f"{prefix}{own}")
        for name in {*references} & element.attrib.keys():
            element.set(name, is_id.sub(rf"#{prefix}\1", element.attrib[name]))


def literal(label: str) -> str:
    """Returns a label that matplotlib shows as it is: no formula, and not hidden."""
    label = printable(label).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label
