"""Sections of a page about what the networks do with the validation images."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from markupsafe import Markup

from keras_imnet64.charts import bars_svg, heat_map_svg, histogram_svg, reliability_svg
from keras_imnet64.compare.result import Pair
from keras_imnet64.compare.verdict import paired_test
from keras_imnet64.core.errors import first_few
from keras_imnet64.core.types import JsonObject
from keras_imnet64.pages import (
    Picture,
    bullets,
    details,
    figures,
    gallery,
    heading,
    image,
    joined,
    paragraph,
    table,
)
from keras_imnet64.report.calibration import reliability
from keras_imnet64.report.confusion import (
    MAX_MAPPED,
    confused_pairs,
    confusion_map,
    count_confusions,
    groups,
)
from keras_imnet64.report.examination import Examination, Shown
from keras_imnet64.report.pictures import filters_png
from keras_imnet64.report.reported import ReportedRun

MAX_BARS = 40  # classes that have a bar each
MAX_ROWS = 1000  # of the table of classes: a page of 20,000 rows is slow
MAX_PAIRS = 30
MAX_MARKS = 1600  # cells of all maps of a page that show their value: together 1.3 MB
ACCURACY_EDGES = np.linspace(0, 100, 21)


def each_run(
    runs: Sequence[ReportedRun], body: Callable[[Examination], Markup | None]
) -> Markup | None:
    """Returns what `body` says of each run that was examined; those of several are folded."""
    found = [(run, body(run.examined)) for run in runs if run.examined is not None]
    shown = [(run, part) for run, part in found if part]
    if not shown:
        return None
    if len(runs) == 1:
        return shown[0][1]
    return joined(details(run.label, part) for run, part in shown if part)


# ------------------------------------------------------------------------------------ each class


def classes_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Shows the accuracy of each class: as bars or a histogram, and as a table."""
    seen = [(run.label, run.examined) for run in runs if run.examined is not None]
    if not seen:
        return None
    first = seen[0][1]
    counts = np.bincount(first.top.labels, minlength=first.num_classes)
    accuracies = [_by_class(each.top.is_right, each) for _, each in seen]
    charts = [
        (
            _accuracy_chart(accuracy, counts, first.class_names),
            label if len(seen) > 1 else "",
        )
        for (label, _), accuracy in zip(seen, accuracies, strict=True)
    ]
    order = np.lexsort((accuracies[0], counts == 0))[:MAX_ROWS]  # those without images come last
    in_top5 = _by_class(first.top.is_in_top5, first)
    sure = _by_class(first.top.confidence, first)
    rows: list[JsonObject] = []
    for label in order:
        row: JsonObject = {
            "class": first.class_names[label],
            "id": first.wnids[label],
            "count": int(counts[label]),
        }
        for number, accuracy in enumerate(accuracies):
            row[f"top1 {number}"] = float(accuracy[label]) if counts[label] else None
        if len(seen) == 1:
            row["top5"] = float(in_top5[label]) if counts[label] else None
            row["sure"] = float(sure[label]) if counts[label] else None
        rows.append(row)
    columns = {"class": "class", "id": "id", "count": "images"}
    for number, (label, _) in enumerate(seen):
        columns[f"top1 {number}"] = "top-1 (%)" if len(seen) == 1 else f"top-1 (%), {label}"
    if len(seen) == 1:
        columns |= {"top5": "top-5 (%)", "sure": "mean probability of the predicted class (%)"}
    hidden = len(counts) - len(order)
    note = paragraph(
        f"{hidden:,} more classes, with higher accuracies or without images, are left out.",
        note=True,
    )
    return figures(charts) + table(rows, columns, digits=1) + (note if hidden else Markup())


def _by_class(values: np.ndarray, examined: Examination) -> np.ndarray:
    """Returns the mean of values [N] in 0..1 over the images of each class, in percent [K]."""
    num_classes, labels = examined.num_classes, examined.top.labels
    counts = np.maximum(np.bincount(labels, minlength=num_classes), 1)
    return 100 * np.bincount(labels, values, num_classes) / counts


