"""Records that an export and its child processes exchange, as JSON in their working folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from keras_imnet64.core.files import write_json
from keras_imnet64.core.validation import read_record, to_json


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and the images to compare logits on.

    Attributes:
        source: path of the model file.
        format: a key of FORMATS.
        images: paths of image files; if there are none, images of the model's data set are used.
        data_dir, cache_dir: where data sets are, see `data.datasets.prepare`.
    """

    source: str
    format: str
    images: list[str]
    data_dir: str | None
    cache_dir: str | None


@dataclass(frozen=True)
class MakeReport:
    """What the step `make` has done.

    Attributes:
        num_images: how many images logits are compared on.
        image_source: where the images come from, in words.
        is_stand_in: whether images are drawn because those of the model's data set are missing.
        num_class_names: None if the model file states no class names.
    """

    num_images: int
    image_source: str
    is_stand_in: bool
    num_class_names: int | None


@dataclass(frozen=True)
class StepOutcome:
    """How a step ended: with a report, which only `make` has, or with an error message.

    Attributes:
        is_run_failure: whether the error is a RunFailed and not the user's mistake.
    """

    report: MakeReport | None = None
    error: str | None = None
    is_run_failure: bool = False


def write_request(request: ExportRequest, folder: Path) -> None:
    write_json(folder / "request.json", asdict(request))


def read_request(folder: Path) -> ExportRequest:
    # Not by `read_record`, which refuses paths with bytes that are no UTF-8.
    return ExportRequest(**json.loads((folder / "request.json").read_text()))


def write_outcome(outcome: StepOutcome, step: str, folder: Path) -> None:
    write_json(folder / f"{step}.json", to_json(outcome))


def read_outcome(step: str, folder: Path) -> StepOutcome | None:
    """Returns the outcome of a step, or None if its process died before it wrote one."""
    path = folder / f"{step}.json"
    return read_record(StepOutcome, path) if path.is_file() else None
