"""Measures the statistics of batch normalisation anew, with weights that no longer change.

While a run trains, they are moving averages over steps whose weights, and with `train.sizes` whose
pictures, were others than those that ship. Each statistic becomes the mean over some batches of
training images, as in PyTorch's `update_bn`, but only batch normalisation works as in training:
dropout drops nothing, as in evaluation.
"""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Tensor, Variable
from keras_imnet64.models.keras_private import (
    Graph,
    all_layers,
    graph_inputs,
    graph_of,
    run_graph,
    with_training,
)
from keras_imnet64.recipe.schema import Recipe

Statistics = list[np.ndarray]  # mean and variance of each normalisation, float64


def check_statistics(recipe: Recipe, network: keras.Model) -> None:
    """Refuses `train.remeasure_statistics` for a network that has none; needs no images."""
    if recipe.train.remeasure_statistics and not _norms_of(network):
        raise UserError(
            f"train.remeasure_statistics has no use for {network.name}, which has no batch "
            f"normalisation: remove it; received {recipe.train.remeasure_statistics}"
        )


def remeasure(model: keras.Model, batches: Iterable[np.ndarray], num_batches: int) -> None:
    """Replaces the moving means and variances of a model by those of some batches.

    Args:
        model: a functional or sequential float32 model, pixels [B, H, W, 3] -> logits.
        batches: uint8 pixels [B, H, W, 3]; at least `num_batches` of one shape.
    """
    graph = graph_of(model)
    assert graph is not None  # `fit` has a copy of Keras' own layers
    norms = _norms_of(model)
    measure = _compile(model, graph, norms)
    totals: Statistics | None = None
    with Activity("measuring the statistics of batch normalisation") as measuring:
        for number, (_, pixels) in enumerate(zip(range(num_batches), batches, strict=False)):
            measuring.count(number, num_batches)
            found = [np.asarray(each, "float64") for each in measure(pixels)]
            totals = (
                found if totals is None else [a + b for a, b in zip(totals, found, strict=True)]
            )
    assert totals is not None  # there is a batch at least
    for variable, total in zip(_statistics_of(norms), totals, strict=True):
        variable.assign((total / num_batches).astype("float32"))


def _norms_of(model: keras.Model) -> list[layers.BatchNormalization]:
    return [each for each in all_layers(model) if isinstance(each, layers.BatchNormalization)]


def _statistics_of(norms: Sequence[layers.BatchNormalization]) -> list[Variable]:
    return [each for norm in norms for each in (norm.moving_mean, norm.moving_variance)]


def _compile(
    model: keras.Model, graph: Graph, norms: Sequence[layers.BatchNormalization]
) -> Callable[[np.ndarray], Sequence[Tensor]]:
    """Returns a function from pixels to the mean and variance of each normalisation's input."""

    def measure(pixels: Tensor) -> list[Tensor]:
        found: dict[int, list[Tensor]] = {}
        _run(graph, ops.cast(pixels, "float32"), found)
        return [each for norm in norms for each in found[id(norm)]]

    if keras.backend.backend() == "jax":
        import jax

        variables = model.variables

        def stateless(values: Sequence[Tensor], pixels: Tensor) -> list[Tensor]:
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(mapping):
                return measure(pixels)

        run = jax.jit(stateless)
        values = [variable.value for variable in variables]
        return lambda pixels: run(values, pixels)
    import tensorflow as tf

    compiled: Callable[[np.ndarray], Sequence[Tensor]] = tf.function(measure, autograph=False)
    return compiled


def _run(graph: Graph, inputs: Tensor, found: dict[int, list[Tensor]]) -> Tensor:
    """Runs a graph as in evaluation, but normalises each batch by its own statistics."""

    def replace(operation: keras.Operation) -> Callable[..., Tensor]:
        nested = graph_of(operation)
        if nested is not None:
            return lambda inputs, **_: _run(nested, inputs, found)
        if isinstance(operation, layers.BatchNormalization):
            return lambda inputs, **_: _normalize(operation, inputs, found)
        return with_training(operation, False)

    outputs = run_graph(graph, graph_inputs(graph, inputs), replace)
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs


def _normalize(
    norm: layers.BatchNormalization, inputs: Tensor, found: dict[int, list[Tensor]]
) -> Tensor:
    """Does what Keras' layer does in training, and notes the statistics."""
    axis = norm.axis % len(inputs.shape)
    others = [each for each in range(len(inputs.shape)) if each != axis]
    mean, variance = ops.moments(inputs, axes=others)
    found[id(norm)] = [mean, variance]
    return ops.batch_normalization(
        inputs, mean, variance, axis, norm.beta, norm.gamma, norm.epsilon
    )
