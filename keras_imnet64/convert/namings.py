"""Weights of torchvision and timm: which of their tensors is which of our variables.

Theirs are laid out as PyTorch has them (kernels [O, I, h, w], dense layers [O, I], maps flattened
channel by channel), ours as Keras has them ([h, w, I, O], [I, O], pixel by pixel). A naming is a
function from the name of our layer to that of their module; NAMINGS has those of each family.
"""

import bisect
import math
import re
from dataclasses import dataclass

import numpy as np

from keras_imnet64.core.errors import UserError, first_few
from keras_imnet64.models import MOST_CLASSES, MOST_PIXELS, find_model

THEIR_VARIABLE = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
COUNTERS = "num_batches_tracked"  # of training steps: no part of the network
FLOATS = ("float64", "float32", "float16", "bfloat16")
# What a network of theirs is where ours adapts itself to the size of the image.
AS_PUBLISHED = {"davit": {"stem": "imagenet", "window": 7}, "alexnet": {"stem": "imagenet"}}
FIRST_LAYER = {  # which pixels enter, by family
    "resnet": "stem_conv",
    "davit": "stem_conv",
    "alexnet": "conv1",
    "vgg": "stage1_conv1",
}
OF_ANOTHER = "name the network and the options (--set stem=...) that it was trained with"


@dataclass(frozen=True)
class Tensor:
    """A tensor of theirs and the variable of ours that it fills.

    Attributes:
        name, shape: as in their file.
        variable: keras.Variable.
        to_ours: lays an array [*shape] out as the variable.
        map: (H, W, C) of the map that a dense layer takes flattened; None for all others.
    """

    name: str
    shape: tuple
    variable: object
    to_ours: object
    map: tuple | None = None

    @property
    def shapes(self):
        """Those that it may have: timm writes the dense layers of VGG as convolutions."""
        if len(self.shape) != 2:
            return (self.shape,)
        height, width, channels = self.map or (1, 1, self.shape[1])
        return self.shape, (self.shape[0], channels, height, width)


def fill_from(model, arrays, naming, who):
    """Give every variable of `model` its tensor.

    Args:
        model: a built network.
        arrays: {their name: array, or what NumPy makes one of, with shape and dtype}.
        naming: one of NAMINGS.
        who: what a message calls the file.

    Raises:
        UserError: a tensor is missing, has another shape, has no place here, is not of floats, or
            holds numbers that cannot be.
    """
    tensors = tensors_of(model, naming)
    check_fit(model, tensors, arrays, who)
    for tensor in tensors:
        with np.errstate(over="ignore"):  # float64 beyond float32 is infinite then
            array = np.asarray(arrays[tensor.name]).astype("float32")
        if not np.isfinite(array).all():
            raise UserError(f"{who} is damaged: {tensor.name} has numbers that are not finite")
        if tensor.variable.name == "moving_variance" and array.min() < 0:
            raise UserError(f"{who} is damaged: {tensor.name} has variances below 0")
        tensor.variable.assign(tensor.to_ours(array))


def tensors_of(model, naming):
    """Their tensor of each variable of ours, as [Tensor]; dropout's seeds have none."""
    return [
        _tensor(layer, variable, naming)
        for layer in model.layers
        for variable in layer.weights
        if variable.name != "seed_generator_state"
    ]


def _tensor(layer, variable, naming):
    name = f"{naming(layer.name)}.{THEIR_VARIABLE[variable.name]}"
    shape = tuple(variable.shape)
    if variable.name != "kernel":
        return Tensor(name, shape, variable, lambda array: array)
    if len(shape) == 4:
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)  # of theirs, in our order
        theirs = tuple(shape[axes.index(axis)] for axis in range(4))
        return Tensor(name, theirs, variable, lambda array: array.transpose(axes))
    theirs, flattened = shape[::-1], _flattened_map(layer)
    height, width, channels = flattened or (1, 1, shape[0])

    def to_ours(array):
        array = array.reshape(-1, channels, height, width)
        return array.transpose(2, 3, 1, 0).reshape(shape)

    return Tensor(name, theirs, variable, to_ours, flattened)


def _flattened_map(layer):
    """(H, W, C) of the map that a dense layer takes flattened; None for other inputs."""
    from keras import layers

    before = layer.input._keras_history.operation
    while isinstance(before, layers.Dropout):
        before = before.input._keras_history.operation
    return before.input.shape[1:] if isinstance(before, layers.Flatten) else None


# ------------------------------------------------------------------------------------- what fits


def namings_of(name):
    """The namings of this network; UserError if its weights are not known elsewhere."""
    if name not in NAMINGS:
        raise UserError(
            f'weights for "{name}" are in neither torchvision nor timm; those of the resnet, '
            "davit, alexnet and vgg families are"
        )
    return NAMINGS[name]


def landmarks(name):
    """Names of tensors that mark this network in a file.

    Returns:
        tuple: the kernel of its first convolution, and [that of its classifier] in each naming.
    """
    namings = namings_of(name)
    first = namings[0](FIRST_LAYER[find_model(name).module])
    return f"{first}.weight", [f"{naming('logits')}.weight" for naming in namings]


def naming_of(name, arrays):
    """The naming of this network that knows the classifier of a file."""
    return max(namings_of(name), key=lambda naming: f"{naming('logits')}.weight" in arrays)


