"""Maps tensors of torchvision's and timm's networks to the variables of our Keras models.

PyTorch has kernels [O, I, h, w] and dense layers [O, I], and flattens maps channel by channel;
Keras has [h, w, I, O] and [I, O], and flattens pixel by pixel. A naming is a function from the name
of a Keras layer to the name of the PyTorch module; NAMINGS has the namings of each network.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from keras_imnet64.convert.prefixes import Landmarks
from keras_imnet64.convert.tensor_files import StoredTensor
from keras_imnet64.core.errors import UserError, first_few
from keras_imnet64.core.types import Options, Variable
from keras_imnet64.data.images.filters import ResizeFilter
from keras_imnet64.models import MAX_NUM_CLASSES, find_model
from keras_imnet64.records import MAX_IMAGE_SIZE

if TYPE_CHECKING:
    import keras

Naming: TypeAlias = Callable[[str], str]
Arrays: TypeAlias = Mapping[str, StoredTensor | np.ndarray]  # by the name of the tensor
MapShape: TypeAlias = tuple[int, int, int]  # (H, W, C)

PYTORCH_VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
STEP_COUNTER = "num_batches_tracked"  # of a batch normalisation; not part of the network
FLOAT_DTYPES = ("float64", "float32", "float16", "bfloat16")
NAME_THE_NETWORK = "name the network and the options (--set stem=...) that it was trained with"


@dataclass(frozen=True)
class Family:
    """What the published networks of a family have in common.

    Attributes:
        first_layer: the first layer with weights, by its name in our models.
        options: those that our models would otherwise choose by the image size.
        resize_filter: with which training images were resized; a weight file does not state it.
    """

    first_layer: str
    options: Options = field(default_factory=dict)
    resize_filter: ResizeFilter = "bilinear"


FAMILIES = {  # by their module in `models`
    "resnet": Family("stem_conv", {"stem": "imagenet"}),
    "davit": Family("stem_conv", {"stem": "imagenet", "window": 7}, "bicubic"),
    "alexnet": Family("conv1", {"stem": "imagenet"}),
    "vgg": Family("stage1_conv1"),
}


@dataclass(frozen=True)
class ForeignTensor:
    """A tensor of a PyTorch network and the Keras variable that takes its values.

    Attributes:
        name, shape: those of PyTorch.
        variable: a variable of our model.
        to_keras: converts an array [*shape] to the layout of the variable.
        flattened_map: shape of the map whose flattened pixels are the input of a dense layer; None
            for all other tensors.
    """

    name: str
    shape: tuple[int, ...]
    variable: Variable
    to_keras: Callable[[np.ndarray], np.ndarray]
    flattened_map: MapShape | None = None

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """The allowed shapes: timm writes the dense layers of VGG as convolutions."""
        if len(self.shape) != 2:
            return (self.shape,)
        height, width, channels = self.flattened_map or (1, 1, self.shape[1])
        return self.shape, (self.shape[0], channels, height, width)


def assign_weights(model: keras.Model, arrays: Arrays, naming: Naming, source: object) -> None:
    """Assigns to every variable of a built model the values of its tensor.

    Args:
        naming: one of NAMINGS.
        source: the name of the arrays' file in messages.

    Raises:
        UserError: a tensor is missing, is unknown to the network, or has another shape; its numbers
            are not floats, are not finite, or are variances below 0.
    """
    tensors = tensors_of(model, naming)
    check_fit(model, tensors, arrays, source)
    for tensor in tensors:
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            array = np.asarray(arrays[tensor.name]).astype("float32")
        if not np.isfinite(array).all():
            raise UserError(f"{source} is damaged: {tensor.name} has numbers that are not finite")
        if tensor.variable.name == "moving_variance" and array.min() < 0:
            raise UserError(f"{source} is damaged: {tensor.name} has variances below 0")
        tensor.variable.assign(tensor.to_keras(array))


def tensors_of(model: keras.Model, naming: Naming) -> list[ForeignTensor]:
    """Returns the tensor of each variable; the seeds of dropout have no tensor."""
    return [
        _tensor_of(layer, variable, naming)
        for layer in model.layers
        for variable in layer.weights
        if variable.name != "seed_generator_state"
    ]


def _tensor_of(layer: keras.Layer, variable: Variable, naming: Naming) -> ForeignTensor:
    name = f"{naming(layer.name)}.{PYTORCH_VARIABLES[variable.name]}"
    shape = tuple(variable.shape)
    if variable.name != "kernel":
        return ForeignTensor(name, shape, variable, lambda array: array)
    if len(shape) == 4:
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)  # PyTorch's axes in the order of Keras
        pytorch_shape = tuple(shape[axes.index(axis)] for axis in range(4))
        return ForeignTensor(name, pytorch_shape, variable, lambda array: array.transpose(axes))
    flattened_map = _flattened_map(layer)
    height, width, channels = flattened_map or (1, 1, shape[0])

    def to_keras(array: np.ndarray) -> np.ndarray:
        array = array.reshape(-1, channels, height, width)
        return array.transpose(2, 3, 1, 0).reshape(shape)

    return ForeignTensor(name, shape[::-1], variable, to_keras, flattened_map)


def _flattened_map(layer: keras.Layer) -> MapShape | None:
    """Returns the shape of the map whose flattened pixels are a dense layer's input, or None."""
    from keras import layers

    from keras_imnet64.models.keras_private import producer

    before = producer(layer.input)
    while isinstance(before, layers.Dropout):
        before = producer(before.input)
    return before.input.shape[1:] if isinstance(before, layers.Flatten) else None


