"""Records: what the parts pass to each other and what files hold, one frozen dataclass for each.

Keys in files never change: where a field has another name than its key, an alias states the key.
`core.validation` reads and writes records as JSON.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field

from keras_imnet64.core.paths import is_portable
from keras_imnet64.core.types import JsonObject

Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
PositiveCount: TypeAlias = Annotated[int, Field(gt=0, lt=2**63)]

# ------------------------------------------------------------------------------------- model files

MAX_IMAGE_SIZE = 4096  # pixels per side
ViewSet: TypeAlias = Literal["none", "mirror", "shift"]  # see `evaluation.views`


def _distinct(ids: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(ids)) < len(ids):
        raise ValueError
    return ids


@dataclass(frozen=True, kw_only=True)
class ConvertedFrom:
    """The file of another library that a model's weights came from, and its network there."""

    file: str
    sha256: str
    prefix: str | None = None
    model: str
    model_options: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class EnsembleInfo:
    """The branches of a joined model, and their weights."""

    fusion: str
    branches: tuple[int, ...]  # bands
    weights: tuple[float, ...]


@dataclass(frozen=True)
class ModelInfo:
    """What a model file states about itself; a field that it does not state is None.

    Attributes:
        wnids, class_names: in the order of the logits.
        image_size: pixels per side of the training images.
        dataset: the training data set.
        resize_filter, ten_crop, resize: how images are shown in evaluation, see `View`.
        views: the views that are scored beside the image itself; not stated for none.
        verified: whether the training images are known to be those that `dataset` promises.
        own_model: whether the network was passed to `fit`, and is not the one of `recipe`.
        recipe: the content of the recipe.
        epoch: the epoch after which the weights were saved, counted from 1.
        needs: packages beside Keras that must be installed to load the file, such as keras_hub;
            not stated for none.
    """

    wnids: Annotated[tuple[str, ...], AfterValidator(_distinct)] | None = None
    class_names: tuple[str, ...] | None = None
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] | None = None
    dataset: str | None = None
    resize_filter: str | None = None
    ten_crop: bool | None = None
    resize: Annotated[int, Field(ge=1, le=2 * MAX_IMAGE_SIZE)] | None = None
    views: ViewSet | None = None
    verified: bool | None = None
    own_model: bool | None = None
    recipe: JsonObject | None = None
    epoch: int | None = None
    ensemble: EnsembleInfo | None = None
    converted_from: ConvertedFrom | None = None
    needs: tuple[str, ...] | None = None


# ------------------------------------------------------------------------------------------ scores


@dataclass(frozen=True)
class Scores:
    """Scores of a model on the images of a selection.

    Attributes:
        top1, top5: accuracies in percent.
        loss: cross-entropy in nats.
        count: number of images.
    """

    top1: float
    top5: float
    loss: float
    count: int


@dataclass(frozen=True)
class ViewScores:
    """Scores of the average over several views of each image, beside those of the image itself."""

    top1_views: float  # percent
    top5_views: float  # percent
    loss_views: float  # cross-entropy in nats


# ------------------------------------------------------------------------------ stores of images

SourceForm: TypeAlias = Literal[  # see the table in `data.forms`
    "zip archives",
    "npz batches",
    "pickle batches",
    "TFRecords",
    "tar archives",
    "Tiny ImageNet's files",
    "Parquet",
    "WebDataset",
    "CSV",
    "class folders",
    "drawn",
    "downsampled",
]
FilesByVersion: TypeAlias = dict[int, set[str]]  # names of a store's files beside meta.json
_ENCODED_1 = {"files.npy", "pictures.npy", "moments.npy", "labels.npy", "converted.bin"}


