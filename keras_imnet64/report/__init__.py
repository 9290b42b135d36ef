"""One HTML page about one or several finished runs, for whoever looks at them the day after.

    run folders -> subjects -> examination: each network sees its validation images once
                -> sections -> report.html

`SECTIONS` is the page of runs: a further part is a row there. `families` has what comparisons and
sweeps say of themselves.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from markupsafe import Markup

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.paths import check_output_file, expand
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.data.datasets import open_dataset, scored_images
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.pages import Section, document, paragraph, table, tiles
from keras_imnet64.report.calibration import reliability
from keras_imnet64.report.examination import (
    check_alike,
    check_same_images,
    examine,
    examine_predictions,
)
from keras_imnet64.report.families import unfold
from keras_imnet64.report.image_sections import (
    calibration_section,
    classes_section,
    comparison_section,
    confusion_section,
    network_section,
    pictures_section,
)
from keras_imnet64.report.reported import ReportedRun
from keras_imnet64.report.run_sections import (
    about_section,
    curves_section,
    ensemble_section,
    results_section,
    speed_section,
    trained_section,
)
from keras_imnet64.report.subjects import Subject, classes_of, open_subjects
from keras_imnet64.runs import Run

SectionBody: TypeAlias = Callable[[Sequence[ReportedRun]], Markup | None]
SECTIONS: tuple[tuple[str, str, SectionBody], ...] = (  # (anchor, title, body) in their order
    ("trained", "What was trained", trained_section),
    ("curves", "Curves", curves_section),
    ("speed", "Rate, speed and memory", speed_section),
    ("results", "Published and measured", results_section),
    ("comparison", "Compared image by image", comparison_section),
    ("ensemble", "The ensemble", ensemble_section),
    ("classes", "Each class", classes_section),
    ("confusion", "What is taken for what", confusion_section),
    ("pictures", "Images to look at", pictures_section),
    ("calibration", "Calibration", calibration_section),
    ("network", "What the network sees", network_section),
    ("about", "About this page", about_section),
)
MAX_PICTURES = 12  # in each list of a page about one run


@keras_defaults()
def report(
    runs: Sequence[StrPath],
    out: StrPath | None = None,
    *,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: Devices | None = None,
    pack_progress: PackProgress | None = None,
) -> JsonObject:
    """Writes a page about finished runs: one HTML file that loads nothing.

    Runs whose images are not on this machine are shown without what needs images.

    Args:
        runs: run folders, and files that `evaluate` has written with `predictions`, of one data
            set and of the same classes; folders of comparisons and of sweeps, which stand for
            their results, and for the whole runs, or the runs of the best combination, in them.
        out: the page, whose name ends in .html; default: `report.html` in the folder, if only one
            is given, else in the current folder.
        data_dir, cache_dir, devices, pack_progress: as for `evaluate`.

    Returns:
        dict: out; bytes; runs, and those of them whose images were not found (without_images).

    Raises:
        UserError: there is no such run, it is not finished, runs do not belong together, or the
            page cannot be written.
        RunFailed: the logits of a network are not finite, or an image cannot be read.
    """
    sections, run_folders = unfold(runs)
    subjects = open_subjects(run_folders)
    only = expand(runs[0]) if len(runs) == 1 else None
    page_file = Path(out or Run(only if only and only.is_dir() else Path()).report_file)
    check_output_file(page_file, ".html")
    reported = []
    if subjects:
        open_split = partial(
            open_dataset,
            subjects[0].metrics.dataset,
            in_memory="never",
            data_dir=data_dir,
            cache_dir=cache_dir,
            progress=pack_progress,
        )
        reported = _examined(subjects, open_split, devices or take_devices())
    content = page_of(reported, sections)
    write_atomic(page_file, content)
    return {
        "out": str(page_file),
        "bytes": len(content.encode()),
        "runs": [each.label for each in reported],
        "without_images": [each.label for each in reported if each.unseen],
    }


def _examined(
    subjects: Sequence[Subject], open_split: Callable[[str], Store], devices: Devices
) -> list[ReportedRun]:
    """Returns each run with what its network does, or with the reason why that is not known.

    Args:
        open_split: returns the images of a split; a UserError says why they are not here.
    """
    num_pictures = max(2, MAX_PICTURES // len(subjects))
    classes = classes_of(subjects)
    unseen, split, train = None, None, None
    try:
        split = open_split(subjects[0].metrics.split)
        train = open_split("train")
    except UserError as error:
        unseen = str(error)
        say(f"the page has no images: {error}")
        check_alike(subjects, classes)
    else:
        for subject in subjects:
            check_same_images(subject, split, train)
    found = []
    for subject in subjects:
        examined = None
        if subject.predictions is not None:
            examined = examine_predictions(subject, classes, split, num_pictures)
        elif split is not None and train is not None:
            examined = examine(subject, split, train, devices, num_pictures)
        verified = None if split is None else bool(split.verified)
        found.append(ReportedRun(subject, examined, unseen, verified))
    return found


def page_of(runs: Sequence[ReportedRun], before: Sequence[Section] = ()) -> str:
    """Returns the page of runs, with those sections that have something to say.

    Args:
        before: sections that stand before those of the runs, of which there may be none then.
    """
    if not runs:
        return document(before[0].title, Markup(), before)
    bodies = [(anchor, title, body(runs)) for anchor, title, body in SECTIONS]
    sections = [Section(anchor, title, body) for anchor, title, body in bodies if body]
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs of {runs[0].metrics.dataset}"
    return document(before[0].title if before else title, lead(runs), [*before, *sections])


def lead(runs: Sequence[ReportedRun]) -> Markup:
    """Returns what stands first: the scores, and what is missing."""
    first = runs[0].metrics
    num_classes = len(runs[0].subject.info.wnids or ())
    images = scored_images(first.dataset, first.split, first.model.count, num_classes)
    is_unverified = any(run.verified is False for run in runs)
    unverified = " (NOT VERIFIED data)" if is_unverified else ""
    text = paragraph(
        f"model.keras on {images}{unverified}, scored from the file."
        if runs[0].recipe is not None
        else f"Predictions for {images}{unverified}, read from a file."
    )
    unseen = runs[0].unseen
    missing = paragraph(f"The page has no images: {unseen}") if unseen else Markup()
    figures = [_figures(run) for run in runs]
    if len(runs) == 1:
        shown = tiles(figures[0])
    else:
        columns = dict.fromkeys(key for each in figures for key in each)
        rows = [
            {"run": run.label, **{key: each.get(key, "-") for key in columns}}
            for run, each in zip(runs, figures, strict=True)
        ]
        shown = table(rows, {"run": "run"} | {key: key for key in columns})
    return text + missing + shown


def _figures(run: ReportedRun) -> dict[str, str]:
    """Returns the figures of a run that matter most, as texts by their names."""
    scores, metrics = run.metrics.model, run.metrics
    figures = {
        "top-1": f"{scores.top1:.2f} %",
        "top-5": f"{scores.top5:.2f} %",
        "cross-entropy": f"{scores.loss:.4f}",
    }
    if run.examined is not None:
        top = run.examined.top
        figures["calibration error"] = f"{reliability(top.confidence, top.is_right).error:.2f} %"
        if run.examined.network is not None:
            figures["parameters"] = f"{run.examined.network.parameters:,}"
    if metrics.training_seconds is not None:
        figures["training"] = f"{metrics.training_seconds / 60:,.1f} min"
    if metrics.peak_memory_mb is not None:
        figures["peak memory"] = f"{metrics.peak_memory_mb:,.0f} MB"
    return figures
