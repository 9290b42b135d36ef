"""The options of each operation, as [[augment]] tables of a recipe.

Besides the options, a class states the module of the operation's two functions, and whether the
operation mixes labels. Does not import TensorFlow.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.tables import (
    AS_WRITTEN,
    Fraction,
    TaggedTable,
    broken_rule,
    by_tag,
    not_as_described,
)
from keras_imnet64.data.images.filters import CropFilter


def _low_end_first(ends: list[float]) -> list[float]:
    if ends[0] > ends[1]:
        raise not_as_described()
    return ends


TwoEnds = Field(min_length=2, max_length=2, title="[low, high]")
Ratio = Annotated[
    list[Annotated[float, Field(ge=0.01, le=100), AS_WRITTEN]],
    TwoEnds,
    AfterValidator(_low_end_first),
]
Strength = Annotated[float, Field(ge=0, le=1000), AS_WRITTEN]
Alpha = Annotated[float, Field(ge=0.001, le=1000), AS_WRITTEN]
Grey = Annotated[int, Field(ge=0, le=255)]  # of the pixels that come from outside the image
Interpolation = Literal["nearest", "bilinear"]


class OperationOptions(TaggedTable):
    """The base class of the tables of all operations."""

    module: ClassVar[str]
    mixes: ClassVar[bool] = False

    op: str
    """The name of the operation; its options stand in the same table."""

    def check_image_size(self, image_size: int) -> None:
        """Refuses options that do not work for images of `image_size` pixels per side."""


class PadCropOptions(OperationOptions):
    module = "crops"

    op: Literal["pad_crop"]
    padding: Annotated[int, Field(ge=0, le=128)] = 4
    """Pixels on each side."""
    fill: Literal["zero", "reflect", "mean"] = "zero"

    def check_image_size(self, image_size: int) -> None:
        if self.padding >= image_size:
            raise UserError(
                f"augment.padding must be below the image size of {image_size}; "
                f"received {self.padding}"
            )


class RandomResizedCropOptions(OperationOptions):
    module = "crops"

    op: Literal["random_resized_crop"]
    scale: Annotated[
        list[Annotated[float, Field(ge=1e-6, le=1), AS_WRITTEN]],
        TwoEnds,
        AfterValidator(_low_end_first),
    ] = [0.08, 1.0]
    """The crop's share of the image's area."""
    ratio: Ratio = [3 / 4, 4 / 3]
    """Width divided by height."""
    interpolation: Literal[CropFilter, "random"] = "bilinear"
    """random: bilinear or bicubic, drawn for each image."""


class RandomRotationOptions(OperationOptions):
    module = "geometry"

    op: Literal["random_rotation"]
    degrees: Annotated[float, Field(ge=0, le=180), AS_WRITTEN]
    """The largest angle in either direction."""
    interpolation: Interpolation = "nearest"
    fill: Grey = 0


class ColorJitterOptions(OperationOptions):
    module = "colour"

    op: Literal["color_jitter"]
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5), AS_WRITTEN] = 0.0

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not any(self.all_options.values()):
            raise broken_rule(f"needs a value above 0 for one of {', '.join(self.all_options)}")
        return self


class TrivialAugmentOptions(OperationOptions):
    module = "policies"

    op: Literal["trivial_augment"]
    interpolation: Interpolation = "nearest"
    fill: Grey = 0


class RandAugmentOptions(OperationOptions):
    module = "policies"

    op: Literal["rand_augment"]
    num_ops: Annotated[int, Field(ge=1, le=20)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    interpolation: Interpolation = "nearest"
    fill: Grey = 0


class RandAugmentIncreasingOptions(OperationOptions):
    """timm's RandAugment, in which each operation becomes stronger with the magnitude."""

    module = "policies"

    op: Literal["rand_augment_increasing"]
    num_ops: Annotated[int, Field(ge=1, le=20)] = 2
    magnitude: Annotated[float, Field(ge=0, le=10), AS_WRITTEN] = 9
    magnitude_std: Annotated[float, Field(ge=0, le=10), AS_WRITTEN] = 0.5
    probability: Fraction = 0.5
    """Probability of each operation."""
    interpolation: Interpolation = "bilinear"
    fill: Grey = 128


class AutoAugmentOptions(OperationOptions):
    module = "policies"

    op: Literal["auto_augment"]
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    interpolation: Interpolation = "nearest"
    fill: Grey = 0


class RandomErasingOptions(OperationOptions):
    module = "erasing"

    op: Literal["random_erasing"]
    probability: Fraction = 0.5
    """Probability that a rectangle of an image is erased."""
    scale: Annotated[list[Fraction], TwoEnds, AfterValidator(_low_end_first)] = [0.02, 0.33]
    """The rectangle's share of the image's area."""
    ratio: Ratio = [0.3, 3.3]
    """Height divided by width."""
    fill: Grey | Literal["mean"] = 0


class MixingOptions(OperationOptions):
    module, mixes = "mixing", True

    per: Literal["image", "batch"] = "image"
    """batch: as in timm, one share, box and choice of operation is drawn for a batch, or for each
    part of it with train.accumulate_steps, and each image is mixed with the one as far from the
    other end, so that the middle one of an odd number stays."""


class MixUpOptions(MixingOptions):
    op: Literal["mixup"]
    alpha: Alpha = 1.0
    """Parameter of the beta distribution of the images' shares."""
    probability: Fraction = 1.0
    """Probability that an image, or a batch, is mixed."""


class CutMixOptions(MixingOptions):
    op: Literal["cutmix"]
    alpha: Alpha = 1.0
    """Parameter of the beta distribution of the images' shares."""
    probability: Fraction = 1.0
    """Probability that an image, or a batch, is mixed."""


class MixUpOrCutMixOptions(MixingOptions):
    op: Literal["mixup_or_cutmix"]
    mixup_alpha: Alpha = 1.0
    cutmix_alpha: Alpha = 1.0
    probability: Fraction = 1.0
    """Probability that an image, or a batch, is mixed."""
    cutmix_share: Fraction = 0.5
    """Share of the images, or batches, that CutMix mixes instead of MixUp."""


AnyOperation = Annotated[
    PadCropOptions
    | RandomResizedCropOptions
    | RandomRotationOptions
    | ColorJitterOptions
    | TrivialAugmentOptions
    | RandAugmentOptions
    | RandAugmentIncreasingOptions
    | AutoAugmentOptions
    | RandomErasingOptions
    | MixUpOptions
    | CutMixOptions
    | MixUpOrCutMixOptions,
    Field(discriminator="op"),
]

OPS: dict[str, type[OperationOptions]] = by_tag(AnyOperation)
