"""Augmentation: `(images, draws) -> images` on whole uint8 batches, without randomness of its own.

Each operation is a draw function (a few numbers per image, from a NumPy generator) and an apply
function (TensorFlow, so that the same pixels come out eagerly and in tf.data), side by side in one
of the modules here, and a row in the table OPS. Layers of Keras and KerasCV, which draw for
themselves, are the business of `augment.layers`.

An operation `x` is two functions of its module:
    draw_x(rng, num_samples, image_size, **options) -> {name: array [M, ...]}
    x(images, draws, mean_image, **options) -> images
with uint8 images [B, H, W, 3], draws {name: tensor [B, ...]} and the uint8 mean image [H, W, 3].
Nothing here imports TensorFlow, so that recipes can be checked at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.options import check_options, defaults, interval, number, one_of, whole

FILLS = ("zero", "reflect", "mean")
LARGEST_RATIO = 100


def _below_image(image_size, *, padding, **_):
    if image_size and padding >= image_size:
        raise UserError(
            f"augment.padding must be below the image size of {image_size}; received {padding}"
        )


def _changes_something(image_size, **strengths):
    if not any(strengths.values()):
        raise UserError(f"color_jitter needs a value above 0 for one of {', '.join(strengths)}")


@dataclass(frozen=True)
class Op:
    """A row of the table: the module of an operation, its options, and what it can refuse.

    Attributes:
        check: takes the image size (None where it is not known yet) and all options.
        mixes: whether it makes labels of pairs too, see `mixing`.
    """

    module: str
    options: dict
    check: Callable = lambda image_size, **options: None
    mixes: bool = False


def _fraction(default):
    return number(0, 1, default)


INTERPOLATION = one_of("nearest", "bilinear")
ALPHA = number(1e-3, 10**3, 1.0)
GREY = whole(0, 255, 0)  # of the pixels that come from outside the image

OPS = {
    "pad_crop": Op("crops", {"padding": whole(0, 128, 4), "fill": one_of(*FILLS)}, _below_image),
    "random_resized_crop": Op(
        "crops",
        {
            "scale": interval(1e-6, 1, [0.08, 1.0]),
            "ratio": interval(1 / LARGEST_RATIO, LARGEST_RATIO, [3 / 4, 4 / 3]),
            "interpolation": one_of("bilinear", "bicubic", "box", "lanczos"),
        },
    ),
    "random_rotation": Op(
        "geometry",
        {"degrees": number(0, 180), "interpolation": INTERPOLATION, "fill": GREY},
    ),
    "color_jitter": Op(
        "colour",
        {
            "brightness": number(0, 10**3, 0.0),
            "contrast": number(0, 10**3, 0.0),
            "saturation": number(0, 10**3, 0.0),
            "hue": number(0, 0.5, 0.0),
        },
        _changes_something,
    ),
    "trivial_augment": Op("policies", {"interpolation": INTERPOLATION, "fill": GREY}),
    "rand_augment": Op(
        "policies",
        {
            "num_ops": whole(1, 20, 2),
            "magnitude": whole(0, 30, 9),
            "interpolation": INTERPOLATION,
            "fill": GREY,
        },
    ),
    "rand_augment_increasing": Op(
        "policies",
        {
            "num_ops": whole(1, 20, 2),
            "magnitude": number(0, 10, 9),
            "magnitude_std": number(0, 10, 0.5),
            "probability": _fraction(0.5),
            "interpolation": one_of("bilinear", "nearest"),
            "fill": whole(0, 255, 128),
        },
    ),
    "auto_augment": Op(
        "policies",
        {
            "policy": one_of("imagenet", "cifar10", "svhn"),
            "interpolation": INTERPOLATION,
            "fill": GREY,
        },
    ),
    "random_erasing": Op(
        "erasing",
        {
            "probability": _fraction(0.5),
            "scale": interval(0, 1, [0.02, 0.33]),
            "ratio": interval(1 / LARGEST_RATIO, LARGEST_RATIO, [0.3, 3.3]),
            "fill": whole(0, 255, 0, texts=("mean",)),
        },
    ),
    "mixup": Op("mixing", {"alpha": ALPHA, "probability": _fraction(1.0)}, mixes=True),
    "cutmix": Op("mixing", {"alpha": ALPHA, "probability": _fraction(1.0)}, mixes=True),
    "mixup_or_cutmix": Op(
        "mixing",
        {
            "mixup_alpha": ALPHA,
            "cutmix_alpha": ALPHA,
            "probability": _fraction(1.0),
            "cutmix_share": _fraction(0.5),
        },
        mixes=True,
    ),
}


@dataclass(frozen=True)
class Step:
    """One operation of a recipe's augmentation, with its options."""

    op: str
    options: dict
    is_exact = True  # the same pixels from the same seed; `layers.LayerStep` is not

    @property
    def mixes(self):
        return OPS[self.op].mixes

    @cached_property
    def _module(self):
        return import_module(f"{__name__}.{OPS[self.op].module}")

    def draw(self, rng, num_samples, image_size):
        return getattr(self._module, f"draw_{self.op}")(
            rng, num_samples, image_size, **self.options
        )

    def apply(self, images, draws, mean_image):
        return getattr(self._module, self.op)(images, draws, mean_image, **self.options)


def check_augment(op, options, image_size=None):
    """The `Step` of a recipe's [[augment]] table, defaults filled in; UserError if it is wrong.

    What depends on the images' size is checked where it is given.
    """
    if op not in OPS:
        raise UserError(f'augment.op "{op}" is not known; {nearest(op, OPS)}')
    row = OPS[op]
    check_options("augment", op, row.options, options)
    options = defaults(row.options) | options
    row.check(image_size, **options)
    return Step(op, options)
