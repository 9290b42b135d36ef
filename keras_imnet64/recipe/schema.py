"""The schema of recipes: their tables, and the rules that concern several tables.

The options of networks, augmentations, optimizers and schedules are declared in `models.options`,
`data.augment.options` and `recipe.optimizers`. Editors show the string below a field; see
`recipe.json_schema`.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, field_validator

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.tables import Number, Rate, Table, TaggedTable, expected
from keras_imnet64.core.types import Json, JsonObject
from keras_imnet64.data.augment.layers import PUBLIC_NAME
from keras_imnet64.data.augment.options import AnyOperation, OperationOptions
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.data.images.filters import ResizeFilter
from keras_imnet64.data.images.views import View, default_resize
from keras_imnet64.data.locations import Dataset
from keras_imnet64.models.options import AnyModel, FileOptions, SpectralOptions
from keras_imnet64.recipe.optimizers import (
    AnyOptimizer,
    AnySchedule,
    ConstantOptions,
    PlateauOptions,
    named_constant,
)
from keras_imnet64.records import SizeStage, ViewSet

MAX_COUNT = 10**9  # fits 32 bits
MIN_IMAGE_SIZE = 8  # pixels per side
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class DataSection(Table):
    """The images, and the batches in which training sees them."""

    dataset: str
    """A data set that `data info` knows, such as "imagenet_resized/64x64"."""
    batch_size: Positive
    """Images per step, over all devices."""
    mirror: Literal["none", "random", "alternating", "both"] = "random"
    """alternating: mirrored in every other epoch; both: each image and its mirror image in each
    epoch."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes to use, the first ones in the sorted order of their ids; default: all."""
    holdout: Count = 0
    """Training images that are held out for model selection."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """How often an epoch shows an image, each time with draws of its own; an epoch has as many
    samples as with 1, and so shows fewer images."""
    steps_per_epoch: Positive | None = None
    """Steps after which an epoch ends; default: all whole batches."""
    in_memory: Literal["auto", "always", "never"] = "auto"
    """Whether packed images are read into memory."""
    image_size: Annotated[int, Field(ge=MIN_IMAGE_SIZE, le=1024)] | None = None
    """Pixels per side of the model's input; only for data sets whose images have any size."""


class LayerSection(TaggedTable):
    """A preprocessing layer of Keras or KerasCV, with its arguments beside its name."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"not": {"required": ["op"]}})

    layer: Annotated[
        str,
        Field(
            pattern=f"^{PUBLIC_NAME.pattern}$",
            title="the public name of a Keras or KerasCV layer, such as "
            '"keras_cv.layers.RandomCutout"',
        ),
    ]
    """The layer; its arguments are further keys of this table."""


def _op_or_layer(step: Json) -> str | None:
    """Returns which of the keys "op" and "layer" an augmentation step has, or None."""
    keys = step if isinstance(step, dict) else getattr(step, "__dict__", ())
    named = [key for key in ("op", "layer") if key in keys]
    return named[0] if len(named) == 1 else None


AnyStep = Annotated[
    Annotated[AnyOperation, Tag("op")] | Annotated[LayerSection, Tag("layer")],
    Discriminator(
        _op_or_layer,
        custom_error_type="expected",
        custom_error_message="a table with either op or layer",
    ),
]


class LossSection(Table):
    """What training minimises. Validation and final scores report the cross-entropy, whatever the
    loss."""

    name: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    """binary_cross_entropy: each class is a question of its own, as in "ResNet strikes back"."""
    label_smoothing: Rate = 0.0
    """Share of a target that is spread over all classes."""
    target_threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Targets of binary_cross_entropy above this value, smoothed and mixed, become 1, all others
    0; default: they stay as they are."""
    sum_classes: bool = False
    """Whether binary_cross_entropy is the sum over the classes and not their mean."""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """Factor of the sum of squares, without 1/2."""
    l2_of: Literal["weights", "all"] = "weights"
    """weights: kernels and BN gamma; all: also biases and beta, so that l2 = w / 2 equals the
    weight_decay w of PyTorch's SGD."""


