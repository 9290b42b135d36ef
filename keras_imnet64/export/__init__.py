"""Exports a model for other programs, and checks the result before it gets its name.

Two child processes under TensorFlow do the work, so that neither the backend of the caller nor the
modules that it has loaded matter:

    make: load the file in safe mode, compute the logits of some images, write the artefact
    run:  load the artefact without packages that its users may lack, compute logits of these images

They share a work folder beside the target. The parent compares the logits, then renames the
artefact: a file or folder with the target's name is complete and computes what the model computes.
A model of mixed precision is exported and compared in float32. `child` has the two steps,
`messages` the records that they exchange with the parent, `formats` the table of formats.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from keras_imnet64.backend.environment import check_environment
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import RunFailed, UserError, nearest
from keras_imnet64.core.paths import expand, os_error_text, refuse_existing
from keras_imnet64.core.processes import run_child
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.core.work_folders import publish, report_failed_write, work_folder
from keras_imnet64.data.sources.finding import find_images
from keras_imnet64.export.formats import FORMATS, Format
from keras_imnet64.export.messages import ExportRequest, MakeReport, StepOutcome
from keras_imnet64.models.info import read_model_info
from keras_imnet64.runs import model_file

TOLERANCE = 1e-4  # of the scale, which is the largest |logit| of the model
TIE = 1e-5  # of the scale: rounding may reorder logits that differ by less


def export(
    run_or_model: StrPath,
    format: str,
    *,
    out: StrPath | None = None,
    images: StrPath | Iterable[StrPath] | None = None,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
) -> JsonObject:
    """Writes a model for other programs: uint8 pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Args:
        run_or_model: a run folder, or any `.keras` file of Keras' own layers.
        format: a key of FORMATS.
        out: the file or folder to write; by default in the run's folder, or beside the file.
        images: files and folders of images to compare logits on; by default validation images
            of the model's data set, or drawn images where it is not prepared.
        data_dir: the folder of data sets; None: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        cache_dir: the folder whose `packed` holds the packed stores; None: the data dir.

    Returns:
        dict, fit for JSON: model, format, path, bytes, classes (number of class names in the
        artefact, None if the model has none), had_softmax (whether the model gives
        probabilities: the artefact gives logits), compared: the fields of `Comparison`, and images
        (number of images), source (of the images, in words) and stand_in (whether they are drawn
        because those of the data set are missing).

    Raises:
        UserError: the format is not known, the model is not a classifier of images, or the target
            exists.
        RunFailed: the artefact computes other logits, or cannot be written; nothing is left.
    """
    check_environment("tensorflow")
    if format not in FORMATS:
        raise UserError(f'there is no format "{format}"; {nearest(format, FORMATS)}')
    source = model_file(run_or_model)
    read_model_info(source)  # refuses at once a file that is no model file
    target = choose_target(run_or_model, source, FORMATS[format], out)
    request = ExportRequest(
        source=str(source),
        format=format,
        images=[str(file) for file in find_images(images)] if images else [],
        data_dir=str(data_dir) if data_dir else None,
        cache_dir=str(cache_dir) if cache_dir else None,
    )
    with working_folder(target) as work:
        made = run_step("make", request, work, f"exporting {source} as {format}")
        run_step("run", request, work, f"checking the {format} export of {source}")
        report = MakeReport(**made)
        comparison = compare(np.load(work / "reference.npy"), np.load(work / "found.npy"))
        artefact = work / FORMATS[format].default_name
        files = [file for file in [artefact, *artefact.rglob("*")] if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        target.parent.mkdir(parents=True, exist_ok=True)
        publish(artefact, target, replace=False)  # another process may have written it by now
    return {
        "model": str(source),
        "format": format,
        "path": str(target),
        "bytes": size,
        "classes": report.num_class_names,
        "had_softmax": report.had_softmax,
        "compared": {
            "images": report.num_images,
            "source": report.image_source,
            "stand_in": report.is_stand_in,
            **asdict(comparison),
            "constant": comparison.constant and report.num_images > 1,
        },
    }


@dataclass(frozen=True)
class Comparison:
    """How the logits of an artefact differ from those of the model.

    Attributes:
        largest_difference: relative to the scale.
        top1_changed_in_ties: number of images whose best class differs among logits within TIE.
        constant: whether all images have the same logits, so that the comparison shows little.
    """

    largest_difference: float
    top1_changed_in_ties: int
    constant: bool


def compare(reference: np.ndarray, found: np.ndarray) -> Comparison:
    """Compares the logits of an artefact with those of the model, both float32 [N, K].

    Raises:
        RunFailed: they differ by more than rounding.
    """
    if not np.isfinite(reference).all():
        raise RunFailed("the model's own logits are not finite, so nothing can be compared")
    if found.shape != reference.shape:
        raise RunFailed(
            f"the artefact gives logits of shape {list(found.shape)} where the model gives "
            f"{list(reference.shape)}; it was not kept"
        )
    if not np.isfinite(found).all():
        raise RunFailed("the artefact gives logits that are not finite; it was not kept")
    reference, found = reference.astype("float64"), found.astype("float64")
    scale = abs(reference).max() or 1.0
    difference = float(abs(found - reference).max() / scale)
    if difference > TOLERANCE:
        raise RunFailed(
            f"the artefact's logits differ by {difference:.1e} of the model's largest, more than "
            f"the {TOLERANCE:.0e} of rounding; it was not kept"
        )
    rows, top = np.arange(len(found)), found.argmax(axis=1)
    gaps = (reference.max(axis=1) - reference[rows, top]) / scale
    if (gaps > TIE).any():
        raise RunFailed(
            f"the artefact has another best class for {(gaps > TIE).sum()} of {len(found)} "
            "images, beyond ties; it was not kept"
        )
    return Comparison(
        largest_difference=difference,
        top1_changed_in_ties=int((top != reference.argmax(axis=1)).sum()),
        constant=bool(abs(reference - reference[0]).max() <= TIE * scale),
    )


# --------------------------------------------------------------------------- target and its folder


def choose_target(run_or_model: StrPath, source: Path, format: Format, out: StrPath | None) -> Path:
    """Returns the path that the artefact will have; UserError if it exists."""
    if out is not None:
        target = expand(out)
    elif expand(run_or_model).is_dir():
        target = source.with_name(format.default_name)
    else:
        target = source.with_name(f"{source.stem}_{format.default_name}")
    suffix = Path(format.default_name).suffix
    if suffix and target.suffix != suffix:
        raise UserError(f"--out must end in {suffix} here; received {target}")
    if not suffix and target.suffix in (".keras", ".h5", ".onnx", ".tflite", ".pb"):
        raise UserError(
            f"--out names a folder here, and {target.suffix} is the end of a file's name; received "
            f"{target}"
        )
    refuse_existing(target)
    return target


@contextlib.contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Makes a work folder beside the target, or beside the first of its missing parents."""
    beside = next(parent for parent in target.absolute().parents if parent.exists())
    with contextlib.ExitStack() as stack:
        try:
            work = stack.enter_context(work_folder(beside / target.name, "exporting"))
        except OSError as error:
            raise UserError(
                f"cannot write into {beside} ({os_error_text(error, beside)}); name another place "
                "with --out"
            ) from error
        with report_failed_write(f"exporting to {target}", target):
            yield work


# --------------------------------------------------------------------------------- child processes


def run_step(
    step: Literal["make", "run"], request: ExportRequest, work: Path, task: str
) -> JsonObject:
    """Runs a step in a child process and returns its report.

    Args:
        task: the step in words, as the subject of an error message.

    Raises:
        UserError, RunFailed: the step raised it, or the child process died.
    """
    log_level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": os.devnull,  # Keras' own defaults, whatever keras.json says
        "CUDA_VISIBLE_DEVICES": "-1",  # a GPU may be in use, and may compute float32 as TF32
        "TF_CPP_MIN_LOG_LEVEL": log_level,
    }
    with Activity(task, at_once=step == "make"):
        child = run_child(
            "keras_imnet64.export.child",
            step,
            str(work),
            request=asdict(request),
            environment=environment,
            show_errors=log_level == "0",
        )
    printed = list(child.objects())
    if not printed:
        failure = child.failure or "it printed no result"
        raise RunFailed(f"{task} broke off: {failure}; -v shows what it wrote")
    outcome = StepOutcome(**printed[-1])
    if outcome.error is not None:
        raise (RunFailed if outcome.is_run_failure else UserError)(outcome.error)
    return outcome.report
