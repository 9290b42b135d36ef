"""The table of networks: what can be built, by which module, with which options.

Nothing here imports Keras, so that recipes can be checked and listed at once; `build_model` imports
the family's module when it is called. A new family is one module with `build(...)` and its options
in `options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.tables import by_tag, parse_table
from keras_imnet64.core.types import Json, Options
from keras_imnet64.models.options import AnyNetwork, NetworkOptions
from keras_imnet64.records import MAX_IMAGE_SIZE

if TYPE_CHECKING:
    import keras

MAX_NUM_CLASSES = 100_000  # ImageNet-21K has 21,841


@dataclass(frozen=True)
class Model:
    """A row of the table: the module and the options of a network's family, and the variant."""

    module: str
    options: type[NetworkOptions]
    variant: str | None  # None where the family has one network

    def build(self, **arguments: Any) -> keras.Model:  # a family's `build` names their types
        """Calls `build` of the family's module."""
        family = import_module(f"keras_imnet64.models.{self.module}")
        variant = {"variant": self.variant} if self.variant else {}
        return family.build(**variant, **arguments)


MODELS = {
    name: Model(table.module, table, name if len(table.tags()) > 1 else None)
    for name, table in by_tag(AnyNetwork).items()
}


def list_models() -> list[str]:
    """Returns the names that `build_model` and a recipe's `model.name` take."""
    return sorted(MODELS)


def find_model(name: Json) -> Model:
    """Returns the row of a network; a UserError for an unknown name suggests the nearest one."""
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(f'model.name "{name}" is not known; {nearest(name, MODELS)}')
    return MODELS[name]


def parse_network(name: Json, options: Options) -> NetworkOptions:
    """Returns the checked options; UserError if the name or an option is wrong or missing."""
    table = find_model(name).options
    if "name" in options:
        raise UserError(f'model.name is not an option of "{name}"; received {options["name"]!r}')
    return parse_table(table, {**options, "name": name}, "model")


def num_bands(name: str, options: Options) -> int:
    """Returns the number of sub-networks of a spectral network; 0 for every other network."""
    if name != "spectral" or options.get("band", "all") != "all":
        return 0
    return int(options["factor"] ** 2)


def build_model(
    name: str,
    *,
    image_size: int,
    num_classes: int,
    normalization: str | Options = "imagenet",
    dtype: str = "float32",
    input_size: int | None = None,
    **options: Any,  # `models.options` has their types
) -> keras.Model:
    """Builds a network of the table with freshly drawn Keras initial weights.

    Args:
        name: one of `list_models()`.
        image_size: pixels per side of the square images, 1 to 4,096.
        num_classes: K, the number of logits, 2 to 100,000.
        normalization: "imagenet", or {"mean": m, "std": s} on the 0..1 pixel scale, each a number,
            a list of three, or an array [H, W, 3]; (pixels / 255 - mean) / std is the first layer.
        dtype: name of a Keras dtype policy, such as "mixed_bfloat16"; normalisation and logits are
            float32 under every policy.
        input_size: pixels per side of the images that the network takes, where they differ from
            `image_size`, by which its structure is chosen; see `models.sizes`.
        options: those of the network, see `models.options`.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: the name, an option, a size or their combination is not allowed.
    """
    parse_network(name, options)
    init = options.pop("init", "default")
    check_whole("image_size", image_size, 1, MAX_IMAGE_SIZE)
    check_whole("num_classes", num_classes, 2, MAX_NUM_CLASSES)
    import keras

    from keras_imnet64.models import parts

    with keras_defaults(), parts.input_size(input_size):
        try:
            keras.config.set_dtype_policy(dtype)
        except ValueError:
            raise UserError(
                f"dtype must be the name of a Keras policy; received {dtype!r}"
            ) from None
        if name != "spectral":  # whose bands have means of any size
            parts.check_scale(normalization)
        model = MODELS[name].build(
            image_size=image_size, num_classes=num_classes, normalization=normalization, **options
        )
    if init == "dirac":
        from keras_imnet64.models.init import pass_channels_on

        pass_channels_on(model)
    return model


def check_whole(name: str, value: Json, lowest: int, highest: int) -> None:
    """Raises a UserError unless the value is a whole number from `lowest` to `highest`."""
    if type(value) is not int or not lowest <= value <= highest:
        raise UserError(
            f"{name} must be a whole number from {lowest:,} to {highest:,}; received {value!r}"
        )
