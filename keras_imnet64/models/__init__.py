"""The table of networks: what can be built, by which file, with which options.

Nothing here imports Keras, so that recipes can be checked and listed at once; `build_model` imports
the family's file when it is called. A new family is one file with `build(...)` and one row here.
"""

from dataclasses import dataclass
from importlib import import_module

from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.options import (
    auto_or_whole,
    check_options,
    defaults,
    flag,
    number,
    one_of,
    rate,
    table,
    whole,
)

MOST_PIXELS = 4096  # per side
MOST_CLASSES = 100_000  # ImageNet-21K has 21,841


@dataclass(frozen=True)
class Model:
    """A row of the table: the family's module, which of its variants this is, and its options."""

    module: str
    options: dict
    variant: str | None = None

    @property
    def defaults(self):
        return defaults(self.options)

    def check_options(self, name, options, table="model"):
        """Refuse options that the network does not have, lacks, or that are of another type."""
        check_options(table, name, self.options, options)

    def build(self, **arguments):
        """The network, by the `build` of its family's module, which takes these arguments."""
        family = import_module(f"keras_imnet64.models.{self.module}")
        which = {"variant": self.variant} if self.variant else {}
        return family.build(**which, **arguments)


@dataclass(frozen=True)
class Spectral(Model):
    """The row of the sub-networks, whose options hold another network of the table."""

    def check_options(self, name, options):
        super().check_options(name, options)
        check_base(options["base"])
        num_bands = options["factor"] ** 2
        band = options.get("band", "all")
        if band != "all" and band >= num_bands:
            raise UserError(
                f'model.band must be a whole number from 0 to {num_bands - 1}, or "all", with '
                f"model.factor = {options['factor']}; received {band}"
            )


def check_base(base):
    """Refuse a table `model.base` that is no network behind a band, or has wrong options."""
    name = base.get("name")
    if name == "spectral":
        raise UserError("model.base must be an ordinary network; received another spectral one")
    options = {key: value for key, value in base.items() if key != "name"}
    find_model(name, "model.base").check_options(name, options, "model.base")


WIDE_RESNET = {"depth": number(), "width": number(), "dropout": rate(0.0)}
RESNET = {
    "stem": one_of("imagenet", "small", "small_pool"),
    "zero_init": flag(),
    "anti_aliasing": flag(),
    "drop_path_rate": rate(0.0),
}
DAVIT = {
    "stem": one_of("auto", "imagenet", "small", "small_3x3", "full_3x3", "full_15x15"),
    "window": auto_or_whole(1, 64),
    "drop_path_rate": rate(0.0),
}
ALEXNET = {"stem": one_of("auto", "imagenet", "small"), "dropout": rate(0.5)}
DROPOUT = {"dropout": rate(0.5)}
SPECTRAL = {
    "factor": whole(2, 16),
    "band": whole(0, 255, "all", ("all",)),
    "base": table('such as {name = "resnet34"}'),
}

MODELS = {
    "wide_resnet": Model("wide_resnet", WIDE_RESNET),
    "resnet18": Model("resnet", RESNET, "resnet18"),
    "resnet34": Model("resnet", RESNET, "resnet34"),
    "resnet50": Model("resnet", RESNET, "resnet50"),
    "wide_resnet50_2": Model("resnet", RESNET, "wide_resnet50_2"),
    "davit_tiny": Model("davit", DAVIT, "davit_tiny"),
    "davit_small": Model("davit", DAVIT, "davit_small"),
    "davit_base": Model("davit", DAVIT, "davit_base"),
    "davit_large": Model("davit", DAVIT, "davit_large"),
    "davit_huge": Model("davit", DAVIT, "davit_huge"),
    "davit_giant": Model("davit", DAVIT, "davit_giant"),
    "alexnet": Model("alexnet", ALEXNET),
    "vgg16": Model("vgg", DROPOUT, "vgg16"),
    "vgg16_bn": Model("vgg", DROPOUT, "vgg16_bn"),
    "tiny_cnn1": Model("tiny_cnn", DROPOUT, "tiny_cnn1"),
    "tiny_cnn2": Model("tiny_cnn", DROPOUT, "tiny_cnn2"),
    "spectral": Spectral("spectral", SPECTRAL),
}


def list_models():
    """The names that `build_model` and a recipe's `model.name` take."""
    return sorted(MODELS)


def find_model(name, table="model"):
    """The table's row of this name; UserError with the nearest name if there is none."""
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(f'{table}.name "{name}" is not known; {nearest(name, MODELS)}')
    return MODELS[name]


def num_bands(name, options):
    """How many sub-networks a network's name and options stand for; 0 for an ordinary one."""
    if name != "spectral" or options.get("band", "all") != "all":
        return 0
    return options["factor"] ** 2


def build_model(
    name, *, image_size, num_classes, normalization="imagenet", dtype="float32", **options
):
    """Build a network of the table with freshly drawn Keras initial weights.

    Args:
        name: one of `list_models()`.
        image_size: pixels per side of the square images, 1 to 4,096.
        num_classes: K, the number of logits, 2 to 100,000.
        normalization: "imagenet", or {"mean": m, "std": s} on the 0..1 pixel scale, each a number,
            a list of three, or an array [H, W, 3]; (pixels / 255 - mean) / std is the first layer.
        dtype: name of a Keras dtype policy, such as "mixed_bfloat16"; normalisation and logits are
            float32 under every policy.
        options: the network's own, see the table.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: if the name, an option, a size or their combination does not work.
    """
    row = find_model(name)
    row.check_options(name, options)
    check_whole("image_size", image_size, 1, MOST_PIXELS)
    check_whole("num_classes", num_classes, 2, MOST_CLASSES)
    import keras

    with keras_defaults():
        try:
            keras.config.set_dtype_policy(dtype)
        except ValueError:
            raise UserError(
                f"dtype must be the name of a Keras policy; received {dtype!r}"
            ) from None
        return row.build(
            image_size=image_size, num_classes=num_classes, normalization=normalization, **options
        )


def check_whole(name, value, lowest, highest):
    if type(value) is not int or not lowest <= value <= highest:
        raise UserError(
            f"{name} must be a whole number from {lowest:,} to {highest:,}; received {value!r}"
        )
