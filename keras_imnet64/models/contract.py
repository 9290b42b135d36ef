"""Checks what every command expects of a classifier: images in, one logit for each class out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath, Tensor
from keras_imnet64.records import ModelInfo

if TYPE_CHECKING:
    import keras

HEAD = "logits"  # the layer, in every network of the table
LEAST_PROBABILITY = 1e-30  # whose logarithm is finite
DRAWN_SIZE = 64  # pixels per side of the images about which a model of any size is asked
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class ClassifierShape:
    """The shapes of input and output: [B, height, width, 3] -> [B, num_classes]."""

    height: int | None  # None for any
    width: int | None
    num_classes: int

    def check_size(self, size: int | None, name: StrPath, dataset: str) -> None:
        """Refuses images of a data set that the model does not take.

        Args:
            size: pixels per side, None for images of any size, which are resized.
            name: of the model in messages.
        """
        if size and (self.height, self.width) not in [(size, size), (None, None)]:
            raise UserError(
                f"{name} takes images of {self.height} x {self.width}; {dataset} has {size} x "
                f"{size}"
            )

    def square_size(self, name: StrPath) -> int | None:
        """Returns the pixels per side, None for any; refuses a model for other than squares."""
        if self.height != self.width:
            raise UserError(
                f"{name} takes images of {self.height} x {self.width}; square ones are needed"
            )
        return self.height


def classifier_shape(model: keras.Model, name: StrPath) -> ClassifierShape:
    """Returns the size of the images that a model takes and the number of its classes.

    Args:
        name: of the model in messages, such as its path.

    Raises:
        UserError: the only input is not images [B, H, W, 3], or the only output not logits [B, K]
            or probabilities of a softmax.
    """
    inputs, outputs = _shapes(model, "inputs"), _shapes(model, "outputs")
    if not inputs or not outputs:
        raise UserError(
            f"{name} does not state the shapes of its input and output; a functional model is "
            "needed, or a sequential one that begins with keras.Input"
        )
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][0] or inputs[0][3] != 3:
        raise UserError(
            f"{name} takes {_listed(inputs)}; one input of images [None, H, W, 3], in batches of "
            "any size, is needed"
        )
    num_classes = outputs[0][-1] if len(outputs) == 1 and len(outputs[0]) == 2 else None
    if num_classes is None or num_classes < 2 or outputs[0][0]:
        raise UserError(
            f"{name} gives {_listed(outputs)}; one output of logits [None, K], of two classes or "
            "more, is needed"
        )
    if ends_in_sigmoid(model):
        raise UserError(
            f"{name} ends in a sigmoid, which is for images of several classes at a time; logits "
            "or a softmax are needed, of one class for each image"
        )
    _, height, width, _ = inputs[0]
    return ClassifierShape(height, width, num_classes)


def check_stated_classes(info: ModelInfo, num_classes: int, name: StrPath) -> None:
    """Refuses a model file whose number of class ids or class names is not that of its logits."""
    for what, stated in (("class ids", info.wnids), ("class names", info.class_names)):
        if stated and len(stated) != num_classes:
            raise UserError(
                f"{name} has {num_classes} logits and states {len(stated)} {what}; the two numbers "
                "must be equal"
            )


def _shapes(model: keras.Model, side: Literal["inputs", "outputs"]) -> list[Shape]:
    """Returns the shapes of a model's inputs or outputs; [] for a model without a known graph."""
    try:
        tensors = getattr(model, side, None)
    except (AttributeError, ValueError):  # the model was never called
        tensors = None
    return [tuple(tensor.shape) for tensor in tensors or []]


def _listed(shapes: Sequence[Shape]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether a classifier outputs probabilities instead of logits."""
    import keras

    last = _last_operation(model)
    has_activation = getattr(last, "activation", None) is keras.activations.softmax
    return has_activation or type(last).__name__ == "Softmax"  # Keras' layer, or its operation


def gives_probabilities(model: keras.Model) -> bool:
    """Whether the outputs of a classifier are probabilities, whatever computes them.

    A mean of several softmaxes does, and a softmax that is clipped or reshaped. Where no layer or
    operation at the end tells, the model is asked about drawn images.
    """
    import keras

    if ends_in_softmax(model):
        return True
    last = _last_operation(model)
    if last.name == HEAD or isinstance(last, keras.layers.Dense | keras.layers.Conv2D):
        return False
    height, width = (side or DRAWN_SIZE for side in model.inputs[0].shape[1:3])
    drawn = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype("float32")
    outputs = keras.ops.convert_to_numpy(model(drawn, training=False)).astype("float32")
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def ends_in_sigmoid(model: keras.Model) -> bool:
    """Whether a classifier outputs a probability for each class by itself."""
    import keras

    last = _last_operation(model)
    has_activation = getattr(last, "activation", None) is keras.activations.sigmoid
    return has_activation or type(last).__name__ == "Sigmoid"


def _last_operation(model: keras.Model) -> keras.Operation:
    """Returns the layer or operation that computes the logits, of nested models the inner one."""
    from keras_imnet64.models.keras_private import graph_of, producer

    last = producer(model.outputs[0])
    while True:
        if (graph := graph_of(last)) is not None:
            last = producer(graph.outputs[0])
        elif (before := that_computes(last)) is not last:
            last = before
        else:
            return last


def that_computes(operation: keras.Operation) -> keras.Operation:
    """Returns an operation of a graph, or the one before it if it only passes on what it takes."""
    from keras_imnet64.models.keras_private import producer

    while _passes_on(operation):
        operation = producer(operation.input)
    return operation


def _passes_on(operation: keras.Operation) -> bool:
    """Whether a layer or operation of a model that is applied gives what it takes."""
    from keras import activations, layers

    is_linear = isinstance(operation, layers.Activation) and (
        operation.activation is activations.linear
    )
    is_identity = isinstance(operation, layers.Identity | layers.Dropout)
    return is_linear or is_identity or type(operation).__name__ == "Cast"


def with_logits(model: keras.Model) -> keras.Model:
    """Returns the classifier without a softmax at its end; both models share all layers.

    A softmax that cannot be taken away is followed by a logarithm, whose softmax it is.
    """
    import keras

    from keras_imnet64.models.keras_private import producer

    if not gives_probabilities(model):
        return model
    last = _last_operation(model)
    is_softmax_alone = isinstance(last, keras.layers.Softmax | keras.layers.Activation)
    if is_softmax_alone and last is producer(model.outputs[0]):
        return keras.Model(model.inputs[0], last.input)
    if ends_in_softmax(model) and hasattr(last, "activation"):
        last.activation = keras.activations.linear
        return model
    logits = keras.ops.log(keras.ops.maximum(model.outputs[0], LEAST_PROBABILITY))
    return keras.Model(model.inputs[0], logits)


def output_of(model: keras.Model, layer: keras.Layer) -> Tensor:
    """Returns the tensor of a functional or sequential model that a layer outputs.

    The `output` of a layer that is a model itself is a tensor within it.
    """
    from keras_imnet64.models.keras_private import calls_of, graph_of

    graph = graph_of(model)
    calls = [call for call in calls_of(graph) if call.operation is layer] if graph else []
    return calls[-1].outputs[0] if calls else layer.output
