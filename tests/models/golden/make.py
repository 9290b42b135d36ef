"""Freezes what the references compute: logits.json and training.npz beside this file.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31
    python tests/models/golden/make.py

With those versions, on a CPU, this made the files in the tree. The tests do not need the three.

The references are torchvision's and timm's networks and blocks, filled by `rule`. For the paper's
WRN, whose Lasagne script no longer runs, a plain PyTorch version of it stands below. They run in
float64, so that what the tests measure is our own rounding. Parameters are laid out as PyTorch has
them, images and maps are [B, H, W, C].
"""

import json
import math
from pathlib import Path

import numpy as np
import rule
import torch
from torch import nn

try:
    import torchvision  # noqa: F401
except RuntimeError:  # a build without its compiled operators; no network here uses them
    LIBRARY = torch.library.Library("torchvision", "DEF")
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
from timm.models.davit import ChannelBlock, SpatialBlock
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

HERE = Path(__file__).parent
NUM_CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main():
    logits = {case: freeze_logits(*reference) for case, reference in NETWORKS.items()}
    vggs = {name: timm_tensors(name) for name in ("vgg16", "vgg16_bn")}
    write_json(HERE / "logits.json", {"networks": logits, "timm tensors": vggs})
    arrays = {}
    for case, (module, shape) in BLOCKS.items():
        step = freeze_step(module, shape)
        arrays |= {f"{case}/{name}": array.astype("float32") for name, array in step.items()}
    np.savez_compressed(HERE / "training.npz", **arrays)


# ------------------------------------------------------------- the paper's WRN, arXiv:1707.08819


