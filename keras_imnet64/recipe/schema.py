"""Recipes: what to train, as complete and readable TOML, checked before anything else happens.

This file owns the schema, where recipes are found, how they are loaded, overridden and saved. What
the networks, optimizers and augmentations accept is owned by their tables.
"""

import math
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.augment import OPS, check_augment
from keras_imnet64.data.augment.layers import check_layer_name
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.models import find_model

Count = Annotated[int, Field(ge=0, le=10**9)]  # what is made of them fits 32 bits
Positive = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[float, Field(ge=0, lt=1)]
CHECKPOINT_EVERY = r"^([1-9]\d{0,5} (min|steps)|epoch)$"
NonNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of a recipe: strict types, no unknown keys, never changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OpenSection(Section):
    """A table with a `name` and the options of what it names, which the named thing checks."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    @property
    def options(self):
        return dict(self.__pydantic_extra__)


class ChannelNormalization(Section):
    """Mean and standard deviation per channel on the 0..1 pixel scale."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]


class ModelSection(OpenSection):
    name: str
    # mean_image: per pixel and channel, no division; dataset: mean and std per channel.
    normalization: Literal["imagenet", "mean_image", "dataset"] | ChannelNormalization = "imagenet"

    @property
    def in_words(self):
        """Name and options, as listings and the first lines of a run have them."""
        return network_in_words(self.name, self.options)


def network_in_words(name, options):
    return " ".join([name, *(f"{key}={_option_in_words(value)}" for key, value in options.items())])


def _option_in_words(value):
    if isinstance(value, dict):
        options = {key: option for key, option in value.items() if key != "name"}
        return f"({network_in_words(value.get('name'), options)})"
    return str(value).lower() if isinstance(value, bool) else value


class DataSection(Section):
    dataset: str
    batch_size: Positive  # global, over all devices
    # Alternating: mirrored in every other epoch; both: each image and its mirror, in each epoch.
    mirror: Literal["none", "random", "alternating", "both"] = "random"
    classes: Positive | None = None  # only the first so many class ids in sorted order
    holdout: Count = 0  # images of train kept for model selection
    steps_per_epoch: Positive | None = None  # stop an epoch early; default: all whole batches
    in_memory: Literal["auto", "always", "never"] = "auto"
    # Pixels per side that the model is shown; only for sets whose images have any size.
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None


class AugmentSection(OpenSection):
    op: str | None = None  # of ours, or
    layer: str | None = None  # the public name of a Keras or KerasCV preprocessing layer

    @model_validator(mode="after")
    def _names_one(self):
        if (self.op is None) == (self.layer is None):
            raise ValueError("a step has either op or layer")
        return self


class LossSection(Section):
    label_smoothing: Rate = 0.0
    l2: NonNegative = 0.0  # times the sum of squares, no half
    # Weights: kernels and BN gamma. All: biases and beta too; then l2 = w / 2 is the weight_decay w
    # of PyTorch's SGD.
    l2_of: Literal["weights", "all"] = "weights"


class OptimizerSection(OpenSection):
    name: str
    learning_rate: PositiveFloat
    weight_decay: NonNegative = 0.0  # decoupled; spares biases and norms
    clip_norm: PositiveFloat | None = None  # of all gradients together, after the reduction


class ScheduleSection(OpenSection):
    name: str = "constant"
    warmup_epochs: NonNegative = 0.0


class TrainSection(Section):
    epochs: Positive
    dtype: Literal["float32", "mixed_bfloat16"] = "float32"
    seed: Count = 0
    batch_norm: Literal["global", "per_device"] = "global"
    ema: Rate = 0.0  # momentum of the weights' moving average; 0: none
    accumulate_steps: Positive = 1  # parts into which a batch is split to save memory
    xla: Literal["auto", "on", "off"] = "auto"
    early_stopping: Count = 0  # epochs without a better val_top1; 0: never
    # Which images choose best.keras, plateau and early stopping: auto is the holdout where there is
    # one, else none; "validation" is for recipes of papers that selected on it, and says so.
    select_on: Literal["auto", "validation"] = "auto"
    initial_weights: str | None = None  # a .keras file to start from
    # Besides each epoch's end: "10 min", "500 steps", or "epoch" for no more. Minutes become more
    # where writing would take over 1 % of the time.
    checkpoint_every: Annotated[str, Field(pattern=CHECKPOINT_EVERY)] = "10 min"
    # Where the loss or a weight is not finite: stop, or go back one checkpoint with the learning
    # rate times rollback_factor, at most max_rollbacks times.
    on_nan: Literal["stop", "rollback"] = "stop"
    rollback_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    max_rollbacks: Annotated[int, Field(ge=1, le=100)] = 3


class EvaluationSection(Section):
    """How images of any size are shown in evaluation; with ten crops also those of one size."""

    # Of the shorter side, before the centre is cropped; default 256 / 224 of image_size.
    resize: Annotated[int, Field(ge=8, le=2048)] | None = None
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = (
        "bilinear"
    )
    # Of a finished model: the centre, the corners and their mirror images, answers averaged.
    ten_crop: bool = False


class ResultSection(Section):
    """A published or measured result. Errors and accuracies in percent."""

    top1: float | None = None
    top5: float | None = None
    top1_error: float | None = None
    top5_error: float | None = None
    seconds: float | None = None
    note: str | None = None
    source: str | None = None

    @property
    def accuracy(self):
        """Top-1 in percent, from whichever of accuracy and error is given."""
        if self.top1 is None and self.top1_error is not None:
            return round(100 - self.top1_error, 2)
        return self.top1


