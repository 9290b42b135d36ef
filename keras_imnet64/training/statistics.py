"""Measures the statistics of batch normalisation anew, with weights that no longer change.

While a run trains, they are moving averages over steps whose weights, and with `train.sizes` whose
images, were others than those that ship. Each statistic becomes the mean over some batches of
training images, as in PyTorch's `update_bn`, but only batch normalisation works as in training:
dropout drops nothing, as in evaluation. Frozen batch normalisation keeps its statistics. Variances
are biased, divided by the number of values, as Keras' are; PyTorch's `update_bn` records unbiased
ones.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import keras
import numpy as np
from keras import layers, ops

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Tensor, Variable
from keras_imnet64.models.keras_private import (
    Graph,
    all_layers,
    call_graph,
    calls_of,
    graph_of,
    with_training,
)
from keras_imnet64.recipe.schema import Recipe

Statistics = list[np.ndarray]  # mean and variance of each normalisation, float64
Moments: TypeAlias = Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]


def check_statistics(recipe: Recipe, network: keras.Model) -> None:
    """Refuses `train.remeasure_statistics` for a network that has none to measure; needs no images.

    A network without a known graph passes: `make_model` refuses it.
    """
    num_batches, graph = recipe.train.remeasure_statistics, graph_of(network)
    if not num_batches or graph is None:
        return
    norms = _norms_of(network)
    if not norms:
        found = [each for each in all_layers(network) if _is_norm(each)]
        lacks = (
            "whose batch normalisation is frozen" if found else "which has no batch normalisation"
        )
        raise UserError(
            f"train.remeasure_statistics has no use for {network.name}, {lacks}: remove it; "
            f"received {num_batches}"
        )
    num_calls = _count_calls(graph)
    for norm in norms:
        count = num_calls[id(norm)]
        if count != 1:
            reason = f"is called {count} times" if count else "is called by a layer around it"
            raise UserError(
                "train.remeasure_statistics needs batch normalisation that the model itself calls, "
                f'and once; received "{norm.name}", which {reason}: remove '
                "train.remeasure_statistics or use separate layers"
            )


def _count_calls(graph: Graph) -> Counter[int]:
    """Returns {id of a layer or operation: its calls in a graph}, those of nested models too."""
    counts: Counter[int] = Counter()
    for call in calls_of(graph):
        counts[id(call.operation)] += 1
        nested = graph_of(call.operation)
        if nested is not None:
            counts.update(_count_calls(nested))
    return counts


def remeasure(
    model: keras.Model,
    batches: Iterable[np.ndarray],
    num_batches: int,
    devices: Devices,
    per_device: bool = False,
) -> None:
    """Replaces the moving means and variances of a model by those of some batches.

    Each device computes its part of a batch, as in training. The statistics are those of the whole
    batch, in which every normalisation is by the whole batch too.

    Args:
        model: a functional or sequential float32 model, pixels [B, H, W, 3] -> logits, built within
            `devices.scope()`; `check_statistics` accepts it.
        batches: uint8 pixels [B, H, W, 3]; `num_batches` of one shape.
        per_device: whether TensorFlow's devices normalise their parts by themselves, as they train
            with `train.batch_norm = "per_device"`; the statistics are then means over the parts.
    """
    graph = graph_of(model)
    assert graph is not None  # `fit` has a copy of Keras' own layers
    norms = _norms_of(model)
    measure = _compile(model, graph, norms, devices, per_device)
    totals: Statistics | None = None
    with Activity("measuring the statistics of batch normalisation") as measuring:
        for number, pixels in enumerate(batches):
            measuring.count(number, num_batches)
            parts = distribute(pixels, devices)
            found = [np.asarray(each, "float64") for each in measure(parts)]
            totals = (
                found if totals is None else [a + b for a, b in zip(totals, found, strict=True)]
            )
    assert totals is not None  # there is a batch at least
    for variable, total in zip(_statistics_of(norms), totals, strict=True):
        variable.assign((total / num_batches).astype("float32"))


def _is_norm(layer: keras.Operation) -> bool:
    return isinstance(layer, layers.BatchNormalization)


def _norms_of(model: keras.Model) -> list[layers.BatchNormalization]:
    """Returns those that train; a frozen one normalises by its moving statistics in training."""
    return [each for each in all_layers(model) if _is_norm(each) and each.trainable]


def _statistics_of(norms: Sequence[layers.BatchNormalization]) -> list[Variable]:
    return [each for norm in norms for each in (norm.moving_mean, norm.moving_variance)]


def distribute(pixels: np.ndarray, devices: Devices) -> Tensor:
    """Returns a batch of which each device has an equal part; on one device the batch itself.

    Args:
        pixels: [B, H, W, 3]; of several processes, each gives its own rows.
    """
    if devices.strategy is None:
        return pixels
    if devices.backend == "jax":
        import jax

        layout = devices.strategy.get_data_layout(pixels.shape).backend_layout
        return jax.make_array_from_process_local_data(layout, pixels)
    parts = np.split(pixels, devices.count)
    return devices.strategy.experimental_distribute_values_from_function(
        lambda context: ops.convert_to_tensor(parts[context.replica_id_in_sync_group])
    )


def _compile(
    model: keras.Model,
    graph: Graph,
    norms: Sequence[layers.BatchNormalization],
    devices: Devices,
    per_device: bool,
) -> Callable[[Tensor], Sequence[Tensor]]:
    """Returns a function from pixels to the mean and variance of each normalisation's input."""
    spans_devices = devices.backend == "tensorflow" and devices.strategy is not None
    moments = _moments_over_devices if spans_devices and not per_device else _moments

    def measure(pixels: Tensor) -> list[Tensor]:
        found: dict[int, tuple[Tensor, Tensor]] = {}
        _run(graph, ops.cast(pixels, "float32"), found, moments)
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

    def measure_on_all(parts: Tensor) -> list[Tensor]:
        found = devices.strategy.run(measure, args=(parts,))
        return [devices.strategy.reduce("MEAN", each, axis=None) for each in found]

    compiled: Callable[[Tensor], Sequence[Tensor]] = tf.function(
        measure_on_all if spans_devices else measure, autograph=False
    )
    return compiled


