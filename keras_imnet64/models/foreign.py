"""Weights of torchvision and timm: which of their tensors is which of our variables.

Theirs are laid out as PyTorch has them (kernels [O, I, h, w], dense layers [O, I], maps flattened
channel by channel), ours as Keras has them ([h, w, I, O], [I, O], pixel by pixel). A naming is a
function from the name of our layer to that of their module; NAMINGS has those of each family.
"""

import re
from dataclasses import dataclass

import numpy as np

from keras_imnet64.errors import UserError

THEIR_VARIABLE = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
COUNTERS = "num_batches_tracked"  # of training steps: no part of the network
# What a network of theirs is where ours adapts itself to the size of the image.
AS_PUBLISHED = {"davit": {"stem": "imagenet", "window": 7}, "alexnet": {"stem": "imagenet"}}
MOST_NAMED = 3  # tensors in a sentence


@dataclass(frozen=True)
class Tensor:
    """A tensor of theirs and the variable of ours that it fills.

    Attributes:
        name, shape: as in their file.
        variable: keras.Variable.
        to_ours: lays an array [*shape] out as the variable.
    """

    name: str
    shape: tuple
    variable: object
    to_ours: object


def fill_from(model, arrays, naming, who):
    """Give every variable of `model` its tensor.

    Args:
        model: a built network.
        arrays: {their name: array}; float of any width.
        naming: one of NAMINGS.
        who: what a message calls the file.

    Raises:
        UserError: a tensor is missing, has another shape, is not finite, or has no place here.
    """
    tensors = tensors_of(model, naming)
    check_fit(model, tensors, arrays, who)
    for tensor in tensors:
        array = np.asarray(arrays[tensor.name]).astype("float32")
        if not np.isfinite(array).all():
            raise UserError(f"{who} is damaged: {tensor.name} has numbers that are not finite")
        tensor.variable.assign(tensor.to_ours(array))


def tensors_of(model, naming):
    """Their tensor of each variable of ours, as [Tensor]; dropout's seeds have none."""
    return [
        _tensor(layer, variable, naming)
        for layer in model.layers
        for variable in layer.weights
        if variable.name in THEIR_VARIABLE
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
    theirs = shape[::-1]
    height, width, channels = _flattened_map(layer) or (1, 1, shape[0])

    def to_ours(array):
        array = array.reshape(-1, channels, height, width)
        return array.transpose(2, 3, 1, 0).reshape(shape)

    return Tensor(name, theirs, variable, to_ours)


def _flattened_map(layer):
    """(H, W, C) of the map that a dense layer takes flattened; None for other inputs."""
    from keras import layers

    before = layer.input._keras_history.operation
    while isinstance(before, layers.Dropout):
        before = before.input._keras_history.operation
    return before.input.shape[1:] if isinstance(before, layers.Flatten) else None


# ------------------------------------------------------------------------------------- what fits


def naming_of(name, arrays):
    """The naming of this network that knows most of a file's tensors.

    Raises:
        UserError: weights of this network are not known elsewhere.
    """
    namings = NAMINGS.get(name)
    if namings is None:
        raise UserError(
            f'weights for "{name}" are in neither torchvision nor timm; those of the resnet, davit, '
            "alexnet and vgg families are"
        )
    return max(namings, key=lambda naming: f"{naming('logits')}.weight" in arrays)


def num_classes_of(arrays, naming, who):
    """Rows of the classifier in a file."""
    name = f"{naming('logits')}.weight"
    if name not in arrays or arrays[name].ndim != 2:
        raise UserError(f"{who} has no classifier {name} [classes, features]")
    return len(arrays[name])


def check_fit(model, tensors, arrays, who):
    """Refuse arrays that are not those of this network, one for one."""
    missing = [t for t in tensors if t.name not in arrays]
    if missing:
        raise UserError(
            f"{who} lacks what {model.name} needs: "
            + _in_words(f"{t.name} {list(t.shape)}" for t in missing)
        )
    others = [t for t in tensors if not _same_shape(arrays[t.name].shape, t.shape)]
    if others:
        raise UserError(
            f"{who} does not fit {model.name} at {model.input.shape[1]} pixels: "
            + _in_words(
                f"{t.name} is {list(arrays[t.name].shape)}, {list(t.shape)} here" for t in others
            )
            + "; another image size or model option (--set stem=...) may fit"
        )
    left = sorted(set(arrays) - {t.name for t in tensors})
    left = [name for name in left if not name.endswith(COUNTERS)]
    if left:
        raise UserError(f"{who} has what {model.name} has no place for: {_in_words(left)}")


def _same_shape(theirs, ours):
    """timm writes the dense layers of VGG as convolutions: [O, C, H, W] for [O, C * H * W]."""
    flat = (*theirs[:1], int(np.prod(theirs[1:]))) if len(ours) == 2 else theirs
    return tuple(flat) == ours


def _in_words(items):
    items = list(items)
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(items[:MOST_NAMED]) + more


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