def is_folder_name(name):
    """Whether a run's folder can have this name."""
    fits = name.isprintable() and 0 < len(name.encode()) <= 100
    return fits and not name.startswith((".", "-", " ")) and not set(name) & set("/\\")


def _folder_name(name):
    if not is_folder_name(name):
        raise PydanticCustomError(
            "folder_name",
            "a folder's name: at most 100 printable characters, no slash, no dot or dash in front",
        )
    return name


class Recipe(Section):
    """A validated recipe. Attributes are the tables of the TOML file."""

    name: Annotated[str, AfterValidator(_folder_name)]  # of its run folder too
    model: ModelSection
    data: DataSection
    augment: list[AugmentSection] = []
    loss: LossSection = LossSection()
    optimizer: OptimizerSection
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection
    evaluation: EvaluationSection = EvaluationSection()
    reference: ResultSection | None = None
    measured: dict[str, ResultSection] = {}

    def check(self):
        """Refuse what no single field shows: unknown names and settings that exclude each other."""
        row = find_model(self.model.name)
        row.check_options(self.model.name, self.model.options)
        dataset = find_dataset(self.data.dataset)
        for section in self.augment:
            if section.layer:
                check_layer_name(section.layer)
            else:
                check_augment(section.op, section.options)
        for section in self.augment[:-1]:
            if section.op and OPS[section.op].mixes:
                raise UserError(
                    f'augment.op "{section.op}" mixes labels too and must be the last step; '
                    f"received {self.augment[-1].op or self.augment[-1].layer} after it"
                )
        part = self.data.batch_size // self.train.accumulate_steps
        if part < 2 and self.augment and self.augment[-1].op and OPS[self.augment[-1].op].mixes:
            raise UserError(
                f'augment.op "{self.augment[-1].op}" mixes the images of a batch, or of each part '
                "of it with train.accumulate_steps: 2 are needed; received 1"
            )
        self._check_sizes(dataset)
        if self.data.classes and self.data.classes > (dataset.num_classes or math.inf):
            raise UserError(
                f"data.classes must be at most {dataset.num_classes}, the classes of "
                f"{dataset.name}; received {self.data.classes}"
            )
        if self.data.holdout and self.train.select_on == "validation":
            raise UserError(
                'train.select_on = "validation" leaves data.holdout unused; '
                f"received both, with data.holdout = {self.data.holdout}"
            )
        if self.data.batch_size % self.train.accumulate_steps:
            raise UserError(
                "train.accumulate_steps must divide data.batch_size; "
                f"received {self.train.accumulate_steps} and {self.data.batch_size}"
            )
        if self.selection == "none" and (self.train.early_stopping or self._is_plateau):
            raise UserError(
                "train.early_stopping and the plateau schedule choose by validation: set "
                "data.holdout to a number of training images kept aside for it; received 0"
            )

    def _check_sizes(self, dataset):
        """Refuse sizes that the data set has already, or lacks."""
        size, evaluation = self.data.image_size, self.evaluation
        if dataset.image_size:
            if size:
                raise UserError(
                    f"data.image_size is for sets of images of any size; those of {dataset.name} "
                    f"have {dataset.image_size}: leave it out; received {size}"
                )
            changed = evaluation.resize or evaluation.interpolation != "bilinear"
            if changed and not evaluation.ten_crop:
                raise UserError(
                    "evaluation.resize and evaluation.interpolation have no use for "
                    f"{dataset.name}, whose images have one size, but with "
                    "evaluation.ten_crop = true"
                )
        elif not size:
            raise UserError(
                f"data.image_size is missing: images of {dataset.name} have any size; set the "
                "pixels per side that the model is to be shown, such as 224"
            )
        if self.data.in_memory != "auto" and not dataset.image_size:
            raise UserError(
                f"data.in_memory has no use for {dataset.name}, which is read from its files: "
                f'leave it out; received "{self.data.in_memory}"'
            )
        if self.model.normalization == "mean_image" and not dataset.image_size:
            raise UserError(
                'model.normalization = "mean_image" needs images of one size; for '
                f'{dataset.name} use "dataset", the mean and spread of each channel'
            )
        shown = size or dataset.image_size
        factor = self.model.options.get("factor", 1) if self.model.name == "spectral" else 1
        if shown % factor:
            raise UserError(
                f"model.factor must divide the {shown} pixels per side of the images; received "
                f"{factor}"
            )
        if evaluation.resize and evaluation.resize < shown:
            raise UserError(
                f"evaluation.resize must be at least the {shown} pixels that are cropped; "
                f"received {evaluation.resize}"
            )

    @property
    def image_size(self):
        """Pixels per side that the model is shown."""
        return self.data.image_size or find_dataset(self.data.dataset).image_size

    @property
    def view(self):
        """How the data set's images are shown in evaluation, a `views.View` or None.

        None: as they are stored.
        """
        from keras_imnet64.data.images.views import View, default_resize

        evaluation, size = self.evaluation, self.image_size
        if not self.data.image_size and not evaluation.ten_crop:
            return None
        resize = evaluation.resize or default_resize(size)
        return View(size, evaluation.interpolation, resize, evaluation.ten_crop)

    @property
    def selection(self):
        """Which images choose the best epoch: "holdout", "validation" or "none"."""
        if self.train.select_on == "validation":
            return "validation"
        return "holdout" if self.data.holdout else "none"

    @property
    def _is_plateau(self):
        return self.schedule.name == "plateau"

    def to_toml(self):
        """The resolved recipe as TOML text: `fit --recipe` on it repeats the run."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(exclude_none=True))