def conv(inputs, outputs, size, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


def bn(channels):
    return nn.BatchNorm2d(channels, eps=1e-4, momentum=0.1)


class WideBlock(nn.Module):
    """BN ReLU conv BN ReLU conv, only the last with bias; projections take the raw input."""

    def __init__(self, inputs, outputs, stride=1, first_of_all=False, project=False):
        super().__init__()
        self.bn_a = None if first_of_all else bn(inputs)
        self.conv_a = conv(inputs, outputs, 3, stride)
        self.bn_b = bn(outputs)
        self.conv_b = conv(outputs, outputs, 3, bias=True)
        self.projection = conv(inputs, outputs, 1, stride) if project else nn.Identity()

    def forward(self, x):
        y = x if self.bn_a is None else self.bn_a(x).relu()
        y = self.conv_a(y)
        y = self.conv_b(self.bn_b(y).relu())
        return y + self.projection(x)


class WideResNet(nn.Module):
    """Stacks of four blocks; the last map has 8x8 pixels."""

    def __init__(self, image_size, width):
        super().__init__()
        self.stem_conv, self.stem_bn = conv(3, 16, 3), bn(16)
        self.stacks = nn.ModuleList()
        channels = 16
        for stack in range(1 + int(math.log2(image_size // 8))):
            self.stacks.append(self.stack(stack, channels, 16 * width * 2**stack))
            channels = 16 * width * 2**stack
        self.end_bn, self.fc = bn(channels), nn.Linear(channels, NUM_CLASSES)

    @staticmethod
    def stack(number, inputs, outputs):
        stride = 1 if number == 0 else 2
        first = WideBlock(inputs, outputs, stride, first_of_all=number == 0, project=True)
        return nn.Sequential(first, *(WideBlock(outputs, outputs) for _ in range(3)))

    def forward(self, x):
        x = self.stem_bn(self.stem_conv(x)).relu()
        for stack in self.stacks:
            x = stack(x)
        return self.fc(self.end_bn(x).relu().mean((2, 3)))


# ---------------------------------------------------------------------------------------- logits


def of_torchvision(name):
    return getattr(models, name)(num_classes=NUM_CLASSES)


def of_timm(name):
    return timm.create_model(name, num_classes=NUM_CLASSES)


def small_pool(name):
    """The max pool is kept, the 7x7 convolution is not."""
    network = of_torchvision(name)
    network.conv1 = conv(3, 64, 3)
    return network


NETWORKS = {  # case: function, its arguments, pixels per side
    "wrn36_2_64": (WideResNet, (64, 2), 64),
    "wrn28_2_32": (WideResNet, (32, 2), 32),
    "resnet18": (of_torchvision, ("resnet18",), 224),
    "resnet34": (of_torchvision, ("resnet34",), 224),
    "resnet50": (of_torchvision, ("resnet50",), 224),
    "resnet101_64": (of_torchvision, ("resnet101",), 64),
    "resnet152_64": (of_torchvision, ("resnet152",), 64),
    "wide_resnet50_2": (of_torchvision, ("wide_resnet50_2",), 224),
    "wide_resnet50_2_64": (of_torchvision, ("wide_resnet50_2",), 64),
    "wide_resnet50_2_small_pool_64": (small_pool, ("wide_resnet50_2",), 64),
    "resnet18_anti_aliasing_64": (of_timm, ("resnetblur18",), 64),
    "davit_tiny": (of_timm, ("davit_tiny",), 224),
    "davit_tiny_64": (of_timm, ("davit_tiny",), 64),
    "davit_small": (of_timm, ("davit_small",), 224),
    "alexnet": (of_torchvision, ("alexnet",), 224),
    "vgg16": (of_torchvision, ("vgg16",), 224),
    "vgg16_bn": (of_torchvision, ("vgg16_bn",), 224),
}


def freeze_logits(reference, arguments, image_size):
    network = fill(reference(*arguments)).eval()
    images = rule.images(image_size) / 255.0
    images = (images - MEAN) / STD
    with torch.no_grad():
        logits = network(channels_first(images)).numpy()
    print(reference.__name__, *arguments, image_size, np.array2string(logits, precision=3))
    return {
        "image_size": image_size,
        "tensors": rule.digest(shapes_of(network)),
        "logits": [[float(f"{logit:.8g}") for logit in row] for row in logits],
    }


def timm_tensors(name):
    """The digest of timm's VGG; its dense layers, written as convolutions, count as flattened."""
    with torch.device("meta"):
        shapes = shapes_of(of_timm(name))
    for dense in ("pre_logits.fc1.weight", "pre_logits.fc2.weight"):
        outputs, *inputs = shapes[dense]
        shapes[dense] = (outputs, math.prod(inputs))
    return rule.digest(shapes)


def fill(module):
    """In float64, with the rule's numbers for every parameter and running statistic."""
    module = module.double()
    with torch.no_grad():
        for name, tensor in tensors_of(module).items():
            tensor.copy_(torch.from_numpy(rule.values(name, tuple(tensor.shape))))
    return module


def tensors_of(module):
    state = module.state_dict()
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


def shapes_of(module):
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(module).items()}


def channels_first(array):
    return torch.from_numpy(np.ascontiguousarray(array.astype("float64").transpose(0, 3, 1, 2)))


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


# ----------------------------------------------------------------------------- one training step


def basic_block():
    projection = nn.Sequential(conv(6, 8, 1, 2), nn.BatchNorm2d(8))
    return BasicBlock(6, 8, stride=2, downsample=projection)


def bottleneck_block():
    projection = nn.Sequential(conv(6, 16, 1, 2), nn.BatchNorm2d(16))
    return Bottleneck(6, 4, stride=2, downsample=projection)


def vgg_layer():
    """As torchvision's vgg16_bn begins: a biased convolution, BN, ReLU."""
    return nn.Sequential(conv(6, 8, 3, bias=True), nn.BatchNorm2d(8), nn.ReLU())


BLOCKS = {  # case: module, the shape of its input
    "wide_resnet": (WideBlock(6, 8, stride=2, project=True), (3, 6, 6, 6)),
    "basic": (basic_block(), (3, 6, 6, 6)),
    "bottleneck": (bottleneck_block(), (3, 7, 7, 6)),
    "window": (SpatialBlock(8, num_heads=2, window_size=4), (3, 6, 6, 8)),
    "channel": (ChannelBlock(8, num_heads=2, qkv_bias=True), (3, 6, 6, 8)),
    "vgg": (vgg_layer(), (3, 8, 8, 6)),
}


def freeze_step(module, shape):
    """Output, gradients and running statistics of a loss that is a weighted sum of the output."""
    module = fill(module).train()
    x = channels_first(rule.uniform("input", shape)).requires_grad_()
    output = module(x)
    weights = rule.uniform("loss", channels_last(output).shape)
    (output * channels_first(weights)).sum().backward()
    arrays = {"output": channels_last(output), "gradient/input": channels_last(x.grad)}
    for name, parameter in module.named_parameters():
        arrays[f"gradient/{name}"] = parameter.grad.numpy()
    for name, tensor in tensors_of(module).items():
        if "running" in name:
            arrays[f"after/{name}"] = tensor.numpy()
    return arrays


def write_json(path, content):
    """A line for each row of logits."""
    text = json.dumps(content, indent=1)
    path.write_text(text.replace("\n     ", " ").replace("\n    ]", " ]") + "\n")


if __name__ == "__main__":
    main()
