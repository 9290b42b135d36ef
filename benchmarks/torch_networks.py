"""The networks of `keras_imnet64.models` in PyTorch, for `torch_peer.py` to train beside ours.

ResNets are torchvision's and DaViTs are timm's, with the stem and the windows changed where a
recipe asks for it. The wide ResNet of arXiv:1707.08819, small_resnet and tiny_cnn1 are in neither
library and are written here, layer by layer as ours, biases where ours has them. All take
normalised pixels [B, 3, H, W] and return logits [B, K].
"""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from keras_imnet64.core.errors import UserError
from keras_imnet64.models.options import (
    DaViTOptions,
    NetworkOptions,
    ResNetOptions,
    SmallResNetOptions,
    TinyCNNOptions,
    WideResNetOptions,
)

LAST_MAP = 8  # pixels per side of the last map of a wide ResNet


def build_network(options: NetworkOptions, image_size: int, num_classes: int) -> nn.Module:
    """Returns the network of a recipe's table `model`, its weights drawn by PyTorch.

    Raises:
        UserError: PyTorch has no such network here, or not with these options.
    """
    whitened = WideResNetOptions | ResNetOptions | SmallResNetOptions
    if isinstance(options, whitened) and options.whitening:
        raise UserError(
            f"the PyTorch peer has {options.name} without model.whitening: remove it; received "
            f"{options.whitening.model_dump()}"
        )
    if isinstance(options, WideResNetOptions):
        return WideResNet(options, image_size, num_classes)
    if isinstance(options, ResNetOptions):
        return resnet(options.for_record(image_size), num_classes)
    if isinstance(options, SmallResNetOptions):
        return SmallResNet(options, num_classes)
    if isinstance(options, DaViTOptions):
        return davit(options, image_size, num_classes)
    if isinstance(options, TinyCNNOptions) and options.name == "tiny_cnn1":
        return TinyCNN1(options.dropout, image_size, num_classes)
    raise UserError(
        f'the PyTorch peer has no network "{options.name}"; it has wide_resnet, resnet18, '
        "resnet34, resnet50, resnet101, resnet152, wide_resnet50_2, small_resnet, tiny_cnn1 and "
        "those of the davit family"
    )


def conv(inputs: int, outputs: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


def relu() -> nn.ReLU:
    """In place, as torchvision has it: the backward pass needs the result only."""
    return nn.ReLU(inplace=True)


# ------------------------------------------------------------- the wide ResNet, arXiv:1707.08819


class WideBlock(nn.Module):
    """BN ReLU conv BN ReLU conv, the last with a bias; projections take the raw input."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, first: bool, project: bool, dropout: float
    ) -> None:
        super().__init__()
        self.bn_a = nn.Identity() if first else wide_bn(inputs)  # the stem ends with BN and ReLU
        self.relu_a = nn.Identity() if first else relu()
        self.conv_a = conv(inputs, outputs, 3, stride)
        self.bn_b = wide_bn(outputs)
        self.relu_b = relu()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv_b = conv(outputs, outputs, 3, bias=True)
        self.projection = conv(inputs, outputs, 1, stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_a(self.relu_a(self.bn_a(x)))
        y = self.conv_b(self.dropout(self.relu_b(self.bn_b(y))))
        return y + self.projection(x)


class WideResNet(nn.Module):
    """WRN-N-k: `stages` stacks of blocks, or one for each halving of the image down to 8 pixels."""

    def __init__(self, options: WideResNetOptions, image_size: int, num_classes: int) -> None:
        super().__init__()
        fits, num_stacks = True, options.stages
        if num_stacks == "auto":
            num_stacks = 1 + round(np.log2(max(1, image_size / LAST_MAP)))
            fits = LAST_MAP * 2 ** (num_stacks - 1) == image_size
        num_blocks = int(options.depth - 4) // (2 * num_stacks)
        if not fits or options.depth != 4 + 2 * num_blocks * num_stacks or num_blocks < 1:
            raise UserError(
                f"wide_resnet of depth {options.depth} does not fit {image_size} pixels per side: "
                "the size must be 8, 16, 32, ... and the depth 4 + 2 x blocks x stages"
            )
        self.stem_conv, self.stem_bn, self.stem_relu = conv(3, 16, 3), wide_bn(16), relu()
        self.stacks = nn.ModuleList()
        inputs = 16
        for stack in range(num_stacks):
            outputs = int(16 * 2**stack * options.width)
            blocks = nn.Sequential()
            for block in range(num_blocks):
                blocks.append(
                    WideBlock(
                        inputs if block == 0 else outputs,
                        outputs,
                        stride=2 if stack and block == 0 else 1,
                        first=stack == block == 0,
                        project=block == 0,
                        dropout=options.dropout,
                    )
                )
            self.stacks.append(blocks)
            inputs = outputs
        self.end_bn, self.end_relu = wide_bn(inputs), relu()
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.stem_bn(self.stem_conv(x)))
        for stack in self.stacks:
            x = stack(x)
        return self.fc(self.end_relu(self.end_bn(x)).mean((2, 3)))


def wide_bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-4, momentum=0.1)


# -------------------------------------------------------------------------------- small_resnet


class SmallBlock(nn.Module):
    """torchvision's basic block with the shortcut of ResNet-D, which averages before it projects.

    The modules with weights have torchvision's names.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, zero_init: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.relu = relu()
        self.average: nn.Module = nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.average = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        if zero_init:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(self.average(x)))


