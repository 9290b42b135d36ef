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
    """Pads the image and crops it back to its size, at a random place."""

    module = "crops"

    op: Literal["pad_crop"]
    padding: Annotated[int, Field(ge=0, le=128)] = 4
    """Pixels on each side."""
    fill: Literal["zero", "reflect", "mean"] = "zero"
    """What the padding shows: black, the mirrored border, or the mean of all training images."""

    def check_image_size(self, image_size: int) -> None:
        if self.padding >= image_size:
            raise UserError(
                f"augment.padding must be below the image size of {image_size}; "
                f"received {self.padding}"
            )


class RandomResizedCropOptions(OperationOptions):
    """Shows a random box of the image, resized as torchvision does with Pillow images."""

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
    """How pixels are resampled, as in Pillow. random: bilinear or bicubic, drawn for each
    image."""


class RandomRotationOptions(OperationOptions):
    """Turns the image by a random angle, as torchvision does."""

    module = "geometry"

    op: Literal["random_rotation"]
    degrees: Annotated[float, Field(ge=0, le=180), AS_WRITTEN]
    """The largest angle in either direction."""
    interpolation: Interpolation = "nearest"
    """How values between pixels are read; bilinear blends the border with the fill."""
    fill: Grey = 0
    """Grey level of what comes from beyond the border."""


class ColorJitterOptions(OperationOptions):
    """Changes brightness, contrast, saturation and hue in random order, as torchvision does."""

    module = "colour"

    op: Literal["color_jitter"]
    brightness: Strength = 0.0
    """The factor is drawn from 1 - brightness to 1 + brightness, and not below 0."""
    contrast: Strength = 0.0
    """The factor is drawn from 1 - contrast to 1 + contrast, and not below 0."""
    saturation: Strength = 0.0
    """The factor is drawn from 1 - saturation to 1 + saturation, and not below 0."""
    hue: Annotated[float, Field(ge=0, le=0.5), AS_WRITTEN] = 0.0
    """The hue turns by up to this part of the colour circle, in either direction."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not any(self.all_options.values()):
            raise broken_rule(f"needs a value above 0 for one of {', '.join(self.all_options)}")
        return self


class TrivialAugmentOptions(OperationOptions):
    """TrivialAugmentWide (arXiv:2103.10158), as in torchvision: one of 14 transforms at one of 31
    strengths."""

    module = "policies"

    op: Literal["trivial_augment"]
    interpolation: Interpolation = "nearest"
    """How values between pixels are read."""
    fill: Grey = 0
    """Grey level of what comes from beyond the border."""


class RandAugmentOptions(OperationOptions):
    """RandAugment (arXiv:1909.13719), as in torchvision: several transforms of one strength."""

    module = "policies"

    op: Literal["rand_augment"]
    num_ops: Annotated[int, Field(ge=1, le=20)] = 2
    """Number of transforms of an image, one after the other."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of the transforms."""
    interpolation: Interpolation = "nearest"
    """How values between pixels are read."""
    fill: Grey = 0
    """Grey level of what comes from beyond the border."""


class RandAugmentIncreasingOptions(OperationOptions):
    """timm's `rand-m9-mstd0.5-inc1`: RandAugment whose transforms all grow stronger with the
    magnitude, which is drawn anew for each. The transforms are those of the other policies here,
    whereas timm calls Pillow's."""

    module = "policies"

    op: Literal["rand_augment_increasing"]
    num_ops: Annotated[int, Field(ge=1, le=20)] = 2
    """Number of transforms of an image, one after the other."""
    magnitude: Annotated[float, Field(ge=0, le=10), AS_WRITTEN] = 9
    """Mean strength of the transforms."""
    magnitude_std: Annotated[float, Field(ge=0, le=10), AS_WRITTEN] = 0.5
    """Standard deviation of the strength, which is drawn for each transform."""
    probability: Fraction = 0.5
    """Probability of each transform."""
    interpolation: Interpolation = "bilinear"
    """How values between pixels are read."""
    fill: Grey = 128
    """Grey level of what comes from beyond the border."""


class AutoAugmentOptions(OperationOptions):
    """AutoAugment (arXiv:1805.09501), as in torchvision: one of the pairs of transforms that
    were found for a data set."""

    module = "policies"

    op: Literal["auto_augment"]
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """The data set for which the pairs were found."""
    interpolation: Interpolation = "nearest"
    """How values between pixels are read."""
    fill: Grey = 0
    """Grey level of what comes from beyond the border."""


class RandomErasingOptions(OperationOptions):
    """Fills a random box (arXiv:1708.04896), as torchvision does."""

    module = "erasing"

    op: Literal["random_erasing"]
    probability: Fraction = 0.5
    """Probability that a box of an image is erased."""
    scale: Annotated[list[Fraction], TwoEnds, AfterValidator(_low_end_first)] = [0.02, 0.33]
    """The box's share of the image's area."""
    ratio: Ratio = [0.3, 3.3]
    """Height divided by width."""
    fill: Grey | Literal["mean"] = 0
    """Grey level of the box; mean: the mean of all training images, which is 0 once an image is
    normalised."""


class MixingOptions(OperationOptions):
    module, mixes = "mixing", True

    per: Literal["image", "batch"] = "image"
    """batch: as in timm, one share, box and choice of operation is drawn for a batch, or for each
    part of it with train.accumulate_steps, and each image is mixed with the one that is as far
    from the other end, so that the middle one of an odd number stays."""


class MixUpOptions(MixingOptions):
    """Blends each image and its label with those of another (arXiv:1710.09412); the last step."""

    op: Literal["mixup"]
    alpha: Alpha = 1.0
    """Parameter of the beta distribution of the images' shares."""
    probability: Fraction = 1.0
    """Probability that an image, or a batch, is mixed."""


class CutMixOptions(MixingOptions):
    """Pastes a box of another image, mixing labels by area (arXiv:1905.04899); the last step."""

    op: Literal["cutmix"]
    alpha: Alpha = 1.0
    """Parameter of the beta distribution of the images' shares."""
    probability: Fraction = 1.0
    """Probability that an image, or a batch, is mixed."""


class MixUpOrCutMixOptions(MixingOptions):
    """Mixes each image, or batch, by MixUp or by CutMix, drawn for each; the last step."""

    op: Literal["mixup_or_cutmix"]
    mixup_alpha: Alpha = 1.0
    """Parameter of MixUp's beta distribution."""
    cutmix_alpha: Alpha = 1.0
    """Parameter of CutMix's beta distribution."""
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