@dataclass(frozen=True, kw_only=True)
class StoreMeta:
    """The keys of `meta.json` that raw and encoded stores share.

    Attributes:
        source: where the images came from, for people.
        form: the form in which the source had them; None in stores of earlier versions.
        verified: whether the images are known to be those that the name of the data set promises.
        count: number of images; 0 in training images of a set that is only for scoring.
        class_counts: images of each class, in label order.
        wnids: class ids, in label order.
        class_names: names for people, in label order.
        digest: SHA-256 (hex) of images and labels.
        file_sizes: {name: bytes} of the other files of the store.
    """

    FILES: ClassVar[FilesByVersion]

    kind: str
    format_version: int
    dataset: str
    source: str
    verified: bool
    split: str
    count: Count
    class_counts: list[Count]
    wnids: list[str]
    class_names: list[str]
    digest: str
    file_sizes: Annotated[dict[str, Count], Field(alias="bytes")]
    form: SourceForm | None = None

    def __post_init__(self) -> None:
        num_classes = len(set(self.wnids))
        if {len(self.wnids), len(self.class_names), len(self.class_counts)} != {num_classes}:
            raise ValueError("it does not have one id, name and count for each class")
        if self.file_sizes.keys() != self.FILES[self.format_version]:
            raise ValueError('its "bytes" does not name the files of such a store')


@dataclass(frozen=True, kw_only=True)
class RawStoreMeta(StoreMeta):
    """`meta.json` of a raw store, of images [image_size, image_size, 3]."""

    FILES: ClassVar[FilesByVersion] = {1: {"images.npy", "labels.npy", "moments.npz"}}

    kind: Literal["raw"] = "raw"
    format_version: Literal[1] = 1
    count: PositiveCount
    image_size: PositiveCount


@dataclass(frozen=True, kw_only=True)
class EncodedStoreMeta(StoreMeta):
    """`meta.json` of an encoded store. Stores of format 1 have no hashes of their images.

    Attributes:
        root: the folder of the image files, as `paths.portable` writes it; the address of a remote
            source.
        copied: whether the store holds copies of all images, and the source is not needed any more.
        given: what the user passed as the source, as `root`; empty in stores of earlier versions.
        options: words of the command that made the store, which decide about splits and classes.
    """

    FILES: ClassVar[FilesByVersion] = {1: _ENCODED_1, 2: _ENCODED_1 | {"hashes.npy"}}

    kind: Literal["encoded"] = "encoded"
    format_version: Literal[1, 2] = 2
    root: str
    copied: bool = False
    given: str = ""
    options: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_portable(self.root):
            raise ValueError('its "root" is wrong')
        if self.given and not is_portable(self.given):
            raise ValueError('its "given" is wrong')


# ------------------------------------------------------------------------------------- data sets

