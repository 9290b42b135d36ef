"""Policies: they apply to each image drawn transforms of drawn strengths.

For each image and each step, a policy draws a transform, as a position in TRANSFORMS ("transform1",
...), and the number that the transform takes ("value1", ...): degrees, a factor, bits and so on.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from keras_imnet64.core.types import Tensor
from keras_imnet64.data.augment import colour, geometry
from keras_imnet64.data.augment.draws import Draws, TensorDraws

GEOMETRY = {
    "shear_x": geometry.shear_x,
    "shear_y": geometry.shear_y,
    "translate_x": geometry.translation_x,
    "translate_y": geometry.translation_y,
    "rotate": geometry.rotation,
}
SHIFTS = {"translate_x": geometry.shift_x, "translate_y": geometry.shift_y}  # by whole pixels
FACTORS = {  # 1 + the drawn strength
    "brightness": colour.brightness,
    "saturation": colour.saturation,
    "contrast": colour.contrast,
    "sharpness": colour.sharpness,
}
VALUES = {
    "posterize": colour.posterize,
    "solarize": colour.solarize,
    "solarize_add": colour.solarize_add,
    "autocontrast": colour.autocontrast,
    "equalize": colour.equalize,
    "invert": colour.invert,
}
IDENTITY = "identity"
TRANSFORMS = (IDENTITY, *GEOMETRY, *FACTORS, *VALUES)
# For each transform: whether its sign is drawn, 1 is added to its strength, it takes whole pixels.
IS_SIGNED = np.isin(TRANSFORMS, [*GEOMETRY, *FACTORS])
IS_FACTOR = np.isin(TRANSFORMS, list(FACTORS))
IS_SHIFT = np.isin(TRANSFORMS, list(SHIFTS))
NUM_BINS = 31  # strengths of TrivialAugment and RandAugment; AutoAugment has 10
# The transforms of TrivialAugment and RandAugment.
COMMON = tuple(name for name in TRANSFORMS if name not in ("solarize_add", "invert"))
INCREASING = tuple(name for name in TRANSFORMS if name != IDENTITY)  # of timm's RandAugment


class Choice(NamedTuple):
    """One step of a policy, drawn for M samples."""

    transforms: np.ndarray  # int32 [M], positions in TRANSFORMS
    values: np.ndarray  # float64 [M]


# ---------------------------------------------------------------------------------------- policies


def draw_trivial_augment(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    interpolation: str,
    fill: int,
) -> Draws:
    """Draws one of 14 transforms and one of 31 strengths, both uniformly (arXiv:2103.10158)."""
    strengths = _strengths(0.99, 32, 135, 0.99, bits=6, num_bins=NUM_BINS)
    chosen = rng.integers(len(COMMON), size=num_samples)
    bins = rng.integers(NUM_BINS, size=num_samples)
    transforms = _positions(COMMON)[chosen]
    return _as_draws([_choice(rng, transforms, strengths[transforms, bins])])


def trivial_augment(
    images: Tensor,
    draws: TensorDraws,
    mean_image: np.ndarray,
    *,
    interpolation: str,
    fill: int,
) -> Tensor:
    """Applies TrivialAugmentWide.

    Args:
        images: uint8 [B, H, W, 3].
        draws: {"transform1": int32 [B], "value1": float32 [B]}, see the module docstring.
        interpolation: "nearest", torchvision's default, or "bilinear".
        fill: 0..255, all channels of pixels from outside the image.
    """
    return _apply_steps(images, draws, COMMON, interpolation, fill)


def draw_rand_augment(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    num_ops: int,
    magnitude: int,
    interpolation: str,
    fill: int,
) -> Draws:
    """Draws for each step one of 14 transforms uniformly, at strength `magnitude` of 0..30."""
    strengths = _narrow_strengths(image_size, NUM_BINS)
    steps = []
    for _ in range(num_ops):
        transforms = _positions(COMMON)[rng.integers(len(COMMON), size=num_samples)]
        steps.append(_choice(rng, transforms, strengths[transforms, magnitude]))
    return _as_draws(steps)


def rand_augment(
    images: Tensor,
    draws: TensorDraws,
    mean_image: np.ndarray,
    *,
    num_ops: int,
    magnitude: int,
    interpolation: str,
    fill: int,
) -> Tensor:
    """Applies torchvision's RandAugment (arXiv:1909.13719); see `trivial_augment`."""
    return _apply_steps(images, draws, COMMON, interpolation, fill)


