"""The same network on smaller images: its layers and variables, in a graph for another size.

A graph of Keras' layers may hold the size of its maps: DaViT's windows are reshaped by fixed
numbers. So the graph for a smaller size is that of a pattern, a network of the same structure built
for that size without weights; each of its layers that has variables is replaced by that of the
network itself. A network that comes without a pattern is its own. Nothing here trains.
"""

from collections.abc import Callable, Sequence

import keras
from keras import layers

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.types import Tensor
from keras_imnet64.models import keras_private
from keras_imnet64.models.keras_private import Graph, all_layers, calls_of, graph_of, run_graph

FIXED = (layers.Reshape, layers.Cropping2D, layers.Lambda, keras_private.Reshape)


def network_at(network: keras.Model, size: int, pattern: keras.Model | None = None) -> keras.Model:
    """Returns a model of a network's layers, and so of its variables, that takes smaller images.

    Args:
        network: a functional or sequential model that takes square images.
        size: pixels per side.
        pattern: a network of the same structure, built for images of that size; None takes the
            network's own graph.

    Raises:
        UserError: the network does not work on images of that size, or would need other weights.
    """
    graph = check_takes_sizes(network)
    if pattern is None:
        _check_own_graph(network, graph)
    else:
        graph = _graph_of(pattern)
        _check_same_layers(network, pattern, size)
    own = {layer.name: layer for layer in network.layers if layer.variables}

    def of_network(operation: keras.Operation) -> Callable[..., Tensor]:
        layer: Callable[..., Tensor] = own.get(operation.name, operation)
        return layer

    pixels = keras.Input((size, size, 3), dtype=network.inputs[0].dtype)
    try:
        outputs = run_graph(graph, [pixels], of_network)
    except Exception as error:  # a layer may raise any exception
        raise UserError(
            f'train.sizes: the network "{network.name}" does not work on {size} pixels: '
            f"{reason(error)}; leave that size out"
        ) from error
    small = keras.Model(pixels, outputs, name=network.name)
    _check_maps(_graph_of(small), network.name, size)
    return small


def check_takes_sizes(network: keras.Model) -> Graph:
    """Returns the graph of a network that is not made for images of one size alone.

    Raises:
        UserError: it has no graph, or dense layers on the pixels of a map, of which each size has
            its own number.
    """
    graph = _graph_of(network)
    for call in calls_of(graph):
        height, width = (*call.inputs[0].shape[1:3], 1, 1)[:2]
        if isinstance(call.operation, layers.Flatten) and max(height, width) > 1:
            raise UserError(
                f"train.sizes does not work with {network.name}, whose layer "
                f'"{call.operation.name}" flattens a map of {height} x {width} for a dense layer: '
                "choose a network that averages its last map, such as a residual one, or remove "
                "train.sizes"
            )
    return graph


def _graph_of(network: keras.Model) -> Graph:
    graph = graph_of(network)
    if graph is None:
        raise UserError(
            "train.sizes needs a functional or sequential model; received a "
            f"{type(network).__name__}: remove it, or build the model of Keras' layers"
        )
    return graph


def _check_own_graph(network: keras.Model, graph: Graph) -> None:
    """Refuses layers that hold the size of a map, and would mix up pixels at another size."""
    for layer in [*all_layers(network), *graph.operations]:
        per_pixel = isinstance(layer, layers.Normalization) and layer.axis not in ((-1,), (3,))
        if isinstance(layer, FIXED) or per_pixel:
            raise UserError(
                f'train.sizes does not work with layer "{layer.name}", a {type(layer).__name__}, '
                "which holds the size of its map: remove one of the two"
            )


def _check_same_layers(network: keras.Model, pattern: keras.Model, size: int) -> None:
    """Refuses a network whose weights depend on the size of the images."""
    at_full, at_size = _weights(network), _weights(pattern)
    full = network.inputs[0].shape[1]
    for name in [*at_full, *at_size]:
        if at_full.get(name) != at_size.get(name):
            raise UserError(
                f'train.sizes does not work with {network.name}, whose layer "{name}" has weights '
                f"of shape {_shown(at_full.get(name))} at {full} pixels and would need "
                f"{_shown(at_size.get(name))} at {size}: choose a network that averages its last "
                "map, such as a residual one, or remove train.sizes"
            )


def _weights(network: keras.Model) -> dict[str, list[tuple[int, ...]]]:
    """Returns the shapes of the weights of each layer by name."""
    found = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in network.layers}
    return {name: shapes for name, shapes in found.items() if shapes}


def _shown(shapes: Sequence[tuple[int, ...]] | None) -> str:
    return " and ".join(str(list(shape)) for shape in shapes) if shapes else "none"


def _check_maps(graph: Graph, name: str, size: int) -> None:
    """Refuses images so small that a layer would subsample a map without a pixel to spare."""
    for call in calls_of(graph):
        strides = getattr(call.operation, "strides", 1)
        stride = max(strides) if isinstance(strides, list | tuple) else strides
        map_size = call.inputs[0].shape[1]
        if stride > 1 and map_size < stride:
            raise UserError(
                f"train.sizes: {size} pixels are too few for {name}, whose layer "
                f'"{call.operation.name}" would subsample a map of {map_size}: choose a larger size'
            )
