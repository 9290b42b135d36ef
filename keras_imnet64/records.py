"""What flows between the parts and what lies on disk, typed: one frozen dataclass for each.

A field is renamed here, and the type checker finds every use. On disk each has the name that its
file had from the start: where that is no Python name, an alias says so. `core.validation` reads and
writes records as JSON.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field

from keras_imnet64.core.paths import is_portable
from keras_imnet64.core.types import JsonObject

Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
PositiveCount: TypeAlias = Annotated[int, Field(gt=0, lt=2**63)]

# ------------------------------------------------------------------------------------- model files

MAX_IMAGE_SIZE = 4096  # pixels per side


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
    """How a joined model weighs its branches."""

    fusion: str
    branches: tuple[int, ...]  # bands
    weights: tuple[float, ...]


@dataclass(frozen=True)
class ModelInfo:
    """What a model file states about itself; None where it states nothing.

    Attributes:
        wnids, class_names: in the order of the logits.
        image_size: pixels per side that the model was trained on.
        dataset: that it was trained on.
        resize_filter, ten_crop, resize: how images are shown in evaluation, see `View`.
        verified: whether the training images are known to be those that `dataset` promises.
        own_model: whether the network was passed to `fit`, and is not the one that `recipe` names.
        recipe: the content of the recipe.
        epoch: after which the weights were saved.
    """

    wnids: Annotated[tuple[str, ...], AfterValidator(_distinct)] | None = None
    class_names: tuple[str, ...] | None = None
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] | None = None
    dataset: str | None = None
    resize_filter: str | None = None
    ten_crop: bool | None = None
    resize: Annotated[int, Field(ge=1, le=2 * MAX_IMAGE_SIZE)] | None = None
    verified: bool | None = None
    own_model: bool | None = None
    recipe: JsonObject | None = None
    epoch: int | None = None
    ensemble: EnsembleInfo | None = None
    converted_from: ConvertedFrom | None = None


# ------------------------------------------------------------------------------------------ scores


@dataclass(frozen=True)
class Scores:
    """Scores of a model on the images of a selection."""

    top1: float  # percent
    top5: float  # percent
    loss: float  # cross-entropy in nats
    count: int  # of images


# ------------------------------------------------------------------------------ stores of images

FilesByVersion: TypeAlias = dict[int, set[str]]  # names of a store's files beside meta.json
_ENCODED_1 = {"files.npy", "pictures.npy", "moments.npy", "labels.npy", "converted.bin"}


@dataclass(frozen=True, kw_only=True)
class StoreMeta:
    """`meta.json` of a store, the part that raw and encoded stores have in common.

    Attributes:
        source: where the images came from, for people.
        verified: whether the images are known to be those that the name of the data set promises.
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
    count: PositiveCount
    class_counts: list[Count]
    wnids: list[str]
    class_names: list[str]
    digest: str
    file_sizes: Annotated[dict[str, Count], Field(alias="bytes")]

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
    image_size: PositiveCount


@dataclass(frozen=True, kw_only=True)
class EncodedStoreMeta(StoreMeta):
    """`meta.json` of an encoded store. Stores of format 1 have no hashes of their images.

    Attributes:
        root: the folder of the image files, as `paths.portable` writes it.
    """

    FILES: ClassVar[FilesByVersion] = {1: _ENCODED_1, 2: _ENCODED_1 | {"hashes.npy"}}

    kind: Literal["encoded"] = "encoded"
    format_version: Literal[1, 2] = 2
    root: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_portable(self.root):
            raise ValueError('its "root" is wrong')


# ------------------------------------------------------------------------------------- data sets

DatasetState: TypeAlias = Literal[
    "packed", "built by TFDS, not packed", "half there", "not prepared"
]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set and of its state on this machine, as `data info` shows it.

    All of it is of one location: that of verified images, unless only unverified images are there,
    or a part of them.

    Attributes:
        num_classes: None where it depends on the user's images, and they are not packed.
        class_ids, class_names: of the first five classes.
        verified: None if the data set is neither packed nor built.
        splits: images by split, None where unknown.
        digest: of the packed stores, by split.
        tfds_bytes: of what TFDS has built.
        source: where the images came from, for people.
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


# -------------------------------------------------------------------------- downsampled data sets


@dataclass(frozen=True)
class DownsamplingState:
    """How far one split of a data set is downsampled, and what it is made from.

    Attributes:
        dataset, digest: of the large images.
        size: pixels per side of the small images.
        pillow_version: on which their pixels may depend.
        num_chunks: how many chunks of `images_per_chunk` images are on disk.
    """

    dataset: str
    digest: str
    size: int
    resize_filter: Annotated[str, Field(alias="filter")]
    pillow_version: Annotated[str, Field(alias="pillow")]
    images_per_chunk: Annotated[int, Field(alias="chunk")]
    num_chunks: Annotated[int, Field(alias="chunks")]
