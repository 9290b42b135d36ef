"""The private parts of Keras (3.15) that this package uses, each under a plain public name.

Each function says what it is needed for and what would replace it. If Keras changes a private part,
only two modules have to follow: this one, and `training/optim.py`, whose optimizers override
private methods. `ALLOWED` in `tests/models/test_keras_private.py` lists those; the test finds all
other uses.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np
from keras.src.backend import StatelessScope
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.models.functional import operation_fn
from keras.src.ops import nn, numpy
from keras.src.ops.function import Function
from keras.src.utils import is_default

from keras_imnet64.core.types import Logs, Tensor, Variable

Graph: TypeAlias = Function  # the operations of a functional model and the tensors between them

# ------------------------------------------------------------------------------ layers of a model


def all_layers(model: keras.Model, include_self: bool = True) -> list[keras.Layer]:
    """Returns the layers of a model at all depths; `model.layers` has those of the first level.

    Needed to reach the layers inside nested models and wrappers. To be replaced by a public
    iterator over all depths.
    """
    return list(model._flatten_layers(include_self=include_self))


def names_from_outside(model: keras.Model) -> dict[int, str]:
    """Returns {id of a layer: the names of the layers around it and its own, such as "block/drop"}.

    Needed to tell layers of one name apart. A layer that was built by the layer around it may have
    no path of its own. To be replaced by `layer.path` once every layer has one.
    """
    names: dict[int, str] = {}
    waiting = [(layer, layer.name) for layer in model._layers]
    while waiting:
        layer, name = waiting.pop()
        if names.setdefault(id(layer), name) == name:
            waiting += [(inner, f"{name}/{inner.name}") for inner in layer._layers]
    return names


def own_variables(layer: keras.Layer) -> list[Variable]:
    """Returns the weights of a layer without those of the layers inside it.

    Needed to find the initialiser of each weight, which only the owner has. `layer.variables` also
    has those of inner layers; a public property without them would replace this.
    """
    return layer._trainable_variables + layer._non_trainable_variables


def layer_seed_generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """Returns the seed generators of a layer, such as those of dropout.

    Needed because Keras numbers their variables in each process: the layer's name is stable. To be
    replaced once Keras puts the layer into the path of the variable.
    """
    return layer._seed_generators


def attention_gate(layer: keras.layers.MultiHeadAttention) -> Variable | None:
    """Returns the kernel of the output gate of an attention layer, or None without a gate.

    Needed to count its multiplications. To be replaced by a public property beside `query_dense`.
    """
    return layer._gate_dense.kernel if layer._use_gate else None


# ------------------------------------------------------------------------------ graph of a model


def producer(tensor: Tensor) -> keras.Operation:
    """Returns the layer or operation of a functional model that outputs a symbolic tensor.

    Needed to find the last layer of a model and the layer before another. `keras.Operation.output`
    gives only the opposite direction; a public attribute of KerasTensor would replace this.
    """
    return tensor._keras_history.operation


def graph_of(operation: keras.Operation) -> Graph | None:
    """Returns the graph inside a functional or sequential model; None for everything else.

    Needed to visit every call of every layer. Keras has no public class for a graph, and that of a
    Sequential is private.
    """
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, Function) else None


def run_graph(
    graph: Graph,
    inputs: Sequence[Tensor],
    replace: Callable[[keras.Operation], Callable[..., Tensor]],
) -> Tensor:
    """Runs a graph with `replace(operation)` called instead of each operation.

    Needed to count multiplications call by call, and to train with faster functions.
    `keras.models.clone_model(call_function=...)` is public, but builds a new model and adds nodes
    to shared layers.
    """
    return graph._run_through_graph(inputs, replace)


@dataclass(frozen=True)
class Call:
    """One call of a layer or an operation in a graph."""

    operation: keras.Operation
    inputs: tuple[Tensor, ...]  # KerasTensors of the graph
    outputs: tuple[Tensor, ...]
    options: Mapping[str, object]  # keyword arguments that the call was made with


def calls_of(graph: Graph) -> list[Call]:
    """Returns the calls of a graph in the order in which `run_graph` makes them.

    Needed to cut a graph where one tensor passes, and to know which calls consume a tensor within
    one model: a layer lists its calls in all models that share it. Public properties of the graph's
    nodes would replace this.
    """
    by_depth = graph._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [
        Call(
            node.operation,
            tuple(node.input_tensors),
            tuple(node.outputs),
            dict(node.arguments.kwargs),
        )
        for node in nodes
        if not node.is_input
    ]


def graph_inputs(graph: Graph, inputs: Tensor) -> list[Tensor]:
    """Returns the inputs of a functional model's call as a list, each of its expected dtype.

    Needed to replace that call. To be replaced by a public hook for the middle of it.
    """
    return list(graph._standardize_inputs(inputs))


def graph_outputs(graph: Graph, outputs: Sequence[Tensor]) -> Tensor:
    """Returns the outputs of a functional model's call in its structure, see `graph_inputs`."""
    return _without_list_of_one(keras.tree.pack_sequence_as(graph._outputs_struct, list(outputs)))