# ------------------------------------------------------------------------------ checks of a file


def find_namings(name: str) -> Sequence[Naming]:
    """Returns the namings of a network; UserError if it is unknown or neither library has it."""
    find_model(name)  # suggests the nearest name
    if name not in NAMINGS:
        raise UserError(
            f'neither torchvision nor timm has weights for "{name}"; they have those of the '
            "resnet, davit, alexnet and vgg families"
        )
    return NAMINGS[name]


def family_of(name: str) -> Family:
    return FAMILIES[find_model(name).module]


def landmarks_of(name: str) -> Landmarks:
    """Returns the names of tensors by which a network is recognised in a file."""
    namings = find_namings(name)
    first = namings[0](family_of(name).first_layer)
    return Landmarks(f"{first}.weight", [_classifier_kernel(naming) for naming in namings])


def choose_naming(name: str, arrays: Arrays) -> Naming:
    """Returns the naming under which a file has the network's classifier."""
    return max(find_namings(name), key=lambda naming: _classifier_kernel(naming) in arrays)


def num_classes_of(arrays: Arrays, naming: Naming, source: object) -> int:
    """Returns the number of rows that the classifier of a file has."""
    name = _classifier_kernel(naming)
    if name not in arrays or len(arrays[name].shape) != 2:
        raise UserError(
            f"{source} has no classifier {name} [classes, features]; {NAME_THE_NETWORK}"
        )
    num_classes = arrays[name].shape[0]
    if not 2 <= num_classes <= MAX_NUM_CLASSES:
        raise UserError(
            f"{source} has {num_classes:,} classes in {name}; 2 to {MAX_NUM_CLASSES:,} are needed"
        )
    return num_classes


def _classifier_kernel(naming: Naming) -> str:
    return f"{naming('logits')}.weight"


def check_fit(
    model: keras.Model, tensors: Sequence[ForeignTensor], arrays: Arrays, source: object
) -> None:
    """Checks that arrays and tensors match one to one by name, shape and dtype; reads no values.

    Raises:
        UserError: they do not match.
    """
    missing = [f"{t.name} {list(t.shape)}" for t in tensors if t.name not in arrays]
    if missing:
        raise UserError(
            f"{source} lacks tensors of {model.name}: {first_few(missing)}; {NAME_THE_NETWORK}"
        )
    misfits = [t for t in tensors if tuple(arrays[t.name].shape) not in t.shapes]
    if misfits:
        received = [(t, list(arrays[t.name].shape)) for t in misfits]
        shapes = [f"{t.name} is {shape}, {list(t.shape)} here" for t, shape in received]
        raise UserError(
            f"{source} does not fit {model.name} at {model.input.shape[1]} pixels: "
            f"{first_few(shapes)}; {_remedy(model, misfits, arrays)}"
        )
    counters = {t.name.replace("running_mean", STEP_COUNTER) for t in tensors}
    surplus = sorted(set(arrays) - {t.name for t in tensors} - counters)
    if surplus:
        raise UserError(
            f"{source} has tensors that {model.name} does not have: {first_few(surplus)}; "
            f"{NAME_THE_NETWORK}"
        )
    for tensor in tensors:
        if str(arrays[tensor.name].dtype) not in FLOAT_DTYPES:
            raise UserError(
                f"{source} holds {tensor.name} as {arrays[tensor.name].dtype}; "
                f"{', '.join(FLOAT_DTYPES)} are supported"
            )


def _remedy(model: keras.Model, misfits: Sequence[ForeignTensor], arrays: Arrays) -> str:
    """Returns a remedy for tensors of another shape: image sizes that fit, or another network."""
    if len(misfits) == 1 and misfits[0].flattened_map:
        shape, channels = arrays[misfits[0].name].shape, misfits[0].flattened_map[2]
        sizes = _sizes_that_fit(model, math.prod(shape[1:]) / channels)
        if sizes:
            return f"image sizes {sizes[0]} to {sizes[-1]} fit"
    return NAME_THE_NETWORK


