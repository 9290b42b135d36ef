"""Judges two sides by numbers alone: where they diverge, and whether chaos explains it.

A trajectory of training is chaotic: runs of one backend that start one last bit apart diverge too.
So the distance of two sides is held against that of such runs, the yardstick; and a step at which
two sides diverge is computed again by both from the same state, where chaos has no part. Where that
step shows rounding alone, the sides may diverge further than the yardstick because they round
differently in every step, not only at the start; so a second yardstick is disturbed in every step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from keras_imnet64.compare.records import (
    Arrays,
    LayerCall,
    StepRecord,
    Trajectory,
    Yardstick,
    scale_of,
)

Stage: TypeAlias = Literal[
    "start", "input", "forward", "loss", "statistics", "backward", "kinks", "rate", "update"
]
Answer: TypeAlias = Literal["equal", "equal within chaos", "different"]

MAX_YARDSTICKS = 2.0  # how far two sides may diverge, in units of the yardstick
MIN_DISTURBANCE = 2.0**-23  # the last bit of a float32
RATE_TOLERANCE = 1e-5  # relative; schedules are computed in float32
START_TOLERANCE = 1e-6
# Scales below these shares of a larger one are rounding: the gradient of a bias before batch
# normalisation is zero but for it, and a weight's update is rounded as the weight is.
GRADIENT_FLOOR = 1e-3  # of the largest gradient of the network
UPDATE_FLOOR = 1e-3  # of the largest weight of the variable


@dataclass(frozen=True)
class Tolerance:
    """Differences that rounding explains, in units of a tensor's scale, its largest number.

    Attributes:
        loss: in units of the loss, but of 1 where it is smaller.
        backward: of gradients with the same inputs of calls with a kink.
        kinks: of gradients of which each side has its own inputs there. Outputs that agree to
            rounding lie on both sides of some kinks.
        near: how many times as much as a last bit of the weights a program may change a tensor.
    """

    loss: float
    forward: float
    backward: float
    kinks: float
    update: float
    near: float


# By the coarser of two sides' dtypes: at least 2.5 times the largest differences that were
# measured, see docs/results/compare.md. A single kink may change a gradient by half of its
# scale.
TOLERANCES = {
    "float32": Tolerance(loss=1e-5, forward=1e-4, backward=5e-4, kinks=0.5, update=1e-3, near=10),
    "mixed_bfloat16": Tolerance(
        loss=2e-3, forward=0.15, backward=0.3, kinks=3, update=1e-3, near=3
    ),
}


def coarser(dtypes: Sequence[str]) -> str:
    """Returns the dtype, of those of two sides, that rounds more."""
    return "float32" if set(dtypes) == {"float32"} else "mixed_bfloat16"


# ----------------------------------------------------------------------------------------- one step


@dataclass(frozen=True)
class Difference:
    """How far a tensor of one side is from that of the other.

    Attributes:
        where: the layer, variable or setting that the tensor belongs to.
        kind: the class of a layer whose output it is.
        size: in units of its scale.
        scale: see `Tolerance`; for gradients that of the layer, for updates that of the update.
    """

    stage: Stage
    where: str
    size: float
    scale: float
    allowed: float
    kind: str = ""

    @property
    def is_real(self) -> bool:
        """Whether rounding does not explain it; numbers that are not finite never agree."""
        return not self.size <= self.allowed


@dataclass(frozen=True)
class StepComparison:
    """The tensors of a step, in the order in which they are computed.

    Attributes:
        step: counted from 0.
    """

    step: int
    differences: tuple[Difference, ...]

    @property
    def first(self) -> Difference | None:
        """The first tensor whose difference rounding does not explain."""
        return next((each for each in self.differences if each.is_real), None)

    def largest(self, stage: Stage) -> Difference | None:
        """The largest difference of a stage."""
        found = [each for each in self.differences if each.stage == stage]
        return max(found, key=lambda each: each.size, default=None)


def compare_step(
    a: StepRecord, b: StepRecord, tolerance: Tolerance, near: StepRecord | None = None
) -> StepComparison:
    """Compares a step that two sides have computed from the same state.

    Args:
        near: the step of the first side from a state that is one last bit apart, of the coarser of
            their dtypes. Where that alone changes a tensor, as a sum in which nearly all cancels,
            or an activation that is zero but for rounding, another program may change it several
            times as much.
    """
    found = _differences(a, b, tolerance)
    if near is None:
        return StepComparison(a.facts.step, tuple(found))
    by_a_bit = {(each.stage, each.where): each.size for each in _differences(a, near, tolerance)}

    def widened(each: Difference) -> Difference:
        if each.stage not in ("forward", "loss", "statistics", "backward", "kinks"):
            return each
        sensitivity = by_a_bit.get((each.stage, each.where), 0.0)
        return replace(each, allowed=max(each.allowed, tolerance.near * sensitivity))

    return StepComparison(a.facts.step, tuple(map(widened, found)))


def _differences(a: StepRecord, b: StepRecord, tolerance: Tolerance) -> Iterator[Difference]:
    yield from _input(a, b)
    for index, call in enumerate(a.facts.calls):
        yield _forward(call, a.activations[index], b, index, tolerance.forward)
    if a.facts.loss is None or b.facts.loss is None:
        return
    scale = max(1.0, abs(a.facts.loss))
    yield _difference("loss", "loss", a.facts.loss, b.facts.loss, scale, tolerance.loss)
    yield from _statistics(a, b, tolerance.forward)
    yield from _backward(a, b, tolerance)
    assert a.facts.rate is not None and b.facts.rate is not None  # known where the loss is
    scale = abs(a.facts.rate)
    yield _difference("rate", "learning rate", a.facts.rate, b.facts.rate, scale, RATE_TOLERANCE)
    yield from _updates(a, b, tolerance.update)


def _input(a: StepRecord, b: StepRecord) -> Iterator[Difference]:
    for name, ours, theirs in (("images", a.images, b.images), ("labels", a.labels, b.labels)):
        scale = 255.0 if name == "images" else 1.0
        yield _difference("input", name, ours, theirs, scale, 0.0)


def _forward(
    call: LayerCall, ours: np.ndarray, b: StepRecord, index: int, allowed: float
) -> Difference:
    same = index < len(b.facts.calls) and b.facts.calls[index].name == call.name
    theirs = b.activations[index] if same else np.full(1, np.nan)
    scale = scale_of([ours, theirs])
    found = _difference("forward", call.name, ours, theirs, scale, allowed)
    return replace(found, kind=call.kind)


def _statistics(a: StepRecord, b: StepRecord, allowed: float) -> Iterator[Difference]:
    """The scale is that of the layer: a moving mean may be zero but for rounding."""
    for path, ours in a.statistics.items():
        layer = layer_of(path)
        scale = scale_of([v for other, v in a.statistics.items() if layer_of(other) == layer])
        yield _difference("statistics", path, ours, b.statistics.get(path), scale, allowed)


def _backward(a: StepRecord, b: StepRecord, tolerance: Tolerance) -> Iterator[Difference]:
    if not a.held:
        yield from _gradients("backward", a, a.gradients, b.gradients, tolerance.backward)
        return
    yield from _gradients("backward", a, a.held, b.held, tolerance.backward)
    yield from _gradients("kinks", a, a.gradients, b.gradients, tolerance.kinks)


def _gradients(
    stage: Stage, record: StepRecord, ours: Arrays, theirs: Arrays, allowed: float
) -> Iterator[Difference]:
    """Gradients in the order of backpropagation: those of the last layer come first."""
    floor, seen = GRADIENT_FLOOR * scale_of(list(ours.values())), set[str]()
    for call in reversed(record.facts.calls):
        paths = [path for path in call.variables if path not in seen]
        seen.update(paths)
        scale = max(floor, scale_of([ours[path] for path in paths]))
        for path in paths:
            yield _difference(stage, path, ours[path], theirs.get(path), scale, allowed)


def _updates(a: StepRecord, b: StepRecord, allowed: float) -> Iterator[Difference]:
    for path, ours in a.updates.items():
        scale = max(scale_of([ours]), UPDATE_FLOOR * a.facts.magnitudes.get(path, 0.0))
        yield _difference("update", path, ours, b.updates.get(path), scale, allowed)


def _difference(
    stage: Stage,
    where: str,
    ours: np.ndarray | float,
    theirs: np.ndarray | float | None,
    scale: float,
    allowed: float,
) -> Difference:
    a, b = np.asarray(ours, "float64"), np.asarray(np.nan if theirs is None else theirs, "float64")
    if a.shape != b.shape:
        return Difference(stage, where, np.inf, scale, allowed)
    largest = float(np.abs(a - b).max()) if a.size else 0.0
    size = 0.0 if largest == 0 else largest / scale if scale else np.inf
    return Difference(stage, where, size, scale, allowed)


def layer_of(path: str) -> str:
    """Returns the layer of a variable's path."""
    return path.rpartition("/")[0]