def draw_rand_augment_increasing(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    num_ops: int,
    magnitude: float,
    magnitude_std: float,
    probability: float,
    interpolation: str,
    fill: int,
) -> Draws:
    """Draws for each step, with a probability, one of 15 transforms of normally drawn strength.

    This is timm's RandAugment with increasing strengths, "rand-m9-mstd0.5-inc1" in timm
    (data/auto_augment.py, 1.0.31). Strengths are 0..10.
    """
    shift = 0.45 * image_size
    strongest = dict(zip(GEOMETRY, (0.3, 0.3, shift, shift, 30.0), strict=True))
    strongest |= dict.fromkeys(FACTORS, 0.9)
    ends = np.array([strongest.get(name, 0) for name in TRANSFORMS])
    steps = []
    for _ in range(num_ops):
        transforms = _positions(INCREASING)[rng.integers(len(INCREASING), size=num_samples)]
        transforms = np.where(rng.random(num_samples) <= probability, transforms, 0)
        level = np.clip(rng.normal(magnitude, magnitude_std, num_samples), 0, 10) / 10
        values = _choice(rng, transforms, ends[transforms] * level, whole_shifts=False).values
        for name, value in (
            ("posterize", 4 - np.trunc(4 * level)),
            ("solarize", 256 - np.trunc(256 * level)),
            ("solarize_add", np.trunc(110 * level)),
        ):
            values = np.where(transforms == TRANSFORMS.index(name), value, values)
        steps.append(Choice(transforms, values))
    return _as_draws(steps)


def rand_augment_increasing(
    images: Tensor,
    draws: TensorDraws,
    mean_image: np.ndarray,
    *,
    interpolation: str,
    fill: int,
    **_: float,
) -> Tensor:
    """Applies timm's RandAugment; timm itself draws the interpolation, bilinear or bicubic."""
    return _apply_steps(images, draws, INCREASING, interpolation, fill, whole_shifts=False)


def draw_auto_augment(
    rng: np.random.Generator,
    num_samples: int,
    image_size: int,
    *,
    policy: str,
    interpolation: str,
    fill: int,
) -> Draws:
    """Draws one of 25 pairs of transforms; each of the two has a probability and a strength."""
    table = _read_policy(policy)  # [25, 2, 3]
    pair = table[rng.integers(len(table), size=num_samples)]  # [M, 2, 3]
    strengths = _narrow_strengths(image_size, num_bins=10)
    steps = []
    for step in range(2):
        transforms, probability, bins = pair[:, step].T
        happens = rng.random(num_samples) <= probability
        transforms = np.where(happens, transforms, 0).astype("int32")
        steps.append(_choice(rng, transforms, strengths[transforms, bins.astype("int32")]))
    return _as_draws(steps)


def auto_augment(
    images: Tensor,
    draws: TensorDraws,
    mean_image: np.ndarray,
    *,
    policy: str,
    interpolation: str,
    fill: int,
) -> Tensor:
    """Applies torchvision's AutoAugment (arXiv:1805.09501); see `trivial_augment`."""
    return _apply_steps(images, draws, TRANSFORMS, interpolation, fill)


# ---------------------------------------------------------------------------------------- drawing


