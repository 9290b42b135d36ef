"""The training loss: softmax or binary cross-entropy, and an L2 penalty of the weights.

Both losses take smoothed and mixed labels; groups of variables scale the penalty. Validation and
final scores report the softmax cross-entropy without smoothing, whatever the loss.
"""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Tensor, Variable
from keras_imnet64.recipe.optimizers import GroupOptions
from keras_imnet64.recipe.schema import LossSection
from keras_imnet64.training.groups import group_of_each


class CrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy with label smoothing.

    The target is 1 - s + s/K for the label and s/K for every other class (arXiv:1512.00567). For
    a mixed image it is the mean of both labels' targets, weighted by their shares.
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:  # Keras' own options
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Returns the cross-entropy of each image.

        Args:
            labels: integers [B], or floats [B, 3], two labels and the share of the first.
            logits: float32 [B, K].

        Returns:
            float32 [B]
        """
        return keras.losses.categorical_crossentropy(
            targets_of(labels, logits.shape[-1]),
            logits,
            from_logits=True,
            label_smoothing=self.label_smoothing,
        )


class BinaryCrossEntropy(keras.losses.Loss):
    """Sigmoid cross-entropy of each class, as timm's BinaryCrossEntropy (arXiv:2110.00476).

    The targets are those of `CrossEntropy`.

    Args:
        target_threshold: targets above it become 1, all others 0; None leaves them.
        sum_classes: whether an image's loss is the sum over the classes, and not their mean.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        target_threshold: float | None = None,
        sum_classes: bool = False,
        **kwargs: Any,  # Keras' own options
    ) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing
        self.target_threshold, self.sum_classes = target_threshold, sum_classes

    def call(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Returns the loss of each image, float32 [B]; takes what `CrossEntropy.call` takes."""
        num_classes = logits.shape[-1]
        smoothing = self.label_smoothing
        targets = targets_of(labels, num_classes) * (1 - smoothing) + smoothing / num_classes
        if self.target_threshold is not None:
            targets = ops.cast(targets > self.target_threshold, "float32")
        # Both terms stay exact for logits of any size, and so does the gradient at 0.
        loss = targets * ops.softplus(-logits) + (1 - targets) * ops.softplus(logits)
        return ops.sum(loss, axis=-1) if self.sum_classes else ops.mean(loss, axis=-1)


def targets_of(labels: Tensor, num_classes: int) -> Tensor:
    """Returns the targets float32 [B, K] of labels, see `CrossEntropy.call`, before smoothing."""
    if len(labels.shape) < 2:
        return one_hot(labels, num_classes)
    first, second, share = (labels[:, column] for column in range(3))
    first, second = (one_hot(label, num_classes) for label in (first, second))
    return second + share[:, None] * (first - second)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    return ops.one_hot(ops.cast(labels, "int32"), num_classes)


def make_loss(section: LossSection) -> keras.losses.Loss:
    """Returns the loss of a recipe, without its L2 penalty."""
    if section.name == "cross_entropy":
        return CrossEntropy(section.label_smoothing)
    return BinaryCrossEntropy(
        section.label_smoothing, section.target_threshold, section.sum_classes
    )


def add_l2(
    model: keras.Model,
    l2: float,
    of: Literal["weights", "all"] = "weights",
    groups: Sequence[GroupOptions] = (),
) -> None:
    """Adds l2 * sum(w^2), without the factor 1/2, to the loss of a model.

    The penalty is set on the variables and not in the layers' configs, so that model files do not
    hold it.

    Args:
        of: "weights" for every kernel and every normalisation's gamma, "all" for every trainable
            variable. With "all", l2 = w / 2 gives SGD the gradients that `weight_decay=w` gives
            PyTorch's SGD.
        groups: the `weight_decay_factor` of a variable's group multiplies l2.

    Raises:
        UserError: a variable has a regularizer already, as a layer of the caller's may.
    """
    chosen = group_of_each(groups, [variable.path for variable in model.trainable_variables])
    for variable in model.trainable_variables:
        group = chosen[variable.path]
        own_l2 = l2 * group.weight_decay_factor if group else l2
        if is_penalised(variable, of) and own_l2:
            if variable.regularizer is not None:
                raise UserError(
                    f"loss.l2 penalises {variable.path}, whose layer has a regularizer of its own: "
                    "remove one of the two"
                )
            variable.regularizer = keras.regularizers.L2(own_l2)


def is_penalised(variable: Variable, of: Literal["weights", "all"]) -> bool:
    """Returns whether the L2 penalty of `add_l2` counts a trainable variable."""
    return of == "all" or variable.name == "gamma" or len(variable.shape) >= 2