def call_graph(
    graph: Graph, inputs: Tensor, replace: Callable[[keras.Operation], Callable[..., Tensor]]
) -> Tensor:
    """Returns what the call of a functional model returns, run as by `run_graph`."""
    return _without_list_of_one(run_graph(graph, graph_inputs(graph, inputs), replace))


def _without_list_of_one(outputs: Tensor) -> Tensor:
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs


def has_mask(tensor: Tensor) -> bool:
    """Returns whether a layer before has left a mask on a tensor.

    Needed because only layers heed masks, and functions in their place do not.
    `keras.src.backend.get_keras_mask` is not public; a public one would replace this.
    """
    return getattr(tensor, "_keras_mask", None) is not None


def with_training(operation: keras.Operation, training: bool) -> Callable[..., Tensor]:
    """Returns an operation that is told whether it trains, whatever call surrounds it.

    Needed to run parts of a graph, or all of it, in place of a call of its model. Whether a layer
    takes `training` is known to its private `_call_context_args` alone; a public way to call layers
    with it if they take it would replace this.
    """
    return operation_fn(operation, training=training)


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Lets variables have their own dtype: layers still cast to theirs when they are called.

    Needed to read variables in a call of a model whose policy is mixed_bfloat16. A public property
    for the value as it is stored would replace this.
    """
    outer = get_global_attribute("autocast_scope")
    set_global_attribute("autocast_scope", None)
    try:
        yield
    finally:
        set_global_attribute("autocast_scope", outer)


# Kinds of operations in a graph. `keras.ops` has public functions, but no public classes to compare
# a graph's operations with.
Conv = nn.Conv
ConvTranspose = nn.ConvTranspose
DepthwiseConv = nn.DepthwiseConv
Dot = numpy.Dot
DotProductAttention = nn.DotProductAttention
Einsum = numpy.Einsum
Inner = numpy.Inner
LeakyRelu = nn.LeakyRelu
Matmul = numpy.Matmul
MaxPool = nn.MaxPool
Relu = nn.Relu
Relu6 = nn.Relu6
Reshape = numpy.Reshape
SeparableConv = nn.SeparableConv
Tensordot = numpy.Tensordot


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Builds models with shapes but without values: 1.4 billion weights take no memory.

    Needed to count and compare networks of any size. Keras has no public equivalent; a device
    "meta", as in PyTorch, would replace this. The list of uninitialised variables is restored at
    the end, because the next scope would create the variables in it.
    """
    uninitialized = list(get_global_attribute("uninitialized_variables", []))
    try:
        with StatelessScope(initialize_variables=False):
            yield
    finally:
        set_global_attribute("uninitialized_variables", uninitialized)