def num_classes_of(arrays, naming, who):
    """Rows of the classifier in a file."""
    name = f"{naming('logits')}.weight"
    if name not in arrays or len(arrays[name].shape) != 2:
        raise UserError(f"{who} has no classifier {name} [classes, features]; {OF_ANOTHER}")
    num_classes = arrays[name].shape[0]
    if not 2 <= num_classes <= MOST_CLASSES:
        raise UserError(
            f"{who} has {num_classes:,} classes in {name}; 2 to {MOST_CLASSES:,} are needed"
        )
    return num_classes


def check_fit(model, tensors, arrays, who):
    """Refuse arrays that are not those of this network, one for one; no number is read."""
    missing = [t for t in tensors if t.name not in arrays]
    if missing:
        raise UserError(
            f"{who} lacks what {model.name} needs: "
            f"{first_few([f'{t.name} {list(t.shape)}' for t in missing])}; {OF_ANOTHER}"
        )
    others = [t for t in tensors if tuple(arrays[t.name].shape) not in t.shapes]
    if others:
        theirs = [f"{t.name} is {list(arrays[t.name].shape)}, {list(t.shape)} here" for t in others]
        raise UserError(
            f"{who} does not fit {model.name} at {model.input.shape[1]} pixels: "
            f"{first_few(theirs)}; {_remedy(model, others, arrays)}"
        )
    left = sorted(set(arrays) - {t.name for t in tensors})
    counters = {t.name.replace("running_mean", COUNTERS) for t in tensors}
    left = [name for name in left if name not in counters]
    if left:
        raise UserError(
            f"{who} has what {model.name} has no place for: {first_few(left)}; {OF_ANOTHER}"
        )
    integers = [t.name for t in tensors if str(arrays[t.name].dtype) not in FLOATS]
    if integers:
        raise UserError(
            f"{who} holds {integers[0]} as {arrays[integers[0]].dtype}; {', '.join(FLOATS)} are "
            "taken"
        )


def _remedy(model, others, arrays):
    """What may make tensors of another shape fit: another image size, or another network."""
    if len(others) == 1 and others[0].map:
        sizes = _sizes_that_fit(model, others[0], arrays[others[0].name].shape)
        if sizes:
            return f"image sizes {sizes[0]} to {sizes[-1]} fit"
    return OF_ANOTHER


def _sizes_that_fit(model, tensor, shape):
    """Image sizes whose last map has as many values as a dense layer of theirs takes; a range."""
    import keras

    from keras_imnet64.models.macs import without_weights

    num_pixels = math.prod(shape[1:]) / tensor.map[2]
    with without_weights():
        features = keras.Model(model.input, model.get_layer("features").output)
        any_size = keras.Input((None, None, 3))
        features = keras.models.clone_model(features, input_tensors=any_size)

    def num_pixels_at(size):
        try:
            return math.prod(features.compute_output_shape((1, size, size, 3))[1:3])
        except ValueError:  # nothing is left of the map
            return 0

    sizes = range(1, MOST_PIXELS + 1)  # the map grows with the image
    first = bisect.bisect_left(sizes, num_pixels, key=num_pixels_at)
    return sizes[first : bisect.bisect_right(sizes, num_pixels, key=num_pixels_at)]


# --------------------------------------------------------------------------------------- namings


def resnet(layer):
    ends = {"stem_conv": "conv1", "stem_bn": "bn1", "logits": "fc"}
    if layer in ends:
        return ends[layer]
    stage, block, part = _place(layer)
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


def davit(layer):
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
    stage, pair, part = _place(layer)
    kind, part = part.split("_")
    block = {"window": 0, "channel": 1}[kind]
    return f"stages.{stage - 1}.blocks.{pair - 1}.{block}.{DAVIT_PARTS.get(part, part)}"


def alexnet(layer):
    modules = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}
    if layer in modules:
        return f"features.{modules[layer]}"
    return {"dense1": "classifier.1", "dense2": "classifier.4", "logits": "classifier.6"}[layer]


TORCHVISION_VGG = {"dense1": "classifier.0", "dense2": "classifier.3", "logits": "classifier.6"}
TIMM_VGG = {"dense1": "pre_logits.fc1", "dense2": "pre_logits.fc2", "logits": "head.fc"}


def torchvision_vgg(layer):
    return TORCHVISION_VGG.get(layer) or _vgg_features(layer, modules=2)


def timm_vgg(layer):
    return TIMM_VGG.get(layer) or _vgg_features(layer, modules=2)


def torchvision_vgg_bn(layer):
    return TORCHVISION_VGG.get(layer) or _vgg_features(layer, modules=3)


def timm_vgg_bn(layer):
    return TIMM_VGG.get(layer) or _vgg_features(layer, modules=3)


def _vgg_features(layer, modules):
    """Theirs are numbered through: each convolution is 2 modules, or 3 with BN, each pool 1."""
    from keras_imnet64.models.vgg import STAGES

    stage, number, bn = re.fullmatch(r"stage(\d)_conv(\d)(_bn)?", layer).groups()
    before = [num_convs for _, num_convs in STAGES[: int(stage) - 1]]
    position = modules * (sum(before) + int(number) - 1) + len(before)
    return f"features.{position + bool(bn)}"


NAMINGS = {
    "resnet18": (resnet,),
    "resnet34": (resnet,),
    "resnet50": (resnet,),
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


def _place(layer):
    """(stage, block, the rest) of a name such as stage2_block3_conv1."""
    stage, block, part = re.fullmatch(r"stage(\d+)_block(\d+)_(.+)", layer).groups()
    return int(stage), int(block), part