def disturbance_of(steps: Sequence[StepComparison]) -> float:
    """Returns by how much a typical output differs between two sides, in units of its scale.

    It is the median over all layers of steps that both sides have computed from the same state.
    """
    sizes = [each.size for step in steps for each in step.differences if each.stage == "forward"]
    return max(MIN_DISTURBANCE, float(np.median(sizes)))


# ------------------------------------------------------------------------------------ trajectories


@dataclass(frozen=True)
class Verdict:
    """Whether two sides train alike.

    Attributes:
        step: the first at which they differ, counted from 0; None if they do not, or if no single
            step differs.
        cause: what differs first there.
        parting_step: the first step whose losses diverge by more than the tolerance, chaos or not.
        distance: the largest distance of their losses.
        yardstick: the largest distance of the losses of runs that start one last bit apart; None if
            it was not measured.
        disturbance, second_yardstick: of the runs of `disturbance_of` that were disturbed in each
            step, by how much, and the largest distance of their losses; None if there are none.
        is_forward_only: whether a side does not train, so that only outputs were compared.
    """

    answer: Answer
    step: int | None
    cause: Difference | None
    parting_step: int | None
    distance: float
    yardstick: float | None
    note: str = ""
    disturbance: float | None = None
    second_yardstick: float | None = None
    is_forward_only: bool = False

    @property
    def is_unexplained(self) -> bool:
        """Whether the losses diverge, but no step computed from the same state differs."""
        return self.answer == "different" and self.cause is None

    @property
    def in_words(self) -> str:
        """The answer as a clause, such as "different from step 1 in layer stem: forward, ..."."""
        note = f" ({self.note})" if self.note else ""
        if self.answer != "different":
            return f"{self.answer}{note}"
        if self.cause is None or self.step is None:
            return f"different: {self.note}"
        return f"different from step {self.step + 1} in {describe(self.cause)}{note}"


