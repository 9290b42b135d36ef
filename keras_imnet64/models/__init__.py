"""The table of networks: what can be built, by which file, with which options.

Nothing here imports Keras, so that recipes can be checked and listed at once; `build_model` imports
the family's file when it is called. A new family is one file with `build(...)` and one row here.
"""

from dataclasses import dataclass
from importlib import import_module

from keras_imnet64.errors import UserError, nearest

REQUIRED = object()


@dataclass(frozen=True)
class Model:
    """A row of the table: the module that builds the network, its options and their defaults."""

    module: str
    options: dict

    def check_options(self, name, options):
        """Refuse options that the network does not have, lacks, or that are of another type."""
        for option, value in options.items():
            if option not in self.options:
                raise UserError(
                    f'model.{option} is not an option of "{name}"; {nearest(option, self.options)}'
                )
            _check_number(f"model.{option}", value)
        missing = [o for o, default in self.options.items() if default is REQUIRED]
        missing = [o for o in missing if o not in options]
        if missing:
            raise UserError(f'model "{name}" needs a value for {", ".join(missing)}; received none')


def _check_number(name, value):
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} must be a number; received {value!r}")


MODELS = {
    "wide_resnet": Model("wide_resnet", {"depth": REQUIRED, "width": REQUIRED, "dropout": 0.0}),
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
    family = import_module(f"keras_imnet64.models.{row.module}")
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        return family.build(
            image_size=image_size, num_classes=num_classes, normalization=normalization, **options
        )
    finally:
        keras.config.set_dtype_policy(before)
