"""Freezes layers of a network by name: they keep their weights, and compute as in evaluation.

Frozen batch normalisation normalises by its moving statistics and leaves them as they are; frozen
dropout and stochastic depth let everything through. Files that ship are not frozen, see `unfrozen`.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import keras

from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.types import Tensor
from keras_imnet64.models.contract import HEAD
from keras_imnet64.models.keras_private import all_layers
from keras_imnet64.models.macs import count_parameters

Freeze: TypeAlias = Sequence[str] | Literal["backbone"]


@dataclass(frozen=True)
class Frozen:
    """What is frozen in a network.

    Attributes:
        layers: the names of the frozen layers, but for those that never train.
        num_parameters: the number of their weights that would train otherwise.
    """

    layers: frozenset[str] = frozenset()
    num_parameters: int = 0


def freeze_layers(network: keras.Model, freeze: Freeze | None) -> Frozen:
    """Freezes layers of a network; call it before the network is compiled.

    Args:
        freeze: the beginnings of layers' names: "stage1" stands for the layer of that name, for
            those whose names go on with "_", "/", "." or "-", such as "stage1_block1_conv1", but
            not for "stage10_conv", and for all layers inside of these; or "backbone", all layers
            but `logits`. None freezes none.

    Raises:
        UserError: a name stands for no layer that trains, or no layer is left that does.
    """
    if freeze is None:
        return Frozen()
    num_before = count_parameters(network)
    chosen = _backbone(network) if freeze == "backbone" else _named(network, freeze)
    names = frozenset(layer.name for layer in chosen if layer.trainable)
    for layer in chosen:
        layer.trainable = False
        _compute_as_in_evaluation(layer)
    num_left = count_parameters(network)
    if not num_left:
        raise UserError(
            f"train.freeze must leave a layer that trains; received {_as_toml(freeze)}, which "
            f"stands for every layer of {network.name} that has weights"
        )
    return Frozen(names, num_before - num_left)


@contextmanager
def unfrozen(model: keras.Model, frozen: Frozen) -> Iterator[None]:
    """Lets the layers of a frozen network's copy train within the context.

    A file that is written there trains as a whole wherever it is loaded: which layers are frozen
    is a setting of the run and not of the network.
    """
    layers = [layer for layer in all_layers(model) if layer.name in frozen.layers]
    for layer in layers:
        layer.trainable = True
    try:
        yield
    finally:
        for layer in layers:
            layer.trainable = False


def _backbone(network: keras.Model) -> list[keras.Layer]:
    if HEAD not in [layer.name for layer in network.layers]:
        raise UserError(
            f'train.freeze = "backbone" freezes all layers but "{HEAD}", which {network.name} does '
            'not have: name the layers to freeze, such as train.freeze = ["stage1"]'
        )
    head = [id(layer) for layer in all_layers(network.get_layer(HEAD))]
    return [layer for layer in _single_layers(network) if id(layer) not in head]


def _named(network: keras.Model, names: Sequence[str]) -> list[keras.Layer]:
    chosen: dict[int, keras.Layer] = {}
    for name in names:
        around = [layer for layer in all_layers(network, False) if _begins_with(layer, name)]
        found = [inner for layer in around for inner in _single_layers(layer)]
        if not any(layer.trainable and layer.weights for layer in found):
            known = nearest(name, _beginnings(network))
            if name == "backbone":
                known = f'for all layers but {HEAD}, write train.freeze = "backbone", not a list'
            raise UserError(
                f"train.freeze must name layers of {network.name} that have weights and train, by "
                f'the beginning of their names; received "{name}": {known}'
            )
        chosen |= {id(layer): layer for layer in found}
    return list(chosen.values())


def _single_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer and those inside of it, at all depths, but no models."""
    return [each for each in all_layers(layer) if not isinstance(each, keras.Model)]


def _begins_with(layer: keras.Layer, name: str) -> bool:
    """Whether a layer's name begins with a name, or its path, such as "attention/query"."""
    texts = [text for text in (layer.name, layer.path) if text and text.startswith(name)]
    return any(text == name or text[len(name)] in "_/.-" for text in texts)


def _beginnings(network: keras.Model) -> list[str]:
    """Returns the first words of the names of layers that train, such as "stage1", in order."""
    names = [layer.name for layer in _single_layers(network) if layer.trainable and layer.weights]
    return list(dict.fromkeys(re.split("[_/.-]", name)[0] for name in names))


def _compute_as_in_evaluation(layer: keras.Layer) -> None:
    """Makes a layer compute as if it did not train, whatever its caller says."""
    call = layer.call
    if "training" not in inspect.signature(call).parameters:
        return

    def evaluate(*args: Tensor, **options: object) -> Tensor:
        return call(*args, **options | {"training": False})

    layer.call = evaluate


def _as_toml(freeze: Freeze) -> str:
    if isinstance(freeze, str):
        return f'"{freeze}"'
    return "[" + ", ".join(f'"{name}"' for name in freeze) + "]"