def describe(difference: Difference) -> str:
    """Returns a difference as a clause: where, forward or backward, and how much."""
    where, amount = difference.where, f"by {difference.size:.2g} of its scale"
    own_draws = ", as each backend draws its own masks" if "Dropout" in difference.kind else ""
    return {
        "start": f"the start: the initial weights of {where} differ {amount}",
        "input": f"the input: the {where} of the batch differ, which another draw makes",
        "forward": f"layer {where}: forward, its output differs {amount}{own_draws}",
        "loss": f"the loss: it differs {amount}, and no layer's output does",
        "statistics": f"layer {layer_of(where)}: forward, its {where.rpartition('/')[2]} differs "
        f"{amount}",
        "backward": f"layer {layer_of(where)}: backward, the gradient of its "
        f"{where.rpartition('/')[2]} differs {amount}, no output and no gradient of a later layer "
        "does",
        "kinks": f"layer {layer_of(where)}: backward, the gradient of its "
        f"{where.rpartition('/')[2]} differs {amount}, which is more than kinks explain",
        "rate": f"the learning rate: it differs {amount}",
        "update": f"the optimizer: its update of {where} differs {amount}, given the same "
        "gradients and the same rate",
    }[difference.stage]


def distances(a: Trajectory, b: Trajectory) -> np.ndarray:
    """Returns the distance of the losses of two sides at each step, float64 [S]."""
    return np.abs(np.subtract(a.losses, b.losses))


