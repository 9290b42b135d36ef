"""Saves memory in training: recomputes activations in the backward pass instead of keeping them.

The graph of the training model is cut into segments where a single tensor passes, such as between
residual blocks. Of each segment but the last, a training step keeps only that tensor; the backward
pass computes the rest again (arXiv:1604.06174). The model keeps its layers and variables, so that
checkpoints and the files that ship are as without.

A segment runs as a function of its input and of the values of its variables, so that both passes
see the same weights and draw the same random numbers. What the layers assign meanwhile, such as
moving statistics and the states of seed generators, is assigned once, after the first pass.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import keras

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import Tensor, Variable
from keras_imnet64.models.keras_private import (
    Graph,
    all_layers,
    calls_of,
    graph_inputs,
    graph_of,
    graph_outputs,
    run_graph,
    with_training,
    without_autocast,
)

NUM_LIMITS = 64  # on a segment's size, among which the best is taken


def set_remat(model: keras.Model, remat: bool, xla: bool) -> None:
    """Sets whether training steps of a model recompute its activations; all else stays as it is.

    Args:
        model: if `remat`, a functional or sequential model, in which such models may be nested.
        xla: whether TensorFlow compiles the step with XLA.

    Raises:
        UserError: the model cannot be cut, or has layers that cannot be run again.
    """
    _restore_calls(model)
    if not remat:
        return
    graph = graph_of(model)
    if graph is None:
        raise UserError(
            "train.remat = true needs a functional or sequential model; received a "
            f"{type(model).__name__}: remove it, or build the model of Keras' layers"
        )
    _check_layers(model)
    if not _recompute(graph, xla, is_last=True):
        raise UserError(
            f'train.remat = true saves nothing in the model "{model.name}", because no single '
            "tensor passes between two parts of it: remove it"
        )


def _restore_calls(model: keras.Model) -> None:
    """Undoes what an earlier training of the same model has set."""
    for layer in all_layers(model):
        graph = graph_of(layer)
        if graph is not None and "call" in vars(graph):
            del graph.call


def _check_layers(model: keras.Model) -> None:
    """Refuses layers that give more than their output: a loss or a mask."""
    for layer in all_layers(model, include_self=False):
        masks = isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False)
        if masks or layer.activity_regularizer is not None:
            cause = "makes a mask" if masks else "has an activity_regularizer"
            raise UserError(
                f'train.remat = true does not work with layer "{layer.name}", which {cause}: '
                "remove one of the two"
            )


# ------------------------------------------------------------------------------ cutting the graph


@dataclass(frozen=True)
class Segment:
    """The part of a graph between two places where a single tensor passes.

    Attributes:
        inputs, outputs: symbolic tensors; one of each, but at the ends of the graph.
        num_bytes: of all tensors that it computes, for one image.
        nested: the graph of the model that is its only call, else None.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    num_bytes: int
    nested: Graph | None = None


def smallest_segments(graph: Graph) -> list[Segment]:
    """Cuts a graph wherever a single tensor passes."""
    calls = calls_of(graph)
    last_use = {id(tensor): place for place, call in enumerate(calls) for tensor in call.inputs}
    last_use |= {id(tensor): len(calls) for tensor in graph.outputs}
    segments: list[Segment] = []
    inputs, live, first, num_bytes = list(graph.inputs), list(graph.inputs), 0, 0
    for place, call in enumerate(calls):
        num_bytes += sum(map(_num_bytes, call.outputs))
        live = [t for t in [*live, *call.outputs] if last_use.get(id(t), -1) > place]
        if len(live) == 1 or place == len(calls) - 1:
            outputs = live if place < len(calls) - 1 else list(graph.outputs)
            nested = graph_of(call.operation) if first == place else None
            segments.append(Segment(inputs, outputs, num_bytes, nested))
            inputs, first, num_bytes = outputs, place + 1, 0
    return segments


def _num_bytes(tensor: Tensor) -> int:
    """Returns the bytes of a symbolic tensor; axes of any size, such as the batch, count once."""
    size = math.prod(axis or 1 for axis in tensor.shape)
    return size * (2 if tensor.dtype in ("bfloat16", "float16") else 4)


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """Joins neighbours, so that the least is held at any time.

    That is the tensors between segments and everything inside the largest segment. For each of
    several limits on a segment's size, the cheapest cuts are found from those of the parts before.
    """
    smallest = max(segment.num_bytes for segment in segments)
    largest = sum(segment.num_bytes for segment in segments)
    step = (largest / smallest) ** (1 / NUM_LIMITS)
    limits = [smallest * step**number for number in range(NUM_LIMITS)]
    cuts = min((_cheapest_cuts(segments, limit) for limit in limits), key=partial(_held, segments))
    return [_join(segments[first:end]) for first, end in pairwise(cuts)]


