"""Test-time views: what a model predicts for several versions of each image, averaged.

A finished model may be scored on more than the image itself: on ten crops, or at the image's own
size on its mirror image and on copies that are shifted by a pixel. The softmax outputs of the views
are averaged, as Krizhevsky et al. (2012) average ten crops; the logarithm of the average takes the
place of the logits.

- "mirror" (arXiv:2404.00498, test-time augmentation of level 1): the image and its mirror image,
  with equal weights.
- "shift" (level 2 there): the same pair with a weight of 1/2 in all, and with the other half the
  four views that result if the image is shifted by one pixel down and to the right, or up and to
  the left, before it is mirrored or not. The row and the column that a shift uncovers show what
  lies on the other side of the border's own row and column (reflection). Weights: 1/4 for each of
  the unshifted two, 1/8 for each of the shifted four. The airbench code averages logits here.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.contract import LEAST_PROBABILITY
from keras_imnet64.records import ViewSet

NUM_CROPS = 10  # of an image, where a view has several
WEIGHTS: dict[ViewSet, tuple[float, ...]] = {  # of the views, in the order of `_views`
    "mirror": (1 / 2, 1 / 2),
    "shift": (1 / 4, 1 / 8, 1 / 8, 1 / 4, 1 / 8, 1 / 8),
}


def with_views(model: keras.Model, image_size: int, views: ViewSet) -> keras.Model:
    """Returns a model that averages the softmax of an image's views: [B, S, S, 3] -> log [B, K].

    Args:
        model: pixels [B, S, S, 3] -> logits [B, K].
        image_size: S, at least 2 for "shift".
        views: "mirror" or "shift".
    """
    images = keras.Input((image_size, image_size, 3))
    return keras.Model(images, _averaged(model, _views(images, views), WEIGHTS[views]))


def with_ten_crops(model: keras.Model, image_size: int) -> keras.Model:
    """Returns a model that averages the softmax of ten crops: [B, 10, S, S, 3] -> log [B, K]."""
    crops = keras.Input((NUM_CROPS, image_size, image_size, 3))
    return keras.Model(crops, _averaged(model, crops))


def _views(images: Tensor, views: ViewSet) -> Tensor:
    """Returns the views of images [B, S, S, 3], first those that are not mirrored: [B, V, S, S, 3].

    Those of "shift" are, in each half: unshifted, shifted down and right, shifted up and left.
    """
    kept = [images]
    if views == "shift":
        padded = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        kept += [padded[:, :-2, :-2], padded[:, 2:, 2:]]
    return ops.stack([*kept, *(ops.flip(view, axis=2) for view in kept)], axis=1)


def _averaged(model: keras.Model, views: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Returns the logarithm of the average of a model's softmax: views [B, V, S, S, 3] -> [B, K].

    Args:
        weights: V, of sum 1; None stands for equal weights.
    """
    num_views, *shape = views.shape[1:]
    network = keras.Model(model.inputs[0], model.outputs[0])  # one in a file may return a list
    logits = network(ops.reshape(views, (-1, *shape)))  # [B * V, K]
    logits = ops.reshape(logits, (-1, num_views, logits.shape[-1]))  # [B, V, K]
    shares = ops.softmax(logits)
    if weights is None:
        average = ops.mean(shares, axis=1)  # [B, K]
    else:
        column = np.asarray(weights, "float32")[:, None]  # [V, 1]
        average = ops.sum(shares * column, axis=1)  # [B, K]
    return ops.log(average + LEAST_PROBABILITY)