def all_runs(a: Trajectory, others: Yardstick) -> np.ndarray:
    """Returns the losses of a side and of a yardstick's further runs of it, float64 [R, S]."""
    return np.array([a.losses, *others.losses])


def spread(losses: np.ndarray) -> np.ndarray:
    """Returns the largest distance among runs at each step: losses [R, S] -> float64 [S]."""
    return np.ptp(losses, axis=0)


def parting_step(a: Trajectory, b: Trajectory, tolerance: Tolerance) -> int | None:
    """Returns the first step, from 0, whose losses diverge by more than the tolerance, or None."""
    allowed = tolerance.loss * np.maximum(1.0, np.abs(a.losses))
    return _first(~(distances(a, b) <= allowed))


def step_beyond(a: Trajectory, b: Trajectory, runs: np.ndarray, tolerance: Tolerance) -> int | None:
    """Returns the first step at which the sides diverge more than chaos explains, or None.

    Chaos explains it where the largest distance of all steps is at most `MAX_YARDSTICKS` times that
    of the yardstick's runs. Where it is larger, the step is the first whose distance is larger than
    that of the runs so far.

    Args:
        runs: the losses of the yardstick's runs, float [R, S].
    """
    found, stick = distances(a, b), MAX_YARDSTICKS * spread(runs)
    if found.max() <= stick.max():
        return None
    allowed = tolerance.loss * np.maximum(1.0, np.abs(a.losses))
    return _first(~(found <= np.maximum(allowed, np.maximum.accumulate(stick))))


def step_to_examine(
    a: Trajectory, b: Trajectory, runs: np.ndarray | None, tolerance: Tolerance
) -> int | None:
    """Returns the step, from 0, that both sides compute again from the same state; None for none.

    It is the one at which they diverge more than chaos explains, else the first at which they do.
    """
    beyond = None if runs is None else step_beyond(a, b, runs, tolerance)
    return parting_step(a, b, tolerance) if beyond is None else beyond


def conclude(
    a: Trajectory,
    b: Trajectory,
    runs: np.ndarray | None,
    steps: Sequence[StepComparison],
    tolerance: Tolerance,
    disturbed: Yardstick | None = None,
) -> Verdict:
    """Judges two sides.

    Args:
        runs: the losses of runs of the first side that start one last bit apart, float [R, S]; None
            if they were not made, for sides that are not to diverge at all.
        steps: the steps that both sides have computed from the same state.
        disturbed: runs of the first side that were disturbed in each step; None if there are none.
    """
    if b.untrained is not None:
        return _conclude_forward(a, b, steps)
    distance = float(distances(a, b).max())
    stick = None if runs is None else float(spread(runs).max())
    parting = parting_step(a, b, tolerance)
    second = None if disturbed is None else float(spread(all_runs(a, disturbed)).max())
    disturbance = None if disturbed is None else disturbed.disturbance

    def verdict(
        answer: Answer, step: int | None = None, cause: Difference | None = None, note: str = ""
    ) -> Verdict:
        return Verdict(answer, step, cause, parting, distance, stick, note, disturbance, second)

    found = sorted(_real_differences(a, b, steps), key=lambda each: each[0])
    if found:
        step, cause = found[0]
        return verdict("different", step, cause, _shift(a, b) if cause.stage == "rate" else "")
    if parting is None:
        return verdict("equal")
    if distance <= MAX_YARDSTICKS * max(stick or 0.0, second or 0.0):
        return verdict("equal within chaos")
    examined = ", ".join(str(each.step + 1) for each in steps)
    return verdict(
        "different",
        note=f"the losses diverge by {distance:.2g} from step {parting + 1} on, which "
        + (f"is {distance / stick:.1f} times the yardstick" if stick else "chaos does not explain")
        + (f" and {distance / second:.1f} times the second one" if second else "")
        + (f", but no layer of step {examined} differs from the same state" if examined else ""),
    )


