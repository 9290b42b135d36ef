"""From a model file to what other programs serve, checked in a fresh process before it is there.

Two child processes under TensorFlow do the work, so that neither the backend of the caller nor what
it has loaded matters:

    make: load the file in safe mode, compute the logits of some images, write the artefact
    run:  load the artefact without what its users lack, compute the logits of the same images

They share a working folder beside the target. The parent compares the logits, then renames the
artefact into place: what has the target's name is whole and computes what the model computes. A
model of mixed precision is exported, and compared, with its weights in float32. What the children
do is told in `child`; the formats are the table in `formats`.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_imnet64.backend.environment import check_environment
from keras_imnet64.core.errors import RunFailed, UserError, nearest
from keras_imnet64.core.paths import expand, os_error_text, refuse_existing
from keras_imnet64.core.work_folders import publish, report_failed_write, work_folder
from keras_imnet64.data.sources.finding import find_images
from keras_imnet64.export.formats import FORMATS
from keras_imnet64.models.ship import model_info
from keras_imnet64.runs import model_file

TOLERANCE = 1e-4  # of the scale, which is the largest |logit| of the model
TIE = 1e-5  # of the scale: logits this close may change places by rounding


def export(run_or_model, format, *, out=None, images=None, data_dir=None, cache_dir=None):
    """Write a model for other programs: uint8 pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Args:
        run_or_model: a run folder, or any `.keras` file of Keras' own layers.
        format: a key of FORMATS.
        out: where to; by default in the run's folder, or beside the file.
        images: files and folders of images to compare logits on; by default validation images
            of the model's data set, or drawn ones where it is not prepared.
        data_dir, cache_dir: where data sets are, see `data.datasets.prepare`.

    Returns:
        dict, fit for JSON: model, format, path, bytes, classes (how many names travel with it, None
        if the file has none), compared: see `compare`, and images (count), source (in words) and
        stand_in (whether they are drawn in place of its data).

    Raises:
        UserError: no such format, not a classifier of images, or the target is there already.
        RunFailed: the artefact computes something else, or could not be written; nothing is left.
    """
    check_environment("tensorflow")
    if format not in FORMATS:
        raise UserError(f'there is no format "{format}"; {nearest(format, FORMATS)}')
    source = model_file(run_or_model)
    model_info(source)  # refuses at once what is no model file
    target = choose_target(run_or_model, source, FORMATS[format], out)
    request = {
        "source": str(source),
        "format": format,
        "pictures": [str(file) for file in find_images(images)] if images else [],
        "data_dir": str(data_dir) if data_dir else None,
        "cache_dir": str(cache_dir) if cache_dir else None,
    }
    with working_folder(target) as work:
        (work / "request.json").write_text(json.dumps(request))
        made = in_child("make", work, f"exporting {source} as {format}")
        in_child("run", work, f"running what {source} became as {format}")
        compared = compare(np.load(work / "reference.npy"), np.load(work / "found.npy"))
        compared["constant"] &= made["pictures"] > 1
        artefact = work / FORMATS[format].default_name
        files = [file for file in [artefact, *artefact.rglob("*")] if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        target.parent.mkdir(parents=True, exist_ok=True)
        publish(artefact, target, replace=False)  # meanwhile someone else may have exported
    return {
        "model": str(source),
        "format": format,
        "path": str(target),
        "bytes": size,
        "classes": made["classes"],
        "compared": {key: made[key] for key in ("pictures", "source", "stand_in")} | compared,
    }


def compare(reference, found):
    """How far logits are from those of the model, both float32 [N, K]; RunFailed if too far.

    Returns:
        dict: largest_difference relative to the scale; top1_changed_in_ties, images whose best
        class differs among logits within TIE; constant, whether all images have the same logits,
        so that little is proven.
    """
    if not np.isfinite(reference).all():
        raise RunFailed("the model itself gives logits that are not finite: it cannot be compared")
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
    return {
        "largest_difference": difference,
        "top1_changed_in_ties": int((top != reference.argmax(axis=1)).sum()),
        "constant": bool(abs(reference - reference[0]).max() <= TIE * scale),
    }


# ----------------------------------------------------------------------------- targets and children


def choose_target(run_or_model, source, row, out):
    """Where the artefact goes; UserError if something is there."""
    if out is not None:
        target = expand(out)
    elif expand(run_or_model).is_dir():
        target = source.with_name(row.default_name)
    else:
        target = source.with_name(f"{source.stem}_{row.default_name}")
    suffix = Path(row.default_name).suffix
    if suffix and target.suffix != suffix:
        raise UserError(f"--out must end in {suffix} here; received {target}")
    refuse_existing(target)
    return target


@contextlib.contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Makes a work folder beside the target, or where its missing parents will be made."""
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


def in_child(step, work, doing):
    """What a step returns in a process of its own; its UserError or RunFailed is raised here."""
    log_level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    ours = str(Path(__file__).parents[2])
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": os.devnull,  # Keras' own defaults, whatever keras.json says
        "CUDA_VISIBLE_DEVICES": "-1",  # float32 of a GPU may mean TF32, and it may be taken
        "TF_CPP_MIN_LOG_LEVEL": log_level,
        "PYTHONPATH": os.pathsep.join(filter(None, [ours, os.environ.get("PYTHONPATH")])),
    }
    child = subprocess.run(  # -P: files of the working directory are not modules
        [sys.executable, "-P", "-m", "keras_imnet64.export.child", step, str(work)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if log_level == "0" else subprocess.PIPE,
        check=False,
    )
    outcome = work / f"{step}.json"
    if not outcome.is_file():
        raise died(child, doing)
    outcome = json.loads(outcome.read_text())
    if "error" in outcome:
        raise (RunFailed if outcome["failed"] else UserError)(outcome["error"])
    return outcome["result"]


def died(child, doing):
    """The error for a child that said nothing: the last line that it wrote."""
    written = (child.stderr or b"").decode(errors="replace").strip().splitlines()
    why = written[-1] if written else f"exit status {child.returncode}"
    if child.returncode < 0:
        why = f"signal {-child.returncode} killed it, as happens where memory runs out"
    return RunFailed(f"{doing} broke off: {why}; -v shows what it wrote")