class TrainSection(Table):
    """How long training takes, which weights ship, and what it costs."""

    epochs: Positive
    """Epochs of the run."""
    dtype: Literal["float32", "mixed_bfloat16"] = "float32"
    """Dtype in which the network computes; mixed_bfloat16: layers in bfloat16, with weights,
    normalisation of pixels, logits and loss in float32."""
    seed: Count = 0
    """Decides the initial weights, the order of the images and every random draw."""
    batch_norm: Literal["global", "per_device"] = "global"
    """The images over which batch normalisation takes its mean and variance."""
    ema: Rate = 0.0
    """Momentum of the weights' moving average; 0: no average."""
    average_last: Count = 0
    """Number of last epochs; the weights that ship are the average over their ends, with the
    statistics of batch normalisation. With train.sizes: epochs of its last size. 0: no average."""
    accumulate_steps: Positive = 1
    """Parts into which a batch is split to save memory."""
    sizes: (
        Annotated[
            list[
                Annotated[list[Number], Field(min_length=2, max_length=2, title="[share, pixels]")]
            ],
            Field(min_length=1, title="a list such as [[0.0, 32], [0.6, 48], [0.85, 64]]"),
        ]
        | None
    ) = None
    """Training on smaller images first: [share of the run, pixels per side], such as
    [[0.0, 32], [0.6, 64]]; a size applies from the first epoch at whose start that share is over.
    The last size may be below that of the model, which is scored and shipped at its own. Default:
    the size of the model throughout."""
    remeasure_statistics: Count = 0
    """Batches of training images on which the statistics of batch normalisation are measured anew
    at the end, at the size at which the model is scored, and with the weights that ship in
    model.keras; 0: they stay as they are."""
    remat: bool = False
    """Whether the backward pass recomputes activations of blocks instead of keeping them, which
    saves memory and costs time."""
    xla: Literal["auto", "on", "off"] = "auto"
    """Whether TensorFlow compiles the training step with XLA; auto: on one GPU. JAX always does."""
    early_stopping: Count = 0
    """Epochs without a better val_top1, or an equal one with a lower val_loss, after which the run
    ends; 0: never."""
    validate_every: Count = 1
    """The validation images are scored every so many epochs, and in the last one too; 0: only the
    finished model is scored."""
    select_on: Literal["auto", "validation"] = "auto"
    """Images by which best.keras, the plateau schedule and early stopping choose; auto: those of
    data.holdout, if any; validation: the validation split, for papers that say they chose on it."""
    initial_weights: str | None = None
    """A .keras file to start from."""
    freeze: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(min_length=1, title='a list of names such as ["stem", "stage1"]'),
        ]
        | Literal["backbone"]
        | None
    ) = None
    """Layers that do not train, by the beginnings of their names: "stage1" stands for stage1 and
    for names that continue with "_", "/", "." or "-". backbone: all layers but logits. Frozen
    layers keep their weights and the statistics of batch normalisation, and compute as in
    evaluation, without dropout. Default: all layers train."""
    checkpoint_every: Annotated[
        str,
        Field(
            pattern=r"^([1-9]\d{0,5} (min|steps)|epoch)$",
            title='"epoch", or a time such as "10 min" or "500 steps"',
        ),
    ] = "10 min"
    """Interval of checkpoints within an epoch; epoch: only at each epoch's end. An interval in
    minutes grows if writing would take over 1 % of the time."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """If the loss or a weight is not finite: stop, or go back to a checkpoint and multiply the
    learning rate by rollback_factor, at most max_rollbacks times."""
    rollback_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """See on_nan."""
    max_rollbacks: Annotated[int, Field(ge=1, le=100)] = 3
    """See on_nan."""


class EvaluationSection(Table):
    """How images are shown in evaluation. resize and interpolation are for images of any size, and
    with ten_crop for images of one size too; views is for images of one size."""

    resize: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Pixels of the shorter side before the centre is cropped; default: 256 / 224 of image_size."""
    interpolation: ResizeFilter = "bilinear"
    """How images are resampled."""
    ten_crop: bool = False
    """Whether scores of the finished model average its predictions for the centre, the corners and
    their mirror images."""
    views: ViewSet = "none"
    """Views at the images' own size whose predictions are averaged for scores beside those of the
    image itself. mirror: the image and its mirror image; shift: this pair and, with half the
    weight, the pairs of the image shifted by one pixel down and right, and up and left."""


