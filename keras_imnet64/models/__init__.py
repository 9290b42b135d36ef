"""The table of networks: what can be built, by which file, with which options.

Nothing here imports Keras, so that recipes can be checked and listed at once; `build_model` imports
the family's file when it is called. A new family is one file with `build(...)` and one row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from keras_imnet64.errors import UserError, nearest

REQUIRED = object()


@dataclass(frozen=True)
class Option:
    """What an option of a network is if it is not given, and what it may be."""

    default: Any
    fits: Callable
    in_words: str


def number(default=REQUIRED):
    return Option(default, is_number, "a number")


def flag():
    return Option(False, lambda value: isinstance(value, bool), "true or false")


def one_of(*texts, or_number=False):
    """The first text is the default."""
    in_words = ", ".join(f'"{text}"' for text in texts)
    return Option(
        texts[0],
        lambda value: value in texts or (or_number and is_number(value)),
        f"a number or {in_words}" if or_number else f"one of {in_words}",
    )


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Model:
    """A row of the table: the family's module, which of its variants this is, and its options."""

    module: str
    options: dict
    variant: str | None = None

    @property
    def defaults(self):
        return {name: option.default for name, option in self.options.items()}

    def check_options(self, name, options):
        """Refuse options that the network does not have, lacks, or that are of another type."""
        for option, value in options.items():
            if option not in self.options:
                raise UserError(
                    f'model.{option} is not an option of "{name}"; {nearest(option, self.options)}'
                )
            if not self.options[option].fits(value):
                expected = self.options[option].in_words
                raise UserError(f"model.{option} must be {expected}; received {value!r}")
        missing = [o for o, default in self.defaults.items() if default is REQUIRED]
        missing = [o for o in missing if o not in options]
        if missing:
            raise UserError(f'model "{name}" needs a value for {", ".join(missing)}; received none')

    def build(self, **arguments):
        """The network, by its family's `build`, whose arguments and errors these are."""
        family = import_module(f"keras_imnet64.models.{self.module}")
        which = {"variant": self.variant} if self.variant else {}
        return family.build(**which, **arguments)


WIDE_RESNET = {"depth": number(), "width": number(), "dropout": number(0.0)}
RESNET = {
    "stem": one_of("imagenet", "small", "small_pool"),
    "zero_init": flag(),
    "anti_aliasing": flag(),
    "drop_path_rate": number(0.0),
}
DAVIT = {
    "stem": one_of("auto", "imagenet", "small", "small_3x3", "full_3x3", "full_15x15"),
    "window": one_of("auto", or_number=True),
    "drop_path_rate": number(0.0),
}
ALEXNET = {"stem": one_of("auto", "imagenet", "small"), "dropout": number(0.5)}
DROPOUT = {"dropout": number(0.5)}

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
}


def list_models():
    """The names that `build_model` and a recipe's `model.name` take."""
    return sorted(MODELS)


def find_model(name):
    """The table's row of this name; UserError with the nearest name if there is none."""
    if name not in MODELS:
        raise UserError(f'model.name "{name}" is not known; {nearest(name, MODELS)}')
    return MODELS[name]


def build_model(
    name, *, image_size, num_classes, normalization="imagenet", dtype="float32", **options
):
    """Build a network of the table with freshly drawn Keras initial weights.

    Args:
        name: one of `list_models()`.
        image_size: pixels per side.
        num_classes: K, the number of logits.
        normalization: "imagenet", or {"mean": m, "std": s} on the 0..1 pixel scale, each a number,
            a list of three, or an array [H, W, 3]; (pixels / 255 - mean) / std is the first layer.
        dtype: Keras dtype policy; normalisation and logits are float32 under every policy.
        options: the network's own, see the table.

    Returns:
        keras.Model: pixels 0..255 [B, H, W, 3] -> float32 logits [B, K].

    Raises:
        UserError: if the name, an option or the combination of sizes does not work.
    """
    row = find_model(name)
    row.check_options(name, options)
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        return row.build(
            image_size=image_size, num_classes=num_classes, normalization=normalization, **options
        )
    finally:
        keras.config.set_dtype_policy(before)
