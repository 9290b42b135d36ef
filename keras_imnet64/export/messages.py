"""Records that an export and its child processes exchange, as JSON through pipes."""

from dataclasses import dataclass, field

from keras_imnet64.core.types import JsonObject


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and the images to compare logits on.

    Attributes:
        source: path of the model file.
        format: a key of FORMATS.
        images: paths of image files; if there are none, images of the model's data set are used.
        data_dir, cache_dir: folders of data sets, see `data.datasets.prepare`.
    """

    source: str
    format: str
    images: list[str]
    data_dir: str | None
    cache_dir: str | None


@dataclass(frozen=True)
class MakeReport:
    """The result of the step `make`.

    Attributes:
        num_images: number of images on which logits are compared.
        image_source: the origin of the images, in words.
        is_stand_in: whether images are drawn because those of the model's data set are missing.
        num_class_names: None if the model file states no class names.
        had_softmax: whether the model gives probabilities, where the artefact gives logits.
    """

    num_images: int
    image_source: str
    is_stand_in: bool
    num_class_names: int | None
    had_softmax: bool


@dataclass(frozen=True)
class StepOutcome:
    """How a step ended: with a report, or with an error message.

    Attributes:
        report: the fields of MakeReport for the step `make`, empty for `run`.
        is_run_failure: whether the error is a RunFailed, and not a mistake of the user.
    """

    report: JsonObject = field(default_factory=dict)
    error: str | None = None
    is_run_failure: bool = False