def _cheapest_cuts(segments: Sequence[Segment], limit: float) -> tuple[int, ...]:
    """Returns the cuts 0, ..., n with the smallest tensors such that no part exceeds a limit."""
    best: list[tuple[int, tuple[int, ...]]] = [(0, (0,))]  # (bytes, cuts) up to each place
    for end in range(1, len(segments) + 1):
        passed, size, found = _passing(segments[end - 1]), 0, []
        for first in range(end - 1, -1, -1):
            size += segments[first].num_bytes
            if size > limit and first < end - 1:
                break
            found.append((best[first][0] + passed, (*best[first][1], end)))
        best.append(min(found))
    return best[-1][1]


def _held(segments: Sequence[Segment], cuts: tuple[int, ...]) -> int:
    kept = sum(_passing(segments[end - 1]) for end in cuts[1:])
    return kept + max(
        sum(segment.num_bytes for segment in segments[first:end]) for first, end in pairwise(cuts)
    )


def _passing(segment: Segment) -> int:
    return sum(map(_num_bytes, segment.outputs))


def _join(segments: Sequence[Segment]) -> Segment:
    num_bytes = sum(segment.num_bytes for segment in segments)
    return Segment(segments[0].inputs, segments[-1].outputs, num_bytes)


def plan(graph: Graph) -> list[Segment]:
    """Returns the segments of a graph in their order; models nested in it stay on their own."""
    planned: list[Segment] = []
    run: list[Segment] = []
    for segment in smallest_segments(graph):
        if segment.nested is None:
            run.append(segment)
            continue
        planned += [*(joined(run) if run else ()), segment]
        run = []
    return planned + (joined(run) if run else [])


# ------------------------------------------------------------------------------- running segments

Values: TypeAlias = Sequence[Tensor]  # of variables
Run: TypeAlias = Callable[[Sequence[Tensor]], Sequence[Tensor]]
# (inputs, values of variables) -> outputs, {place of a variable: value that is assigned to it}
RunWithValues: TypeAlias = Callable[
    [Sequence[Tensor], Values], tuple[list[Tensor], dict[int, Tensor]]
]


