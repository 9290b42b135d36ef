"""The options of each network, as tables of a recipe; the docstring of each `build` has details.

Nothing here needs Keras.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from keras_imnet64.core.files import sha256_of
from keras_imnet64.core.paths import expand
from keras_imnet64.core.tables import (
    Number,
    Rate,
    Table,
    TaggedTable,
    broken_rule,
    expected,
)
from keras_imnet64.core.types import Json, JsonObject

FILE = "file"  # the name of a model that is taken from a file
WHITENING = "whitening"  # the option, and the name of the layer
SMALL_STEM_UP_TO = 64  # pixels per side, with stem = "auto" of a ResNet
NOT_BEHIND_A_BAND = ("init", WHITENING)
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", title="64 hexadecimal digits")]
ThreeNumbers = Field(min_length=3, max_length=3, title="three numbers")
# A list in TOML; options are tuples, so that tables of options can be keys.
ForEachStage = Field(
    min_length=1, max_length=6, strict=False, title="a list of 1 to 6 whole numbers, each"
)


class ChannelNormalization(Table):
    """Mean and standard deviation per channel on the 0..1 pixel scale."""

    mean: Annotated[list[float], ThreeNumbers]
    """Subtracted from red, green and blue."""
    std: Annotated[list[Annotated[float, Field(gt=0)]], ThreeNumbers]
    """What the difference is divided by."""


class NetworkOptions(TaggedTable):
    """The options that all networks share."""

    module: ClassVar[str]  # of `models`, whose `build` takes the options

    name: str
    """The network; its options are further keys of this table."""
    normalization: Literal["imagenet", "mean_image", "dataset"] | ChannelNormalization = "imagenet"
    """How pixels are normalised: with ImageNet's mean and standard deviation per channel, or those
    of the data set's training images; mean_image subtracts the mean per pixel and channel, and does
    not divide."""

    @property
    def in_words(self) -> str:
        """Name and options, as listings and the first lines of a run show them."""
        return _in_words(self.name, self.options)

    def for_record(self, image_size: int) -> Self:
        """Returns the options with what depends on the image size or on a file resolved."""
        return self


class ConvolutionalOptions(NetworkOptions):
    """The options that networks of convolutions share; `build_model` takes them itself."""

    init: Literal["default", "dirac"] = "default"
    """dirac (arXiv:2404.00498): the first filters of each convolution larger than 1x1 pass its
    input channels on unchanged, and the others are initialised as by default."""


class Whitening(Table):
    """A fixed first convolution that decorrelates patches of the images."""

    size: Annotated[int, Field(ge=2, le=3)] = 2
    """Pixels per side of a patch."""
    epsilon: Annotated[float, Field(ge=1e-12, le=1e6)] = 5e-4
    """Added to the eigenvalues of the patches, so that noise is not amplified without limit."""


class WhitenedOptions(ConvolutionalOptions):
    """The options that networks with a 3x3 stem share."""

    whitening: Whitening | None = None
    """A convolution in front of the stem whose fixed filters decorrelate patches of the images
    (arXiv:2404.00498): measured on training images before the first step, not trained, and shipped
    as an ordinary convolution. For stems of 3x3."""


class WideResNetOptions(WhitenedOptions):
    module = "wide_resnet"

    name: Literal["wide_resnet"]
    depth: Number
    """N of WRN-N-k: 4 + 2 * blocks per stage * stages."""
    width: Number
    """k of WRN-N-k, the multiplier of the 16, 32, 64, ... filters."""
    stages: Annotated[int, Field(ge=1, le=8)] | Literal["auto"] = "auto"
    """Parts between which the map is halved; auto: as many as make the last map 8x8, which is 4 for
    64 pixels. The wide ResNets of arXiv:1605.07146 have 3 at any size."""
    dropout: Rate = 0.0
    """Rate of dropout between the two convolutions of a block."""


def resnet_stem(stem: str, image_size: int) -> str:
    """Returns the stem that a ResNet takes: "auto" depends on the pixels per side."""
    if stem != "auto":
        return stem
    return "small" if image_size <= SMALL_STEM_UP_TO else "imagenet"


class ResidualOptions(WhitenedOptions):
    """The options that networks of residual blocks with a norm at their end share."""

    zero_init: bool = False
    """Initialise the last gamma of every block to 0, so that each block starts as its shortcut."""
    drop_path_rate: Rate = 0.0
    """Rate of the last block; the rates grow with depth from 0."""


class ResNetOptions(ResidualOptions):
    module = "resnet"

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"]
    stem: Literal["auto", "imagenet", "small", "small_pool"] = "auto"
    """imagenet: 7x7 at stride 2 and a pool; small: 3x3 at stride 1; small_pool: 3x3 at stride 1
    and the pool; auto: small up to 64 pixels, above that imagenet."""
    anti_aliasing: bool = False
    """Blur before subsampling (arXiv:1904.11486)."""

    def for_record(self, image_size: int) -> Self:
        if self.stem != "auto":
            return self
        return self.model_copy(update={"stem": resnet_stem(self.stem, image_size)})


class SmallResNetOptions(ResidualOptions):
    module = "small_resnet"

    name: Literal["small_resnet"]
    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], ForEachStage] = (
        64,
        128,
        256,
        512,
    )
    """Channels of each stage; the first stage keeps the size of the stem's map, the others
    halve it."""
    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], ForEachStage] = (1, 1, 1, 1)
    """Blocks of each stage; as many numbers as in widths."""
    stem_stride: Annotated[int, Field(ge=1, le=2)] = 2
    """Stride of the first convolution, which is 3x3; use 1 for 32 pixels and fewer."""

    @model_validator(mode="after")
    def _has_blocks_in_each_stage(self) -> Self:
        if len(self.widths) != len(self.blocks):
            raise broken_rule(
                "needs as many blocks as widths, a number for each stage; received "
                f"{len(self.blocks)} and {len(self.widths)}"
            )
        return self


class DaViTOptions(NetworkOptions):
    module = "davit"

    name: Literal[
        "davit_tiny", "davit_small", "davit_base", "davit_large", "davit_huge", "davit_giant"
    ]
    stem: Literal["auto", "imagenet", "small", "small_3x3", "full_3x3", "full_15x15"] = "auto"
    """imagenet: 7x7 at stride 4; small: 7x7 at stride 2; small_3x3: 3x3 at stride 2; full_3x3 and
    full_15x15: stride 1, 64 pixels become 64 and 56; auto: small up to 64 pixels, above that
    imagenet."""
    window: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    """Tokens per side of a window; auto: 7 or 8, at most the size of the map."""
    drop_path_rate: Rate = 0.0
    """Rate of the last block; the rates grow with depth from 0."""


class AlexNetOptions(NetworkOptions):
    module = "alexnet"

    name: Literal["alexnet"]
    stem: Literal["auto", "imagenet", "small"] = "auto"
    """imagenet: 11x11 at stride 4; small: 5x5 at stride 2; auto: imagenet where the last map
    is then 2x2 or larger."""
    dropout: Rate = 0.5
    """Rate of dropout before each of the first two dense layers."""


class VGGOptions(ConvolutionalOptions):
    module = "vgg"

    name: Literal["vgg16", "vgg16_bn"]
    dropout: Rate = 0.5
    """Rate of dropout after each of the first two dense layers."""


class TinyCNNOptions(NetworkOptions):
    module = "tiny_cnn"

    name: Literal["tiny_cnn1", "tiny_cnn2"]
    dropout: Rate = 0.5
    """Rate of dropout before the last dense layer."""


OrdinaryNetwork = (
    WideResNetOptions
    | ResNetOptions
    | SmallResNetOptions
    | DaViTOptions
    | AlexNetOptions
    | VGGOptions
    | TinyCNNOptions
)


class SpectralOptions(NetworkOptions):
    """Sub-networks, each behind one frequency band of the image."""

    module = "spectral"

    name: Literal["spectral"]
    factor: Annotated[int, Field(ge=2, le=16)]
    """S: the image is split into S x S sub-images, which have S^2 bands."""
    band: Annotated[int, Field(ge=0, le=255)] | Literal["all"] = "all"
    """The number of a band, in order of rising frequency; all: a network for each band."""
    base: OrdinaryNetwork = Field(
        discriminator="name",
        title='a table such as {name = "resnet34"}',
        json_schema_extra={
            "properties": dict.fromkeys(["normalization", *NOT_BEHIND_A_BAND], False)
        },
    )
    """The network behind a band, with its options."""

    @field_validator("band")
    @classmethod
    def _is_of_the_factor(cls, band: int | str, info: ValidationInfo) -> int | str:
        factor = info.data.get("factor", 16)
        if isinstance(band, int) and band >= factor**2:
            raise expected(
                f'a whole number from 0 to {factor**2 - 1}, or "all", with factor = {factor}'
            )
        return band

    @field_validator("base", mode="before")
    @classmethod
    def _is_ordinary(cls, base: Json) -> Json:
        if isinstance(base, dict) and base.get("name") == "spectral":
            raise expected("an ordinary network, and not another spectral one")
        return base

    @field_validator("base")
    @classmethod
    def _has_no_normalization(cls, base: NetworkOptions) -> NetworkOptions:
        if "normalization" in base.model_fields_set:
            raise expected("a table without normalization, which belongs in model itself")
        for option in NOT_BEHIND_A_BAND:
            if option in base.model_fields_set:
                raise expected(f"a table without {option}, which has no place behind a band")
        return base

    def for_record(self, image_size: int) -> Self:
        base = self.base.for_record(image_size // self.factor)
        return self if base is self.base else self.model_copy(update={"base": base})

    @field_serializer("base")
    def _without_normalization(self, base: NetworkOptions) -> JsonObject:
        return {"name": base.name, **base.options}


AnyNetwork = Annotated[OrdinaryNetwork | SpectralOptions, Field(discriminator="name")]


class FileOptions(NetworkOptions):
    """The network of a `.keras` file, with its weights, its input size and its normalisation.

    The last layer that has weights must be the dense layer that gives the logits. If the file
    names exactly the classes of the data, this layer keeps its weights; otherwise a new one, called
    `logits`, takes its place.
    """

    name: Literal["file"]
    normalization: Literal["file"] = "file"  # type: ignore[assignment]  # the file has it
    """Pixels are normalised as the file does."""
    path: Annotated[str, Field(min_length=1, title="the path of a .keras file, in quotes")]
    """The file: any functional or sequential model from pixels 0..255 to logits."""
    sha256: Sha256 | None = None
    """SHA-256 of the file, which a run records; any other file is then refused."""

    @property
    def in_words(self) -> str:
        return f"file {self.path}"

    def for_record(self, image_size: int) -> Self:
        if self.sha256 is not None:
            return self
        try:
            return self.model_copy(update={"sha256": sha256_of(expand(self.path))})
        except (OSError, ValueError):
            return self  # `from_file` says what is wrong where the file is needed


AnyModel = Annotated[
    OrdinaryNetwork | SpectralOptions | FileOptions, Field(discriminator="name")
]  # what a recipe can train


def _in_words(name: str, options: JsonObject) -> str:
    return " ".join([name, *(f"{key}={_option_in_words(v)}" for key, v in options.items())])


def _option_in_words(value: Json) -> str:
    if isinstance(value, dict):
        options = {key: option for key, option in value.items() if key != "name"}
        return f"({_in_words(value.get('name', ''), options).strip()})"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