class SmallResNet(nn.Module):
    """A 3x3 stem, stages of SmallBlocks, the average of the last map."""

    def __init__(self, options: SmallResNetOptions, num_classes: int) -> None:
        super().__init__()
        if options.drop_path_rate:
            raise UserError(
                "the PyTorch peer has small_resnet without model.drop_path_rate: remove it; "
                f"received {options.drop_path_rate}"
            )
        inputs = options.widths[0]
        self.conv1 = conv(3, inputs, 3, options.stem_stride)
        self.bn1, self.relu = nn.BatchNorm2d(inputs), relu()
        stages = list(zip(options.widths, options.blocks, strict=True))
        for number, (outputs, num_blocks) in enumerate(stages, start=1):
            stage = nn.Sequential()
            for block in range(num_blocks):
                stride = 2 if number > 1 and block == 0 else 1
                stage.append(SmallBlock(inputs, outputs, stride, options.zero_init))
                inputs = outputs
            self.add_module(f"layer{number}", stage)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name, stage in self.named_children():
            x = stage(x) if name.startswith("layer") else x
        return self.fc(x.mean((2, 3)))


# ----------------------------------------------------------------------------------- tiny_cnn1


class TinyCNN1(nn.Module):
    """Five convolutions with BN and ReLU, pools after four of them, two dense layers."""

    def __init__(self, dropout: float, image_size: int, num_classes: int) -> None:
        super().__init__()
        last_map = (image_size // 8 + 3) // 2  # the fourth convolution is 2x2, padded by 2
        if image_size < 8:
            raise UserError(f"tiny_cnn1 needs at least 8 pixels per side; received {image_size}")
        layers: dict[str, nn.Module] = {}
        for number in range(1, 6):
            size, inputs = 2 if number == 4 else 5, 3 if number == 1 else 128
            layers[f"conv{number}"] = nn.Conv2d(inputs, 128, size, padding=2)
            layers[f"bn{number}"] = nn.BatchNorm2d(128)
            layers[f"relu{number}"] = relu()
            layers[f"pool{number}"] = nn.MaxPool2d(2) if number < 5 else nn.Flatten()
        layers["dense"] = nn.Linear(128 * last_map**2, 1024)
        layers["dense_relu"] = relu()
        layers["dense_bn"] = nn.BatchNorm1d(1024)
        layers["dropout"] = nn.Dropout(dropout) if dropout else nn.Identity()
        layers["logits"] = nn.Linear(1024, num_classes)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


# -------------------------------------------------------------------------- torchvision's ResNets


def resnet(options: ResNetOptions, num_classes: int) -> nn.Module:
    """torchvision's network; "small" stems have a 3x3 convolution at stride 1."""
    for option in ("anti_aliasing", "drop_path_rate"):
        if getattr(options, option):
            raise UserError(
                f"the PyTorch peer has {options.name} of torchvision, which has no "
                f"model.{option}; received {getattr(options, option)}"
            )
    models = torchvision_models()
    network = getattr(models, options.name)(
        num_classes=num_classes, zero_init_residual=options.zero_init
    )
    if options.stem != "imagenet":
        network.conv1 = conv(3, 64, 3)
    if options.stem == "small":
        network.maxpool = nn.Identity()
    return network


def torchvision_models() -> ModuleType:
    """Imports torchvision, also a build without its compiled operators, which no network uses."""
    try:
        from torchvision import models
    except ImportError:
        raise missing("torchvision") from None
    except RuntimeError:  # the operators that such a build registers gradients for are missing
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_LIBRARY"] = library  # its definitions last as long as this object
        from torchvision import models
    return models


def missing(package: str) -> UserError:
    return UserError(
        f"the PyTorch peer of this network needs {package}, which is not installed: "
        f"pip install {package}"
    )


# ---------------------------------------------------------------------------------- timm's DaViTs


class DaViTStem(nn.Module):
    """Pads to a multiple of the stride, convolves, normalises; timm's own has stride 4 only."""

    def __init__(self, channels: int, size: int, stride: int, padding: int, norm: nn.Module):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, size, stride, padding)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        stride = self.conv.stride[0]
        below, right = -x.shape[2] % stride, -x.shape[3] % stride
        if below or right:
            x = nn.functional.pad(x, (0, right, 0, below))
        return self.norm(self.conv(x))