def _strengths(
    shear: float, shift: float, degrees: float, factor: float, bits: int, num_bins: int
) -> np.ndarray:
    """Returns the strengths of each transform, from weak to strong: float64 [T, num_bins]."""
    ends = dict(zip(GEOMETRY, (shear, shear, shift, shift, degrees), strict=True))
    ends |= dict.fromkeys(FACTORS, factor)
    strengths = {name: _linspace(0, end, num_bins) for name, end in ends.items()}
    strengths["posterize"] = 8 - np.rint(np.arange(num_bins) / ((num_bins - 1) / bits))
    strengths["solarize"] = 255 * _linspace(1, 0, num_bins)
    return np.stack([strengths.get(name, np.zeros(num_bins)) for name in TRANSFORMS])


def _linspace(start: float, end: float, num: int) -> np.ndarray:
    """Returns torch.linspace, float32 numbers counted from both ends, as float64 [num]."""
    step = float(np.float32(end - start) / np.float32(num - 1))
    places = np.arange(num)
    numbers = np.where(places < num // 2, start + step * places, end - step * (num - 1 - places))
    return numbers.astype("float32").astype("float64")


def _narrow_strengths(image_size: int, num_bins: int) -> np.ndarray:
    return _strengths(0.3, 150 / 331 * image_size, 30, 0.9, bits=4, num_bins=num_bins)


def _positions(names: Iterable[str]) -> np.ndarray:
    return np.array([TRANSFORMS.index(name) for name in names], "int32")


def _choice(
    rng: np.random.Generator,
    transforms: np.ndarray,
    strengths: np.ndarray,
    whole_shifts: bool = True,
) -> Choice:
    """Turns strengths into values: draws signs, adds 1 to factors, truncates shifts to pixels."""
    negative = rng.integers(2, size=len(transforms), dtype=bool)
    values = np.where(IS_SIGNED[transforms] & negative, -strengths, strengths)
    values = values + IS_FACTOR[transforms]
    values = np.where(IS_SHIFT[transforms] & whole_shifts, np.trunc(values), values)
    return Choice(transforms, values)


def _as_draws(steps: Iterable[Choice]) -> Draws:
    draws = {}
    for number, step in enumerate(steps, start=1):
        draws[f"transform{number}"] = step.transforms.astype("int32")
        draws[f"value{number}"] = step.values.astype("float32")
    return draws


# --------------------------------------------------------------------------------------- applying


def _apply_steps(
    images: Tensor,
    draws: TensorDraws,
    names: Iterable[str],
    interpolation: str,
    fill: int,
    whole_shifts: bool = True,
) -> Tensor:
    """Applies the drawn transforms to each image, step by step.

    Args:
        names: the transforms that the policy can draw.
        whole_shifts: whether images are shifted by whole pixels, which is faster.
    """

    def operation(name: str) -> colour.Operation:
        if name in SHIFTS and whole_shifts:
            return lambda images, values: SHIFTS[name](images, values, fill)
        if name in GEOMETRY:
            to_maps = GEOMETRY[name]
            return lambda images, values: geometry.warp(
                images, to_maps(images, values), interpolation, fill
            )
        return (FACTORS | VALUES)[name]

    operations = {TRANSFORMS.index(name): operation(name) for name in names if name != IDENTITY}
    for number in range(1, len(draws) // 2 + 1):
        transforms, values = draws[f"transform{number}"], draws[f"value{number}"]
        images = colour.apply_by_kind(images, transforms, values, operations)
    return images


# -------------------------------------------------------------------------------------- AutoAugment

# Each line is a pair of (transform, probability, strength 0..9, or a dash if it has none).
POLICIES = {
    "imagenet": """\
posterize 0.4 8  rotate 0.6 9
solarize 0.6 5  autocontrast 0.6 -
equalize 0.8 -  equalize 0.6 -
posterize 0.6 7  posterize 0.6 6
equalize 0.4 -  solarize 0.2 4
equalize 0.4 -  rotate 0.8 8
solarize 0.6 3  equalize 0.6 -
posterize 0.8 5  equalize 1.0 -
rotate 0.2 3  solarize 0.6 8
equalize 0.6 -  posterize 0.4 6
rotate 0.8 8  saturation 0.4 0
rotate 0.4 9  equalize 0.6 -
equalize 0.0 -  equalize 0.8 -
invert 0.6 -  equalize 1.0 -
saturation 0.6 4  contrast 1.0 8
rotate 0.8 8  saturation 1.0 2
saturation 0.8 8  solarize 0.8 7
sharpness 0.4 7  invert 0.6 -
shear_x 0.6 5  equalize 1.0 -
saturation 0.4 0  equalize 0.6 -
equalize 0.4 -  solarize 0.2 4
solarize 0.6 5  autocontrast 0.6 -
invert 0.6 -  equalize 1.0 -
saturation 0.6 4  contrast 1.0 8
equalize 0.8 -  equalize 0.6 -""",
    "cifar10": """\
invert 0.1 -  contrast 0.2 6
rotate 0.7 2  translate_x 0.3 9
sharpness 0.8 1  sharpness 0.9 3
shear_y 0.5 8  translate_y 0.7 9
autocontrast 0.5 -  equalize 0.9 -
shear_y 0.2 7  posterize 0.3 7
saturation 0.4 3  brightness 0.6 7
sharpness 0.3 9  brightness 0.7 9
equalize 0.6 -  equalize 0.5 -
contrast 0.6 7  sharpness 0.6 5
saturation 0.7 7  translate_x 0.5 8
equalize 0.3 -  autocontrast 0.4 -
translate_y 0.4 3  sharpness 0.2 6
brightness 0.9 6  saturation 0.2 8
solarize 0.5 2  invert 0.0 -
equalize 0.2 -  autocontrast 0.6 -
equalize 0.2 -  equalize 0.6 -
saturation 0.9 9  equalize 0.6 -
autocontrast 0.8 -  solarize 0.2 8
brightness 0.1 3  saturation 0.7 0
solarize 0.4 5  autocontrast 0.9 -
translate_y 0.9 9  translate_y 0.7 9
autocontrast 0.9 -  solarize 0.8 3
equalize 0.8 -  invert 0.1 -
translate_y 0.7 9  autocontrast 0.9 -""",
    "svhn": """\
shear_x 0.9 4  invert 0.2 -
shear_y 0.9 8  invert 0.7 -
equalize 0.6 -  solarize 0.6 6
invert 0.9 -  equalize 0.6 -
equalize 0.6 -  rotate 0.9 3
shear_x 0.9 4  autocontrast 0.8 -
shear_y 0.9 8  invert 0.4 -
shear_y 0.9 5  solarize 0.2 6
invert 0.9 -  autocontrast 0.8 -
equalize 0.6 -  rotate 0.9 3
shear_x 0.9 4  solarize 0.3 3
shear_y 0.8 8  invert 0.7 -
equalize 0.9 -  translate_y 0.6 6
invert 0.9 -  equalize 0.6 -
contrast 0.3 3  rotate 0.8 4
invert 0.8 -  translate_y 0.0 2
shear_y 0.7 6  solarize 0.4 8
invert 0.6 -  rotate 0.8 4
shear_y 0.3 7  translate_x 0.9 3
shear_x 0.1 6  invert 0.6 -
solarize 0.7 2  translate_y 0.6 7
shear_y 0.8 4  invert 0.8 -
shear_x 0.7 9  translate_y 0.8 3
shear_y 0.8 5  autocontrast 0.7 -
shear_x 0.7 2  invert 0.1 -""",
}


def _read_policy(policy: str) -> np.ndarray:
    """Returns float64 [25, 2, 3]: position in TRANSFORMS, probability, strength."""
    rows = []
    for line in POLICIES[policy].split("\n"):
        words = line.split()
        rows.append(
            [
                [TRANSFORMS.index(name), float(probability), float(strength.replace("-", "0"))]
                for name, probability, strength in (words[:3], words[3:])
            ]
        )
    return np.array(rows)