DatasetState: TypeAlias = Literal[
    "packed", "built by TFDS, not packed", "half there", "not prepared"
]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set and of its state on this machine, as `data info` shows it.

    All fields describe one location: that of verified images, unless only unverified images, or a
    part of them, exist. After `data prepare`, they describe what it has prepared.

    Attributes:
        num_classes: None if it depends on the user's images and these are not packed.
        class_ids, class_names: of the first five classes.
        verified: None if the data set is neither packed nor built.
        splits: images by split, None where unknown.
        digest: of the packed stores, by split.
        tfds_bytes: size of what TFDS has built.
        source: where the images came from, for people.
        form: the form in which the source had them, such as "Parquet"; None if it is not known.
    """

    name: str
    description: str
    image_size: int | None
    num_classes: Annotated[int | None, Field(alias="classes")]
    class_ids: list[str]
    class_names: list[str]
    state: DatasetState
    verified: bool | None
    splits: dict[str, int | None]
    digest: dict[str, str]
    store_bytes: int
    tfds_bytes: int
    location: str | None
    source: str | None
    form: SourceForm | None


# ------------------------------------------------------------------------------- epochs of a recipe


@dataclass(frozen=True)
class SizeStage:
    """The epochs of a run that train on images of one size."""

    image_size: int  # pixels per side
    first_epoch: int  # counted from 0
    end_epoch: int  # the epoch after the last

    def __contains__(self, epoch: int) -> bool:
        return self.first_epoch <= epoch < self.end_epoch


# ---------------------------------------------------------------------------- checkpoints of a run


@dataclass(frozen=True)
class EpochRow:
    """A row of history.csv, whose columns are these fields. Accuracies are in percent.

    Attributes:
        epoch: counted from 1.
        step: updates of the weights since the run began.
        learning_rate: that of the epoch's last update.
        loss: what training minimises, with L2 and label smoothing; the mean over the epoch.
        top1, top5: accuracies in training, on the augmented images.
        val_loss: cross-entropy of the validation images; empty, as are the next two, in epochs that
            `train.validate_every` does not score.
        val_top1, val_top5: accuracies on the validation images.
        images_per_second: speed of the epoch's steps without the first one, which compiles; None
            if it is the only one.
        seconds: duration of the epoch's steps in the process that ended the epoch.
        training_seconds: wall clock from the run's first step to the end of this epoch, its scores
            included; empty if a version that did not count it trained a part of the run.
        size: pixels per side of the epoch's images; empty in rows of earlier versions.
    """

    epoch: int
    step: int
    learning_rate: float
    loss: float
    top1: float
    top5: float
    val_loss: float | None
    val_top1: float | None
    val_top5: float | None
    images_per_second: float | None
    seconds: float
    training_seconds: float | None = None
    size: int | None = None


@dataclass(frozen=True)
class BestEpoch:
    """The epoch whose weights best.keras holds."""

    epoch: int  # counted from 1
    val_top1: float


@dataclass(frozen=True)
class Plateau:
    """The state of the plateau schedule; rollbacks lower `scale` under every schedule."""

    best: float | None = None  # the lowest validation loss
    wait: int = 0  # epochs since that loss, or since the rate was lowered
    scale: float = 1.0  # factor on the learning rate


@dataclass(frozen=True)
class Rollback:
    """The step at which a loss or weight was not finite and the run rolled back."""

    epoch: int  # counted from 1
    step: int  # of the epoch, counted from 1


@dataclass(frozen=True)
class RunState:
    """How far a run is and what it has decided. A checkpoint holds this and the variables.

    Attributes:
        epoch, step: the epoch, counted from 0, and the number of its steps that are done.
        history: one row for each finished epoch.
        best: None if no epoch has been chosen.
        recipe: the recipe's decisions by dotted key, see `recipe.difference`.
        stopped_early: whether early stopping has ended the run.
        training_seconds: wall clock from the first step to the model file, without what a killed
            process did after its last checkpoint; None if a step was done before this was counted.
    """

    epoch: int
    step: int
    history: tuple[EpochRow, ...] = ()
    best: BestEpoch | None = None
    plateau: Plateau = field(default_factory=Plateau)
    recipe: JsonObject = field(default_factory=dict)
    rollbacks: tuple[Rollback, ...] = ()
    stopped_early: bool = False
    training_seconds: float | None = None

    @property
    def has_trained(self) -> bool:
        """Whether any step is done."""
        return bool(self.epoch or self.step)


@dataclass(frozen=True)
class CheckpointMetadata:
    """The header of a checkpoint file."""

    progress: str  # a `RunState` as JSON
    sha256: str  # of the arrays and of `progress`, hexadecimal


@dataclass(frozen=True)
class NotFiniteSteps:
    """not_finite.json: the step after which the state was not finite, and its images.

    If only a range of steps is known, `first_step` is the first of them and `step` the last.

    Attributes:
        epoch: counted from 1.
        step: the step of the epoch, counted from 1.
        split: the split of the data set from which the images are.
        positions: the places of the images in the store of that split.
        first_step: the first step of the range; not stated if the step is known.
    """

    epoch: int
    step: int
    split: str
    positions: tuple[int, ...]
    first_step: int | None = None


# --------------------------------------------------------------------- files of a run for its users

Value = TypeVar("Value")


@dataclass(frozen=True)
class PerSplit(Generic[Value]):
    """A value for each split of a data set."""

    train: Value
    validation: Value

    def of(self, split: str) -> Value:
        value: Value = vars(self)[split]
        return value


@dataclass(frozen=True)
class ProcessEntry:
    """A process that has trained a run: where it started, on which devices and versions.

    Attributes:
        from_epoch, from_step: the epoch, counted from 0, and the number of its steps that were done
            when the process took over.
        backend: "tensorflow", "jax" or "torch".
        devices: as the backend spells them, such as "GPU:0"; those of all processes that trained
            together.
        python: the version of Python.
        versions: those of the packages that decide the numbers, by name.
        settings: environment variables that may change last bits, as they were set.
        num_processes: how many processes trained together, of which this one wrote the files.
    """

    from_epoch: int
    from_step: int
    backend: str
    devices: tuple[str, ...]
    python: str
    versions: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    num_processes: PositiveCount = 1


@dataclass(frozen=True, kw_only=True)
class Environment:
    """environment.json: the data's identity, and the processes that trained, in their order.

    Attributes:
        dataset: the data set.
        verified: for each split, whether the images are known to be those that the name promises.
        digest: for each split, the SHA-256 of the store's images and labels.
        own_model: whether the network was passed to `fit` and is not the recipe's.
        exactly_resumable: whether an interrupted run ends with the same bits; false with layers
            that draw their own random numbers.
        processes: one entry for each process that trained.
    """

    dataset: str
    verified: PerSplit[bool]
    digest: PerSplit[str]
    own_model: bool = False
    exactly_resumable: bool = True
    processes: Annotated[tuple[ProcessEntry, ...], Field(min_length=1)]


@dataclass(frozen=True)
class FileScore(Scores):
    """Scores of a model file of a run.

    Attributes:
        epoch: the epoch of best.keras.
        val_top1: the accuracy by which best.keras was chosen.
        top1_views, top5_views, loss_views: scores of the average over `evaluation.views`;
            None without.
    """

    epoch: int | None = None
    val_top1: float | None = None
    top1_views: float | None = None
    top5_views: float | None = None
    loss_views: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """Which model was scored on which images, and how: the first keys of every metrics.json.

    Attributes:
        recipe: the name of the recipe.
        backend: the backend that trained.
        dataset, split: the images that are scored, all of them.
        verified: whether these images are known to be those that the name promises.
        selected_on: the images by which the epoch of best.keras was chosen.
        crops: 1 or 10 of each image.
        views: those of `top1_views`.
    """

    recipe: str | None = None
    backend: str | None = None
    dataset: str
    split: str
    verified: bool
    selected_on: Literal["holdout", "validation", "none"] | None = None
    crops: int = 1
    views: ViewSet = "none"


@dataclass(frozen=True, kw_only=True)
class Metrics(ScoredImages):
    """metrics.json of a finished run. An ensemble has no epochs and no best.keras.

    Attributes:
        epochs: the number of epochs that were trained.
        seconds: duration of the steps of all epochs.
        training_seconds: wall clock from the first step to the written model file, compilation,
            checkpoints and the scores of epochs included; of an interrupted run the sum over its
            processes; null if a version that did not count it trained a part.
        peak_memory_mb: peak memory of the process that trained last.
        model: scores of model.keras.
        best: scores of best.keras.
    """

    epochs: int | None = None
    seconds: float | None = None
    training_seconds: float | None = None
    peak_memory_mb: float | None = None
    model: Annotated[FileScore, Field(alias="model.keras")]
    best: Annotated[FileScore | None, Field(alias="best.keras")] = None


# -------------------------------------------------------------------------- downsampled data sets


@dataclass(frozen=True)
class DownsamplingState:
    """How far one split of a data set is downsampled, and from which images.

    Attributes:
        dataset, digest: of the large images.
        size: pixels per side of the small images.
        pillow_version: on which their pixels may depend.
        num_chunks: the number of chunks of `images_per_chunk` images on disk.
    """

    dataset: str
    digest: str
    size: int
    resize_filter: Annotated[str, Field(alias="filter")]
    pillow_version: Annotated[str, Field(alias="pillow")]
    images_per_chunk: Annotated[int, Field(alias="chunk")]
    num_chunks: Annotated[int, Field(alias="chunks")]