DAVIT_STEMS = {  # size, stride, padding
    "imagenet": (7, 4, 3),
    "small": (7, 2, 3),
    "small_3x3": (3, 2, 1),
    "full_3x3": (3, 1, 1),
    "full_15x15": (15, 1, 3),
}


def davit(options: DaViTOptions, image_size: int, num_classes: int) -> nn.Module:
    """timm's network with our stems, windows and rates of stochastic depth."""
    torchvision_models()  # which timm imports
    try:
        import timm
        from timm.layers import DropPath
    except ImportError:
        raise missing("timm") from None
    stem = options.stem
    if stem == "auto":
        stem = "small" if image_size <= 64 else "imagenet"
    size, stride, padding = DAVIT_STEMS[stem]
    if image_size < size - 2 * padding:
        raise UserError(f'stem "{stem}" needs at least 9 pixels per side; received {image_size}')
    network = timm.create_model(options.name, num_classes=num_classes)
    channels = network.stem.conv.out_channels
    network.stem = DaViTStem(channels, size, stride, padding, network.stem.norm)

    padded = image_size + -image_size % stride
    first_map = this_map = (padded + 2 * padding - size) // stride + 1
    rates = iter(np.linspace(0, options.drop_path_rate, num_blocks(network)).tolist())
    for number, stage in enumerate(network.stages):
        this_map = -(-this_map // 2) if number else this_map
        for spatial, channel in stage.blocks:
            window = options.window
            if window == "auto":
                window = min(8 if first_map % 7 else 7, this_map)
            spatial.window_size = spatial.attn.window_size = (window, window)
            for block in (spatial, channel):
                if rate := next(rates):
                    block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    return network


def num_blocks(network: nn.Module) -> int:
    return sum(len(pair) for stage in network.stages for pair in stage.blocks)


# -------------------------------------------------------------------------------------- both ends


class Normalized(nn.Module):
    """A network behind the normalisation of its pixels: uint8 [B, H, W, 3] -> logits [B, K]."""

    def __init__(self, network: nn.Module, mean: np.ndarray, std: np.ndarray) -> None:
        """Takes mean and std on the 0..1 scale, [3] or [H, W, 3]."""
        super().__init__()
        self.network = network
        for name, array in {"mean": 255 * mean, "scale": 1 / (255 * std)}.items():
            array = torch.from_numpy(np.asarray(array, "float32"))
            array = array[:, None, None] if array.ndim == 1 else array.permute(2, 0, 1)
            self.register_buffer(name, array)

    def forward(self, pixels: Tensor) -> Tensor:
        """A transposed view of pixels [B, H, W, 3] is what PyTorch calls channels_last."""
        return self.network((pixels.permute(0, 3, 1, 2).float() - self.mean) * self.scale)
