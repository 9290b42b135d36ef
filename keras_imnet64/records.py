"""What flows between the parts and what lies on disk, typed: one frozen dataclass for each.

A field is renamed here, and the type checker finds every use. On disk each has the name that its
file had from the start: where that is no Python name, an alias says so. `core.validation` reads and
writes records as JSON.
"""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field

from keras_imnet64.core.types import JsonObject

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
