"""Freezes the results of torchvision and timm for the images of `cases`: writes augment.npz.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31
    python tests/data/augment/golden/make.py

Those versions, on a CPU, made the file in this folder; the tests need none of the three packages.
Images are uint8 [B, H, W, 3].
"""

import math
from pathlib import Path

import cases
import numpy as np
import torch
from PIL import Image

try:
    import torchvision  # noqa: F401
except RuntimeError:  # a build without its compiled operators; no transform here uses them
    LIBRARY = torch.library.Library("torchvision", "DEF")
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from timm.data.auto_augment import solarize_add
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


def affine(shear=(0.0, 0.0), translate=(0, 0), center=None):
    return lambda x, mode: F.affine(
        x, 0.0, list(translate), 1.0, list(shear), interpolation=mode, center=center
    )


def degrees(factor):
    return math.degrees(math.atan(factor))


MAPS = {
    "shear_x": lambda value: affine(shear=(degrees(value), 0.0), center=[0, 0]),
    "shear_y": lambda value: affine(shear=(0.0, degrees(value)), center=[0, 0]),
    "translate_x": lambda value: affine(translate=(value, 0)),
    "translate_y": lambda value: affine(translate=(0, value)),
    "rotate": lambda value: lambda x, mode: F.rotate(x, value, interpolation=mode),
}
COLOURS = {
    "brightness": F.adjust_brightness,
    "saturation": F.adjust_saturation,
    "contrast": F.adjust_contrast,
    "sharpness": F.adjust_sharpness,
    "hue": F.adjust_hue,
    "posterize": F.posterize,
    "solarize": F.solarize,
    "autocontrast": lambda x, value: F.autocontrast(x),
    "equalize": lambda x, value: F.equalize(x),
    "invert": lambda x, value: F.invert(x),
}


def main():
    images = torch.from_numpy(cases.images()).permute(0, 3, 1, 2)
    frozen = {}
    for name, values in cases.COLOURS.items():
        for value in values:
            frozen[f"{name} {value}"] = one_by_one(COLOURS[name], images, value)
    for name, values in cases.MAPS.items():
        for value in values:
            for mode in (InterpolationMode.NEAREST, InterpolationMode.BILINEAR):
                changed = one_by_one(MAPS[name](value), images, mode)
                frozen[f"{name} {value} {mode.value}"] = changed
    for box in cases.BOXES:
        for name in cases.FILTERS:
            arguments = (*box, list(cases.RESIZED), InterpolationMode(name))
            frozen[f"resized_crop {box} {name}"] = one_by_one(F.resized_crop, images, *arguments)
    np.savez_compressed(Path(__file__).parent / "augment.npz", **frozen)


def one_by_one(function, images, *arguments):
    """Transforms each image separately, as a training program does: uint8 [B, H, W, 3]."""
    changed = torch.stack([function(image, *arguments) for image in images])
    return changed.permute(0, 2, 3, 1).numpy()


def with_timm(image, value):
    """Converts to Pillow's images, which timm's transforms take."""
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(solarize_add(pil, value))).permute(2, 0, 1)


COLOURS["solarize_add"] = with_timm

if __name__ == "__main__":
    main()