def _sizes_that_fit(model: keras.Model, num_pixels: float) -> Sequence[int]:
    """Returns the image sizes for which the last map of a model has this number of pixels."""
    import keras

    from keras_imnet64.models.keras_private import without_weights

    with without_weights():
        features = keras.Model(model.input, model.get_layer("features").output)
        any_size = keras.Input((None, None, 3))
        features = keras.models.clone_model(features, input_tensors=any_size)

    def num_pixels_at(size: int) -> int:
        try:
            return math.prod(features.compute_output_shape((1, size, size, 3))[1:3])
        except ValueError:  # the image is too small for a layer
            return 0

    sizes = range(1, MAX_IMAGE_SIZE + 1)  # the map grows with the image
    first = bisect.bisect_left(sizes, num_pixels, key=num_pixels_at)
    return sizes[first : bisect.bisect_right(sizes, num_pixels, key=num_pixels_at)]


# --------------------------------------------------------------------------------------- namings


def resnet(layer: str) -> str:
    ends = {"stem_conv": "conv1", "stem_bn": "bn1", "logits": "fc"}
    if layer in ends:
        return ends[layer]
    stage, block, part = _split_name(layer)
    part = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(part, part)
    return f"layer{stage}.{block - 1}.{part}"


DAVIT_PARTS = {
    "position1": "cpe1.proj",
    "position2": "cpe2.proj",
    "qkv": "attn.qkv",
    "project": "attn.proj",
    "mlp1": "mlp.fc1",
    "mlp2": "mlp.fc2",
}


def davit(layer: str) -> str:
    ends = {
        "stem_conv": "stem.conv",
        "stem_norm": "stem.norm",
        "head_norm": "head.norm",
        "logits": "head.fc",
    }
    if layer in ends:
        return ends[layer]
    if found := re.fullmatch(r"stage(\d)_downsample_(conv|norm)", layer):
        return f"stages.{int(found[1]) - 1}.downsample.{found[2]}"
    stage, pair, part = _split_name(layer)
    kind, part = part.split("_")
    block = {"window": 0, "channel": 1}[kind]
    return f"stages.{stage - 1}.blocks.{pair - 1}.{block}.{DAVIT_PARTS.get(part, part)}"


def alexnet(layer: str) -> str:
    modules = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}
    if layer in modules:
        return f"features.{modules[layer]}"
    return {"dense1": "classifier.1", "dense2": "classifier.4", "logits": "classifier.6"}[layer]


TORCHVISION_VGG = {"dense1": "classifier.0", "dense2": "classifier.3", "logits": "classifier.6"}
TIMM_VGG = {"dense1": "pre_logits.fc1", "dense2": "pre_logits.fc2", "logits": "head.fc"}


def torchvision_vgg(layer: str) -> str:
    return TORCHVISION_VGG.get(layer) or _vgg_features(layer, modules_per_conv=2)


def timm_vgg(layer: str) -> str:
    return TIMM_VGG.get(layer) or _vgg_features(layer, modules_per_conv=2)


def torchvision_vgg_bn(layer: str) -> str:
    return TORCHVISION_VGG.get(layer) or _vgg_features(layer, modules_per_conv=3)


def timm_vgg_bn(layer: str) -> str:
    return TIMM_VGG.get(layer) or _vgg_features(layer, modules_per_conv=3)


def _vgg_features(layer: str, modules_per_conv: int) -> str:
    """Counts modules: 2 for a convolution and its ReLU, 3 with BN, 1 for each pool."""
    from keras_imnet64.models.vgg import STAGES

    found = re.fullmatch(r"stage(\d)_conv(\d)(_bn)?", layer)
    assert found, layer
    stage, number, bn = found.groups()
    before = [num_convs for _, num_convs in STAGES[: int(stage) - 1]]
    position = modules_per_conv * (sum(before) + int(number) - 1) + len(before)
    return f"features.{position + bool(bn)}"


NAMINGS: dict[str, Sequence[Naming]] = {
    "resnet18": (resnet,),
    "resnet34": (resnet,),
    "resnet50": (resnet,),
    "resnet101": (resnet,),
    "resnet152": (resnet,),
    "wide_resnet50_2": (resnet,),
    "davit_tiny": (davit,),
    "davit_small": (davit,),
    "davit_base": (davit,),
    "davit_large": (davit,),
    "davit_huge": (davit,),
    "davit_giant": (davit,),
    "alexnet": (alexnet,),
    "vgg16": (torchvision_vgg, timm_vgg),
    "vgg16_bn": (torchvision_vgg_bn, timm_vgg_bn),
}


def _split_name(layer: str) -> tuple[int, int, str]:
    """Returns (2, 3, "conv1") of "stage2_block3_conv1"."""
    found = re.fullmatch(r"stage(\d+)_block(\d+)_(.+)", layer)
    assert found, layer
    return int(found[1]), int(found[2]), found[3]
