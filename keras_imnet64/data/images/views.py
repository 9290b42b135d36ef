"""Views: how evaluation and prediction resize and crop an image of any size.

Needs neither Keras nor TensorFlow. `reading` decodes image files.
"""

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from PIL import Image

from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.data.images.filters import ResizeFilter
from keras_imnet64.records import ModelInfo

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(ResizeFilter)}
CENTRE = (0.5, 0.5)  # crop positions, as shares of the free height and of the free width
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class View:
    """How evaluation and prediction resize and crop an image of any size.

    Attributes:
        image_size: S, pixels per side of the model's input.
        resize_filter: a key of FILTERS.
        resize: pixels of the shorter side before the centre S x S is cropped, as in torchvision.
            None resizes the whole image to S x S, whatever its aspect ratio, as ImageNet64 was made
            (arXiv:1707.08819).
        ten_crop: whether to show the centre, the four corners and the mirror image of each, for
            the mean of the model's ten predictions.
    """

    image_size: int
    resize_filter: str = "box"  # with which ImageNet64 was made
    resize: int | None = None
    ten_crop: bool = False

    @classmethod
    def of(cls, info: ModelInfo, image_size: int) -> "View":
        """Returns the view that a model file states; what it does not state has its default."""
        resize_filter = info.resize_filter or cls.resize_filter
        return cls(image_size, resize_filter, info.resize, bool(info.ten_crop))

    @property
    def one_crop(self) -> "View":
        """The same view with one crop of each image, the whole of it if no size is stated."""
        if self.ten_crop and self.resize is None:
            return View(self.image_size)
        return replace(self, ten_crop=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what `show` returns."""
        one = (self.image_size, self.image_size, 3)
        return (10, *one) if self.ten_crop else one

    def show(self, image: Image.Image) -> np.ndarray:
        """Returns uint8 [S, S, 3] of an RGB image; [10, S, S, 3] with `ten_crop`."""
        pixels = np.asarray(image.resize(self.resized(image.size), FILTERS[self.resize_filter]))
        if self.resize is None and not self.ten_crop:
            return pixels.copy()
        if not self.ten_crop:
            return self._crop(pixels, *CENTRE).copy()
        crops = [self._crop(pixels, down, right) for down, right in (CENTRE, *CORNERS)]
        return np.stack([*crops, *(crop[:, ::-1] for crop in crops)])

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (width, height) to which an image of this (width, height) is resized."""
        if self.resize is None and not self.ten_crop:
            return self.image_size, self.image_size
        shorter = self.resize or default_resize(self.image_size)
        width, height = (shorter * side // min(size) for side in size)
        return width, height

    def _crop(self, pixels: np.ndarray, down: float, right: float) -> np.ndarray:
        """Returns the S x S crop at these shares of the free height and of the free width."""
        side = self.image_size
        height, width = pixels.shape[:2]
        top, left = round(down * (height - side)), round(right * (width - side))
        return pixels[top : top + side, left : left + side]


def default_resize(image_size: int) -> int:
    """Returns the shorter side before the crop if a recipe sets none: 256 for 224."""
    return round(image_size * 256 / 224)


def check_filter(name: str) -> None:
    """Raises a UserError unless the name is a key of FILTERS."""
    if str(name) not in FILTERS:
        raise UserError(f'there is no resize filter "{name}": {nearest(name, FILTERS)}')