def _moments(inputs: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Under JAX these are of the whole batch, of which each device has a part."""
    mean, variance = ops.moments(inputs, axes=axes)
    return mean, variance


def _moments_over_devices(inputs: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns those of the equal parts of all replicas of tf.distribute."""
    import tensorflow as tf

    def mean_of(values: Tensor) -> Tensor:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, ops.mean(values, axis=axes))

    mean = mean_of(inputs)
    shape = [1 if axis in axes else size for axis, size in enumerate(inputs.shape)]
    return mean, mean_of(ops.square(inputs - ops.reshape(mean, shape)))


def _run(
    graph: Graph, inputs: Tensor, found: dict[int, tuple[Tensor, Tensor]], moments: Moments
) -> Tensor:
    """Runs a graph as in evaluation, but normalises each batch by its own statistics."""

    def replace(operation: keras.Operation) -> Callable[..., Tensor]:
        nested = graph_of(operation)
        if nested is not None:
            return lambda inputs, **_: _run(nested, inputs, found, moments)
        if _is_norm(operation) and operation.trainable:
            return lambda inputs, **_: _normalize(operation, inputs, found, moments)
        return with_training(operation, False)

    return call_graph(graph, inputs, replace)


def _normalize(
    norm: layers.BatchNormalization,
    inputs: Tensor,
    found: dict[int, tuple[Tensor, Tensor]],
    moments: Moments,
) -> Tensor:
    """Does what Keras' layer does in training, and notes the statistics."""
    axis = norm.axis % len(inputs.shape)
    others = [each for each in range(len(inputs.shape)) if each != axis]
    mean, variance = found[id(norm)] = moments(inputs, others)
    return ops.batch_normalization(
        inputs, mean, variance, axis, norm.beta, norm.gamma, norm.epsilon
    )