class ResultSection(Table):
    """A published or measured result, with errors and accuracies in percent."""

    top1: float | None = None
    """Top-1 accuracy."""
    top5: float | None = None
    """Top-5 accuracy."""
    top1_error: float | None = None
    """Top-1 error, where the source states errors."""
    top5_error: float | None = None
    """Top-5 error."""
    seconds: float | None = None
    """Duration of the run."""
    note: str | None = None
    """What a reader must know to compare it."""
    source: str | None = None
    """The paper or page, or the command that measured it."""

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy in percent, from top1 or top1_error."""
        if self.top1 is None and self.top1_error is not None:
            return round(100 - self.top1_error, 2)
        return self.top1


def is_folder_name(name: str) -> bool:
    """Returns whether a run folder can have this name."""
    fits = name.isprintable() and 0 < len(name.encode()) <= 100
    return fits and not name.startswith((".", "-", " ")) and not set(name) & set("/\\")


def _folder_name(name: str) -> str:
    if not is_folder_name(name):
        raise expected(
            "a folder's name: at most 100 printable characters, no slash, no dot or dash in front"
        )
    return name


class Recipe(Table):
    """A validated recipe. Attributes are the tables of the TOML file."""

    name: Annotated[str, AfterValidator(_folder_name)]
    """Name of the recipe and of its run folder; default: the name of the file."""
    model: AnyModel
    data: DataSection
    augment: list[AnyStep] = []
    """Augmentation steps in the order in which they are applied, after data.mirror."""
    loss: LossSection = LossSection()
    optimizer: AnyOptimizer
    schedule: AnySchedule = ConstantOptions()
    train: TrainSection
    evaluation: EvaluationSection = EvaluationSection()
    reference: ResultSection | None = None
    """A published result."""
    measured: dict[str, ResultSection] = {}
    """Results of this package, by backend."""

    @field_validator("schedule", mode="before")
    @classmethod
    def _is_constant_without_a_name(cls, schedule: Json) -> Json:
        return named_constant(schedule)

    # ---------------------------------------------------------------------------- derived values

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None if it depends on the images."""
        return self.data.classes or find_dataset(self.data.dataset).num_classes

    @property
    def image_size(self) -> int:
        """Pixels per side of the model's input."""
        size = self.data.image_size or find_dataset(self.data.dataset).image_size
        assert size is not None  # see `_check_image_size`
        return size

    @property
    def size_stages(self) -> tuple[SizeStage, ...]:
        """The epochs of each size; without `train.sizes` one stage of the model's size.

        An epoch has the last size of the list whose share is at most the share of all epochs that
        are over when it begins: of 4 epochs, [0.5, 64] sets the size of the third and the fourth.
        """
        epochs, sizes = self.train.epochs, self.train.sizes or [[0.0, self.image_size]]
        begins = [_first_epoch(share, epochs) for share, _ in sizes]
        ends = [*begins[1:], epochs]
        return tuple(
            SizeStage(int(size), begin, end)
            for (_, size), begin, end in zip(sizes, begins, ends, strict=True)
        )

    def size_of_epoch(self, epoch: int) -> int:
        """Returns the pixels per side of an epoch's images; past the end, those of the last one."""
        stages = self.size_stages
        return next((s for s in stages if epoch in s), stages[-1]).image_size

    @property
    def smaller_sizes(self) -> tuple[int, ...]:
        """The sizes of `train.sizes` below the full one."""
        sizes = [stage.image_size for stage in self.size_stages]
        return tuple(size for size in sizes if size < self.image_size)

    @property
    def view(self) -> View | None:
        """The view of images in evaluation; None for images as they are stored."""
        evaluation, size = self.evaluation, self.image_size
        if not self.data.image_size and not evaluation.ten_crop:
            return None
        resize = evaluation.resize or default_resize(size)
        return View(size, evaluation.interpolation, resize, evaluation.ten_crop)

    @property
    def selection(self) -> Literal["holdout", "validation", "none"]:
        """The images by which the best epoch is chosen."""
        if self.train.select_on == "validation":
            return "validation"
        return "holdout" if self.data.holdout else "none"

    def resolved(self) -> "Recipe":
        """Returns the recipe with the stem of a ResNet, or the SHA-256 of a file, for the record.

        Call it after `check`, which requires an image size.
        """
        model = self.model.for_record(self.image_size)
        return self if model is self.model else self.model_copy(update={"model": model})

    def without_results(self) -> JsonObject:
        """Returns the content that a model file records: all but published and measured results."""
        return self.model_dump(exclude_none=True, exclude={"reference", "measured"})

    def to_toml(self) -> str:
        """Returns the resolved recipe as TOML text, with which `fit --recipe` repeats the run."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(exclude_none=True))

    # ------------------------------------------------------------------- rules across the tables

    def check(self) -> None:
        """Raises a UserError if settings exclude each other."""
        dataset = find_dataset(self.data.dataset)
        self._check_mixing()
        self._check_image_size(dataset)
        self._check_evaluation(dataset)
        self._check_in_memory(dataset)
        self._check_mean_image(dataset)
        self._check_factor()
        self._check_weights()
        self._check_classes(dataset)
        self._check_accumulation()
        self._check_selection()
        self._check_sizes()
        self._check_groups()
        self._check_average()
        self._check_loss()
        self._check_repeats()
        self.schedule.check_warmup(self.optimizer.learning_rate, self.train.epochs)

    def _check_mixing(self) -> None:
        """An operation that mixes labels must be the last step and have two images to mix."""
        for step in self.augment:
            if not (isinstance(step, OperationOptions) and step.mixes):
                continue
            last = self.augment[-1]
            if step is not last:
                raise UserError(
                    f'augment.op "{step.op}" mixes labels and must be the last step; received '
                    f"{last.layer if isinstance(last, LayerSection) else last.op} after it"
                )
            if self.data.batch_size // self.train.accumulate_steps < 2:
                raise UserError(
                    f'augment.op "{step.op}" mixes the images of a batch, or of each part of it '
                    "with train.accumulate_steps: 2 are needed; received 1"
                )

    def _check_image_size(self, dataset: Dataset) -> None:
        size = self.data.image_size
        if dataset.image_size and size:
            raise UserError(
                f"data.image_size is for data sets of images of any size, and those of "
                f"{dataset.name} have {dataset.image_size} pixels: remove it; received {size}"
            )
        if not dataset.image_size and not size:
            raise UserError(
                f"data.image_size is missing: images of {dataset.name} have any size; set the "
                "pixels per side of the model's input, such as 224"
            )

    def _check_evaluation(self, dataset: Dataset) -> None:
        evaluation, shown = self.evaluation, self.image_size
        changed = evaluation.resize or evaluation.interpolation != "bilinear"
        if dataset.image_size and changed and not evaluation.ten_crop:
            raise UserError(
                f"evaluation.resize and evaluation.interpolation have no use for {dataset.name}, "
                "whose images have one size, unless evaluation.ten_crop is true"
            )
        if evaluation.resize and evaluation.resize < shown:
            raise UserError(
                f"evaluation.resize must be at least the {shown} pixels that are cropped; "
                f"received {evaluation.resize}"
            )
        if evaluation.views != "none" and not dataset.image_size:
            raise UserError(
                f"evaluation.views is for images of one size, and those of {dataset.name} have any "
                f'size: set evaluation.ten_crop = true instead; received "{evaluation.views}"'
            )
        if evaluation.views != "none" and evaluation.ten_crop:
            raise UserError(
                "evaluation.views and evaluation.ten_crop exclude each other: remove one of them; "
                f'received "{evaluation.views}" and true'
            )

    def _check_in_memory(self, dataset: Dataset) -> None:
        if self.data.in_memory != "auto" and not dataset.image_size:
            raise UserError(
                f"data.in_memory has no use for {dataset.name}, which is read from its files: "
                f'remove it; received "{self.data.in_memory}"'
            )

    def _check_mean_image(self, dataset: Dataset) -> None:
        if self.model.normalization == "mean_image" and not dataset.image_size:
            raise UserError(
                'model.normalization = "mean_image" needs images of one size; for '
                f'{dataset.name} use "dataset", the mean and deviation of each channel'
            )

    def _check_factor(self) -> None:
        model, size = self.model, self.image_size
        if isinstance(model, SpectralOptions) and size % model.factor:
            raise UserError(
                f"model.factor must divide the {size} pixels per side of the images; received "
                f"{model.factor}"
            )

    def _check_weights(self) -> None:
        if isinstance(self.model, FileOptions) and self.train.initial_weights:
            raise UserError(
                'train.initial_weights and model.name = "file" both name a file with the weights: '
                f'remove train.initial_weights; received "{self.train.initial_weights}"'
            )

    def _check_classes(self, dataset: Dataset) -> None:
        if self.data.classes and self.data.classes > (dataset.num_classes or math.inf):
            raise UserError(
                f"data.classes must be at most {dataset.num_classes}, the classes of "
                f"{dataset.name}; received {self.data.classes}"
            )

    def _check_accumulation(self) -> None:
        if self.data.batch_size % self.train.accumulate_steps:
            raise UserError(
                "train.accumulate_steps must divide data.batch_size; "
                f"received {self.train.accumulate_steps} and {self.data.batch_size}"
            )

    def _check_selection(self) -> None:
        if self.data.holdout and self.train.select_on == "validation":
            raise UserError(
                'train.select_on = "validation" leaves data.holdout unused; '
                f"received both, with data.holdout = {self.data.holdout}"
            )
        selects = self.train.early_stopping or isinstance(self.schedule, PlateauOptions)
        if self.train.validate_every != 1 and selects:
            raise UserError(
                "train.early_stopping and the plateau schedule look at the scores of each epoch: "
                f"set train.validate_every to 1; received {self.train.validate_every}"
            )
        if self.train.validate_every == 0 and self.selection != "none":
            raise UserError(
                "train.validate_every = 0 leaves no scores by which the best epoch is chosen: set "
                "it to 1 or more, or remove data.holdout and train.select_on; received 0"
            )
        if self.selection == "none" and selects:
            raise UserError(
                "train.early_stopping and the plateau schedule need validation images: set "
                "data.holdout to a number of training images to hold out; received 0"
            )

    def _check_sizes(self) -> None:
        if self.train.sizes is None:
            return
        shares, sizes = zip(*self.train.sizes, strict=True)
        full, epochs = self.image_size, self.train.epochs
        wrong = next((s for s in sizes if s != int(s) or s < MIN_IMAGE_SIZE), None)
        if wrong is not None:
            raise UserError(
                f"train.sizes must name whole numbers of pixels from {MIN_IMAGE_SIZE}; "
                f"received {wrong}"
            )
        if shares[0] != 0:
            raise UserError(
                "train.sizes must begin with the share 0.0, the beginning of the run; "
                f"received {shares[0]}"
            )
        wrong = next((s for s in shares if not 0 <= s < 1), None)
        if wrong is not None:
            raise UserError(
                f"train.sizes must name shares of the run from 0.0 to below 1.0; received {wrong}"
            )
        for what, values in (("shares", shares), ("sizes", sizes)):
            fall = next((pair for pair in pairwise(values) if pair[0] >= pair[1]), None)
            if fall:
                raise UserError(
                    f"train.sizes must have {what} that grow from entry to entry; received "
                    f"{fall[0]} and then {fall[1]}"
                )
        if sizes[-1] > full:
            raise UserError(
                f"train.sizes must name at most {full} pixels, the size of the images and the "
                f"model; received {sizes[-1]}"
            )
        empty = next((s for s in self.size_stages if s.first_epoch >= s.end_epoch), None)
        if empty:
            raise UserError(
                f"train.sizes leaves no epoch for {empty.image_size} pixels: sizes change where an "
                f"epoch begins, and train.epochs is {epochs}; set shares that are at least "
                f"1 / {epochs} apart and end with one of at most 1 - 1 / {epochs}"
            )
        if isinstance(self.model, SpectralOptions):
            raise UserError(
                "train.sizes does not work with a spectral network, whose bands are those of one "
                "size: remove it"
            )

    def _check_groups(self) -> None:
        if self.optimizer.weight_decay or self.loss.l2:
            return
        for number, group in enumerate(self.optimizer.groups):
            if group.weight_decay_factor != 1:
                raise UserError(
                    f"optimizer.groups.{number}.weight_decay_factor has no decay to multiply: set "
                    f"optimizer.weight_decay or loss.l2; received {group.weight_decay_factor}"
                )

    def _check_average(self) -> None:
        train = self.train
        if train.average_last > train.epochs:
            raise UserError(
                f"train.average_last must be at most the {train.epochs} epochs of the run; "
                f"received {train.average_last}"
            )
        last = self.size_stages[-1]
        num_epochs = last.end_epoch - last.first_epoch
        if train.average_last > num_epochs:
            raise UserError(
                f"train.average_last must be at most {num_epochs}, the epochs of the last size of "
                f"train.sizes; received {train.average_last}"
            )
        if train.average_last and train.ema:
            raise UserError(
                "train.average_last and train.ema are two averages, of which one can ship; "
                f"received {train.average_last} and {train.ema}: set one of them to 0"
            )
        if train.average_last and train.early_stopping:
            raise UserError(
                "train.average_last needs to know the last epochs, and train.early_stopping ends a "
                f"run earlier; received {train.average_last} and {train.early_stopping}: set one "
                "of them to 0"
            )

    def _check_loss(self) -> None:
        loss = self.loss
        if loss.name == "cross_entropy" and (loss.sum_classes or loss.target_threshold is not None):
            raise UserError(
                "loss.target_threshold and loss.sum_classes are options of "
                'loss.name = "binary_cross_entropy"; received "cross_entropy"'
            )
        if loss.l2_of == "all" and not loss.l2:
            raise UserError(
                'loss.l2_of = "all" says of which variables loss.l2 is, which is 0 here: set '
                "loss.l2, or remove loss.l2_of"
            )
        if self.num_classes:
            check_target_threshold(loss, self.num_classes)

    def _check_repeats(self) -> None:
        if self.data.repeats > 1 and self.data.mirror in ("alternating", "both"):
            raise UserError(
                "data.repeats draws each copy of an image anew, so data.mirror must be "
                f'"random" or "none"; received "{self.data.mirror}"'
            )


def check_target_threshold(loss: LossSection, num_classes: int) -> None:
    """Refuses a threshold that would make the targets of all classes equal."""
    if loss.target_threshold is None:
        return
    other = loss.label_smoothing / num_classes  # the target of a class that is not the label
    if not other <= loss.target_threshold < 1 - loss.label_smoothing + other:
        raise UserError(
            "loss.target_threshold must lie between the smoothed targets, "
            f"{other:.3g} and {1 - loss.label_smoothing + other:.3g}; received "
            f"{loss.target_threshold}"
        )


def _first_epoch(share: float, epochs: int) -> int:
    """Returns the first epoch, counted from 0, at whose start a share of the run is over."""
    near = int(share * epochs)  # which rounding may have moved by one
    return next(epoch for epoch in range(max(0, near - 1), near + 3) if epoch / epochs >= share)