def _conclude_forward(a: Trajectory, b: Trajectory, steps: Sequence[StepComparison]) -> Verdict:
    """Judges a side whose backend does not train the recipe, by its outputs alone."""
    found = next(_real_differences(a, b, steps), None)
    step, cause = found or (None, None)
    note = f"forward only, because its training fails: {b.untrained}"
    answer: Answer = "different" if found else "equal"
    return Verdict(answer, step, cause, None, 0.0, None, note, is_forward_only=True)


def _real_differences(
    a: Trajectory, b: Trajectory, steps: Sequence[StepComparison]
) -> Iterator[tuple[int, Difference]]:
    """Yields (step, difference) of what rounding does not explain, the first cause of a step first.

    Batches and rates of all steps count, whichever steps were computed again.
    """
    if b.start_difference > START_TOLERANCE:
        where = b.start_variable or "a variable"
        yield 0, Difference("start", where, b.start_difference, 1.0, START_TOLERANCE)
    pairs = zip(a.digests, b.digests, strict=False)  # none of a side that does not train
    other = _first(np.array([x != y for x, y in pairs]))
    if other is not None:
        yield other, Difference("input", "images or labels", np.inf, 1.0, 0.0)
    for step in steps:
        if step.first:
            yield step.step, step.first
    if b.untrained is not None:
        return
    rates = np.abs(np.subtract(a.rates, b.rates)) / np.maximum(np.abs(a.rates), 1e-30)
    moved = _first(~(rates <= RATE_TOLERANCE))
    if moved is not None:
        cause = Difference("rate", "learning rate", float(rates[moved]), 1.0, RATE_TOLERANCE)
        yield moved, cause


def _shift(a: Trajectory, b: Trajectory) -> str:
    """Returns in words that the rates of one side are those of the other a step later, or ""."""
    ours, theirs = np.array(a.rates), np.array(b.rates)
    if len(ours) < 3:
        return ""
    if np.allclose(theirs[:-1], ours[1:], rtol=RATE_TOLERANCE, atol=0):
        return "the second side has each rate one step early"
    if np.allclose(theirs[1:], ours[:-1], rtol=RATE_TOLERANCE, atol=0):
        return "the second side has each rate one step late"
    return ""


def _first(flags: np.ndarray) -> int | None:
    found = np.flatnonzero(flags)
    return int(found[0]) if len(found) else None


# ------------------------------------------------------------------------------------- predictions


@dataclass(frozen=True)
class PairedTest:
    """McNemar's test on the same images: whether two models differ in which they recognise.

    Attributes:
        only_first, only_second: images that one model alone recognises.
        p_value: the probability, if both are equally good, of a split of these at least as uneven.
            Exact: the two counts are those of a fair coin.
        agreement: the share of all images for which both predict the same class.
    """

    only_first: int
    only_second: int
    p_value: float
    agreement: float


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test (Psychometrika 12, 153, 1947)."""
    from scipy.stats import binom

    total = only_first + only_second
    return float(min(1.0, 2 * binom.cdf(min(only_first, only_second), total, 0.5)))


def paired_test(
    first: np.ndarray, second: np.ndarray, first_right: np.ndarray, second_right: np.ndarray
) -> PairedTest:
    """Compares two models on the same images.

    Args:
        first, second: the predicted class of each image, integers [N].
        first_right, second_right: whether it is the label, bool [N].
    """
    alone = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    return PairedTest(*alone, mcnemar(*alone), float((first == second).mean()))