def are_without_weights() -> bool:
    """Returns whether models are being built in `without_weights`, so that they have no values."""
    return in_stateless_scope()


# ------------------------------------------------------------------------------------- training


def loss_tracker(model: keras.Model) -> keras.metrics.Metric:
    """Returns the metric that averages the loss of a compiled model over an epoch.

    Needed because its state belongs to a checkpoint between two epochs. `model.metrics` lists it
    only once the first step has been built; listing it earlier would replace this.
    """
    return model._loss_tracker


def step_function(model: keras.Model) -> Callable[[Iterator[Tensor]], Logs]:
    """Returns a new function that trains a model of TensorFlow on the next batch of an iterator.

    Needed for a model with two kinds of steps. `make_train_function` makes the only one that Keras
    knows; a public function that returns it would replace this.
    """
    train: Callable[[Iterator[Tensor]], Logs] = model._make_function(model.train_step)
    return train


def learning_rate_schedule(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the schedule that an optimizer was created with.

    Needed for its settings, and for the rates of steps other than the current one.
    `optimizer.learning_rate` is the value at the current step; a public property for the schedule
    would replace this.
    """
    return optimizer._learning_rate


def learning_rates_at(optimizer: keras.optimizers.Optimizer, steps: np.ndarray) -> np.ndarray:
    """Returns the scheduled rates of any steps, float [N]; reads no variable.

    Under JAX it waits for the steps that have been started.
    """
    rates = keras.ops.convert_to_numpy(learning_rate_schedule(optimizer)(steps))
    return np.broadcast_to(rates, steps.shape)


def moving_averages(optimizer: keras.optimizers.Optimizer) -> dict[str, Variable]:
    """Returns {path of a weight: its moving average} of an optimizer that keeps averages.

    Needed to ship averaged weights while training continues with the others. The public method,
    `finalize_variable_values`, overwrites the weights.
    """
    pairs = zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    )
    return {variable.path: average for variable, average in pairs if average is not None}


class CallbacksBesideSteps(keras.callbacks.CallbackList):
    """The callbacks of `Model.fit`; under TensorFlow too, reports of steps do not delay the loop.

    Needed because Keras converts the logs of each step to numbers, for which the loop waits for the
    device unless all callbacks are `async_safe` and the backend counts as thread-safe, which in
    Keras 3.15 JAX does and TensorFlow does not. Here other threads only read finished tensors of
    TensorFlow. To be replaced once Keras converts logs when a callback reads them.

    Args:
        spanning: those of the callbacks whose training goes on over several calls of `Model.fit`:
            they hear of the beginning of the first alone, and the caller tells them of the end.
        is_first: whether this is the first of these calls.
    """

    callbacks: list[keras.callbacks.Callback]

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        spanning: Sequence[keras.callbacks.Callback] = (),
        is_first: bool = True,
        **options: object,
    ) -> None:
        super().__init__(callbacks, **options)
        self.spanning, self.is_first = list(spanning), is_first

    def on_train_begin(self, logs: Logs | None = None) -> None:
        with self._without([] if self.is_first else self.spanning):
            super().on_train_begin(logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        with self._without(self.spanning):
            super().on_train_end(logs)

    @contextlib.contextmanager
    def _without(self, left_out: Sequence[keras.callbacks.Callback]) -> Iterator[None]:
        every = self.callbacks
        self.callbacks = [each for each in every if each not in left_out]
        try:
            yield
        finally:
            self.callbacks = every

    def _configure_async_dispatch(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        super()._configure_async_dispatch(callbacks)
        if keras.backend.backend() == "tensorflow":
            self._async_train = all(_may_report_late(callback) for callback in callbacks)


def _may_report_late(callback: keras.callbacks.Callback) -> bool:
    """Returns whether a callback ignores the ends of steps, or may hear of them in a thread."""
    ends = (callback.on_batch_end, callback.on_train_batch_end)
    return getattr(callback, "async_safe", False) or all(map(is_default, ends))