def _recompute(graph: Graph, xla: bool, is_last: bool) -> int:
    """Replaces the call of a graph's model; returns how many segments will run again.

    Args:
        is_last: whether the graph ends the model. The backward pass begins with the last segment,
            whose activations are still there.
    """
    runs: list[Run] = []
    num_again = 0
    segments = plan(graph)
    for number, segment in enumerate(segments, start=1):
        ends = is_last and number == len(segments)
        function = keras.Function(list(segment.inputs), list(segment.outputs))
        if segment.nested is not None:
            num_again += _recompute(segment.nested, xla, ends)
        if segment.nested is not None or ends:
            runs.append(partial(run_graph, function, replace=function_of))
        else:
            runs.append(partial(_run_again_later, function, xla=xla))
            num_again += 1
    plain_call = graph.call

    def call(inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        if not training or mask is not None:
            return plain_call(inputs, training=training, mask=mask)
        tensors: Sequence[Tensor] = graph_inputs(graph, inputs)
        for run in runs:
            tensors = run(tensors)
        return graph_outputs(graph, tensors)

    graph.call = call
    return num_again


def function_of(operation: keras.Operation) -> Callable[..., Tensor]:
    """Returns what a step calls in place of an operation; a nested model calls its own parts."""
    if graph_of(operation) is not None or keras.config.backend() != "tensorflow":
        return with_training(operation, True)
    from keras_imnet64.training.training_model import fast_function

    return fast_function(operation)


def _run_again_later(segment: Graph, inputs: Sequence[Tensor], *, xla: bool) -> Sequence[Tensor]:
    """Runs a segment, and once more in the backward pass; assigns to its variables once."""
    variables = _variables_of(segment)
    with without_autocast():
        values = [variable.value for variable in variables]
    run = partial(_run_with_values, segment, variables)
    if keras.config.backend() == "jax":
        outputs, assigned = _run_under_jax(run, inputs, values)
    else:
        outputs, assigned = _run_under_tensorflow(run, inputs, values, xla)
    for place, value in assigned.items():
        variables[place].assign(value)
    return outputs


def _variables_of(segment: Graph) -> list[Variable]:
    layers = [each for each in segment.operations if isinstance(each, keras.Layer)]
    variables = {id(v): v for layer in layers for v in layer.variables}
    return list(variables.values())


def _run_with_values(
    segment: Graph, variables: Sequence[Variable], inputs: Sequence[Tensor], values: Values
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Returns a segment's outputs, and what its layers assign to variables, without assigning."""
    mapping = list(zip(variables, values, strict=True))
    with without_autocast(), keras.StatelessScope(mapping) as scope:
        before = [scope.get_current_value(variable) for variable in variables]
        outputs = run_graph(segment, inputs, function_of)
        after = [scope.get_current_value(variable) for variable in variables]
    pairs = enumerate(zip(before, after, strict=True))
    return outputs, {place: new for place, (old, new) in pairs if new is not old}


def _run_under_jax(
    run: RunWithValues, inputs: Sequence[Tensor], values: Values
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Does what `jax.checkpoint` does, in which XLA for CPUs would merge the two passes."""
    import jax

    def first_pass(*tensors: list[Tensor]) -> tuple[Tensor, tuple[list[Tensor], ...]]:
        return run(*tensors), tensors

    def gradients(
        tensors: tuple[list[Tensor], ...], upstream: tuple[list[Tensor], dict[int, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        of_outputs, _ = upstream
        again = _after_under_jax(of_outputs, tensors)
        of_inputs, of_values = jax.vjp(run, *again)[1](upstream)
        return _after_under_jax(of_values, of_inputs), of_values

    segment = jax.custom_vjp(run)
    segment.defvjp(first_pass, gradients)
    outputs, assigned = segment(list(inputs), list(values))
    return outputs, assigned


def _after_under_jax(first: Sequence[Tensor], tensors: Tensor) -> Tensor:
    """Returns a nest of tensors that exist only once others do."""
    import jax

    leaves, nest = jax.tree.flatten(tensors)
    places = [n for n, leaf in enumerate(leaves) if leaf.dtype != jax.dtypes.float0]
    later = jax.lax.platform_dependent(
        [tensor for tensor in first if jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating)],
        [leaves[place] for place in places],
        cpu=_after_a_loop,
        default=lambda *both: jax.lax.optimization_barrier(both)[1],
    )
    for place, leaf in zip(places, later, strict=True):
        leaves[place] = leaf
    return jax.tree.unflatten(nest, leaves)


def _after_a_loop(first: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Passes tensors through a loop that ends at once, which XLA cannot know.

    XLA for CPUs drops an optimization barrier before it merges equal operations. Whether the loop
    goes on depends on a number that is known only once `first` is: it does if bit 1 of the number's
    square is set, which no square has.
    """
    import jax

    number = sum(tensor[(0,) * tensor.ndim].astype("float32") for tensor in first)
    bits = jax.lax.bitcast_convert_type(number, "uint32")
    _, later = jax.lax.while_loop(
        lambda state: state[0] ** 2 & 2 != 0,
        lambda state: (state[0] + 1, [jax.numpy.zeros_like(tensor) for tensor in state[1]]),
        (bits, tensors),
    )
    return list(later)


def _run_under_tensorflow(
    run: RunWithValues, inputs: Sequence[Tensor], values: Values, xla: bool
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """As `tf.recompute_grad`, which does not tell what the first pass assigns."""
    import tensorflow as tf

    assigned: dict[int, Tensor] = {}

    @tf.custom_gradient
    def segment(*tensors: Tensor) -> tuple[list[Tensor], Callable[..., list[Tensor]]]:
        outputs, of_first_pass = run(tensors[: len(inputs)], tensors[len(inputs) :])
        assigned.update(of_first_pass)

        def gradients(*upstream: Tensor) -> list[Tensor]:
            again = _after_under_tensorflow(upstream, tensors, xla)
            with tf.GradientTape() as tape:
                tape.watch([tensor for tensor in again if tensor.dtype.is_floating])
                outputs, _ = run(again[: len(inputs)], again[len(inputs) :])
            found = tape.gradient(outputs, again, upstream)
            of_values = [gradient for gradient in found[len(inputs) :] if gradient is not None]
            # TensorFlow would compute those of the weights later, and hold activations until then.
            return [
                *_after_under_tensorflow(of_values, found[: len(inputs)], xla),
                *found[len(inputs) :],
            ]

        return outputs, gradients

    outputs = segment(*inputs, *[tf.convert_to_tensor(value) for value in values])
    return outputs, assigned


def _after_under_tensorflow(
    first: Sequence[Tensor], tensors: Sequence[Tensor], xla: bool
) -> list[Tensor]:
    """Returns tensors that exist only once others do.

    Otherwise TensorFlow would run a segment again as early as it can, or share its activations with
    the first pass, and nothing would be saved.
    """
    import tensorflow as tf

    if xla:  # which heeds no control dependencies
        from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # is in no public module

        together = gen_xla_ops.xla_optimization_barrier([*tensors, *first])
        return list(together[: len(tensors)])
    with tf.control_dependencies(first):
        return [tf.identity(tensor) for tensor in tensors]