def _accuracy_chart(accuracy: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> Markup:
    present = np.flatnonzero(counts)
    if len(present) <= MAX_BARS:
        order = present[np.argsort(-accuracy[present], kind="stable")]
        labels = _distinct([names[label] for label in order])
        return bars_svg(
            dict(zip(labels, map(float, accuracy[order]), strict=True)), "top-1 (%)", " %"
        )
    return histogram_svg(
        accuracy[present].tolist(), ACCURACY_EDGES.tolist(), "top-1 (%)", "classes"
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Returns names of which those that are there already have a number."""
    found: dict[str, None] = {}  # in their order
    for name in names:
        number, shown = 1, name
        while shown in found:
            number += 1
            shown = f"{name} ({number})"
        found[shown] = None
    return list(found)


# -------------------------------------------------------------------------------------- confusion


def confusion_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Shows which classes are taken for which."""
    return each_run(runs, partial(_confusion, max_marks=MAX_MARKS // len(runs)))


def _confusion(examined: Examination, max_marks: int) -> Markup:
    top, names = examined.top, examined.class_names
    num_classes = examined.num_classes
    pairs = confused_pairs(top.labels, top.first_class, num_classes)
    totals = np.bincount(top.labels, minlength=num_classes)
    rows: list[JsonObject] = [
        {
            "class": names[pair.label],
            "taken": names[pair.taken_for],
            "count": pair.count,
            "share": 100 * pair.count / int(totals[pair.label]),
        }
        for pair in pairs[:MAX_PAIRS]
    ]
    columns = {"class": "class", "taken": "taken for", "count": "images", "share": "% of the class"}
    most = heading("Most confused pairs") + table(rows, columns, digits=1)
    if num_classes > MAX_MAPPED:
        return most
    counts = count_confusions(top.labels, top.first_class, num_classes)
    return _map(counts, names, max_marks) + most + _groups(counts, names)


def _map(counts: np.ndarray, names: Sequence[str], max_marks: int) -> Markup:
    """Draws the matrix of all classes, those that are taken for each other beside each other."""
    found = confusion_map(counts)
    shown = found.counts.astype("float64")
    labels = [names[label] for label in found.order]
    is_small = len(counts) <= MAX_BARS
    chart = heat_map_svg(
        shown,
        labels if is_small else [],
        labels if is_small else [],
        ("class", "taken for"),
        tip="{value:.0f} images of {row} taken for {column}",
        max_marks=max_marks,
    )
    text = (
        "Each row is a class, each column what its images are taken for; the darker, the more. "
        "Classes that are taken for each other stand beside each other."
    )
    if found.per_cell > 1:
        text += f" A cell stands for {found.per_cell} classes in each direction."
    return figures([(chart, text)])


def _groups(counts: np.ndarray, names: Sequence[str]) -> Markup:
    """Lists groups of classes that are taken for each other, where there are many classes."""
    if len(counts) <= MAX_BARS:
        return Markup()
    rows: list[JsonObject] = []
    for members in groups(counts):
        inside = counts[np.ix_(members, members)]
        images = int(counts[members].sum())
        rows.append(
            {
                "classes": ", ".join(names[label] for label in members),
                "size": len(members),
                "images": images,
                "right": 100 * int(np.trace(inside)) / max(images, 1),
                "inside": 100 * int(inside.sum()) / max(images, 1),
            }
        )
    columns = {
        "classes": "group",
        "size": "classes",
        "images": "images",
        "right": "right (%)",
        "inside": "right or taken for another of the group (%)",
    }
    return heading("Groups that are taken for each other") + table(rows, columns, digits=1)


# --------------------------------------------------------------------------------------- pictures


def pictures_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Shows images: surest mistakes, least sure predictions, labels that may be wrong."""
    return each_run(runs, _pictures)


def _pictures(examined: Examination) -> Markup | None:
    suspects = examined.num_suspects
    if not examined.unsure.pngs:
        return None
    return joined(
        [
            heading("Most confident mistakes"),
            _album(examined.mistakes),
            heading("Least sure"),
            _album(examined.unsure),
            heading("Labels that may be wrong"),
            paragraph(
                f"Of {len(examined.top):,} images, {suspects:,} look as if another label fitted: "
                "the network finds another class more probable than it does for that class on "
                "average, and the label less (confident learning, arXiv:1911.00068). Look before "
                "you believe it."
            ),
            _album(examined.suspects),
        ]
    )


def _album(shown: Shown, *, wide: bool = False) -> Markup:
    """Returns pictures with their captions; nothing for no pictures."""
    if not shown.pngs:
        return Markup()
    pairs = zip(shown.pngs, shown.captions, strict=True)
    return gallery((Picture(png, caption) for png, caption in pairs), wide=wide)


# ------------------------------------------------------------------------------------- calibration


def calibration_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Shows whether probabilities are those of being right, before and after a temperature."""
    return each_run(runs, _calibration)


def _calibration(examined: Examination) -> Markup:
    top, temperature = examined.top, examined.temperature
    before = reliability(top.confidence, top.is_right)
    charts = [
        (
            reliability_svg(before.confidence, before.accuracy, before.counts, before.edges),
            f"As the network is: expected calibration error {before.error:.2f} %.",
        )
    ]
    if temperature is None or examined.tempered is None:
        return figures(charts) + paragraph(
            "No temperature is fitted: that needs a network and training images that its recipe "
            "holds out (data.holdout). To fit it on the images that are scored would flatter the "
            "result."
        )
    after = reliability(examined.tempered, top.is_right)
    charts.append(
        (
            reliability_svg(after.confidence, after.accuracy, after.counts, after.edges),
            f"Logits divided by {temperature.value:.3f}: {after.error:.2f} %.",
        )
    )
    return figures(charts) + paragraph(
        f"The temperature {temperature.value:.3f} is fitted on {temperature.count:,} images held "
        f"out of training, whose cross-entropy it lowers from {temperature.loss_before:.4f} to "
        f"{temperature.loss_after:.4f}. It changes no prediction. Divide the logits by it before "
        "the softmax to use it."
    )


# ------------------------------------------------------------------------------------- the network


def network_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Shows the filters of the first layer, and where the network looks."""
    return each_run(runs, _network)


def _network(examined: Examination) -> Markup | None:
    parts, network = [], examined.network
    if network is not None and network.filters is not None:
        sheet = image(filters_png(network.filters), "filters of the first layer")
        text = (
            f"The {len(network.filters)} filters of the first convolution as colours, each "
            "stretched to the range of a pixel."
        )
        parts += [heading("First layer"), figures([(sheet, text)])]
    if network is not None and network.attention is not None:
        parts += [
            heading("Where it looks"),
            paragraph(
                "Each image beside its Grad-CAM (arXiv:1610.02391): bright is where the last "
                "feature map speaks for the predicted class. The surest right answers come first, "
                "then the surest mistakes."
            ),
            _album(network.attention, wide=True),
        ]
    return joined(parts) if parts else None


# -------------------------------------------------------------------------------------- comparison


def comparison_section(runs: Sequence[ReportedRun]) -> Markup | None:
    """Holds the predictions of several runs against those of the first, image by image."""
    seen = [(run.label, run.examined.top) for run in runs if run.examined is not None]
    if len(seen) < 2:
        return None
    (first_label, first), *others = seen
    pairs = [
        Pair(
            first_label,
            label,
            paired_test(first.first_class, top.first_class, first.is_right, top.is_right),
        )
        for label, top in others
    ]
    wrong = np.logical_and.reduce([~top.is_right for _, top in seen])
    right = np.logical_and.reduce([top.is_right for _, top in seen])
    names = first_few([label for label, _ in seen], len(seen))
    return bullets([pair.in_words for pair in pairs]) + paragraph(
        f"Of {len(first):,} images, {int(right.sum()):,} are right in all of {names}, and "
        f"{int(wrong.sum()):,} in none."
    )
