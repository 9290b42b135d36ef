"""What comes out of a comparison: figures of each side, and a verdict on each against the first.

`Result` is that of sides that were trained for it, `FinishedResult` that of runs and model files
that were there. Needs no Keras.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_imnet64.compare.folder import Comparison
from keras_imnet64.compare.records import Trajectory
from keras_imnet64.compare.verdict import (
    PairedTest,
    StepComparison,
    Tolerance,
    Verdict,
    all_runs,
    distances,
    spread,
)
from keras_imnet64.curves import ScoredImages
from keras_imnet64.records import Scores

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class SideResult:
    """The figures of a side.

    Attributes:
        label: as the user typed it.
        losses, rates: of each step.
        images_per_second: of the steps after the first, the median; with input, and with the wait
            for each step's result, which `fit` spares; None for a single step.
        compile_seconds: of the first step, beyond those of the others.
        seconds_to_first_step: from the start of the process to the end of the first step; None for
            a side that does not train, which has no losses either.
        peak_memory_mb: see `records.Trajectory`.
    """

    label: str
    backend: str
    dtype: str
    devices: tuple[str, ...]
    versions: dict[str, str]
    losses: tuple[float, ...]
    rates: tuple[float, ...]
    images_per_second: float | None
    compile_seconds: float | None
    seconds_to_first_step: float | None
    peak_memory_mb: float | None


@dataclass(frozen=True)
class PairResult:
    """A side against the first one.

    Attributes:
        answer: the verdict in words.
        distances: of the losses, at each step; empty if a side does not train.
        steps: those that both have computed from the same state.
        second_yardstick: the largest distance, at each step, of the losses of runs of the first
            side that were disturbed in each step; empty if there was no need of it.
    """

    first: str
    second: str
    answer: str
    verdict: Verdict
    tolerance: Tolerance
    distances: tuple[float, ...]
    steps: tuple[StepComparison, ...]
    second_yardstick: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two models on the same images."""

    first: str
    second: str
    test: PairedTest

    @property
    def in_words(self) -> str:
        test = self.test
        what = "different" if test.p_value < SIGNIFICANT else "no difference that can be told"
        return (
            f"{self.second} against {self.first}: {what} (McNemar's p = {test.p_value:.3g}: "
            f"{test.only_first:,} images are right in {self.first} alone, {test.only_second:,} in "
            f"{self.second} alone; both predict the same class for {100 * test.agreement:.2f} %)"
        )


@dataclass(frozen=True)
class SeedScores:
    """The final scores of a side, in percent, with each seed."""

    label: str
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    top5: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The standard deviation of top-1 over the seeds; 0 for a single one."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0


@dataclass(frozen=True)
class FinalScores:
    """The scores of whole runs of all sides on the images of a split.

    Attributes:
        pairs: each side with the first, seed by seed.
    """

    epochs: int
    dataset: str
    split: str
    count: int
    verified: bool
    sides: tuple[SeedScores, ...]
    pairs: tuple[Pair, ...]

    @property
    def after(self) -> str:
        """How long the runs were, in words."""
        return "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"


@dataclass(frozen=True)
class Result:
    """The result of a comparison.

    Attributes:
        images_per_step: on all devices together.
        yardstick: the largest distance, at each step, of the losses of runs of the first side that
            start one last bit apart.
        scores: of whole runs; None if none were asked for.
    """

    recipe: str
    out: str
    num_steps: int
    images_per_step: int
    sides: tuple[SideResult, ...]
    pairs: tuple[PairResult, ...]
    yardstick: tuple[float, ...]
    scores: FinalScores | None = None


# ----------------------------------------------------------------- finished runs and model files


@dataclass(frozen=True)
class Setting:
    """A setting in which models differ; one that does not state it has None."""

    key: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class FinishedCurve:
    """Top-1 after each epoch of a run, in percent.

    Attributes:
        images: those that the scores are of.
    """

    label: str
    images: ScoredImages
    epochs: tuple[float, ...]
    val_top1: tuple[float, ...]


@dataclass(frozen=True)
class ScoredModel:
    """A run or a model file, scored."""

    label: str
    model: str
    scores: Scores


@dataclass(frozen=True)
class FinishedResult:
    """Finished runs and model files, held against each other.

    Attributes:
        verified: whether the images are known to be those that the name of the data set promises;
            None for files of predictions alone, which do not state it.
        settings: those in which the recipes, or what they were trained with, differ.
        pairs: each with the first.
        curves: of the runs among them that have scored epochs.
    """

    dataset: str
    split: str
    count: int
    verified: bool | None
    models: tuple[ScoredModel, ...]
    settings: tuple[Setting, ...]
    pairs: tuple[Pair, ...]
    curves: tuple[FinishedCurve, ...]


# -------------------------------------------------------------------------------------- the result


def result_of(comparison: Comparison, examined: Sequence[Sequence[int]]) -> Result:
    """Reads the result from the folder of a comparison whose sides have finished.

    Args:
        examined: for each side but the first, the steps that both have computed from one state.
    """
    recipe = comparison.recipe
    images = recipe.data.batch_size // recipe.train.accumulate_steps
    trajectories = [comparison.trajectory(index) for index in range(len(comparison.sides))]
    return Result(
        recipe=recipe.name,
        out=str(comparison.folder),
        num_steps=comparison.num_steps,
        images_per_step=images,
        sides=tuple(
            _side(comparison, index, trajectory, images)
            for index, trajectory in enumerate(trajectories)
        ),
        pairs=tuple(
            _pair(comparison, index, steps) for index, steps in enumerate(examined, start=1)
        ),
        yardstick=tuple(spread(comparison.runs()).tolist()),
    )


def _side(comparison: Comparison, index: int, found: Trajectory, images: int) -> SideResult:
    typical = float(np.median(found.seconds[1:])) if len(found.seconds) > 1 else None
    return SideResult(
        label=comparison.sides[index].label,
        backend=comparison.sides[index].backend,
        dtype=comparison.dtype(index),
        devices=found.devices,
        versions=found.versions,
        losses=found.losses,
        rates=found.rates,
        images_per_second=images / typical if typical else None,
        compile_seconds=max(0.0, found.seconds[0] - typical) if typical else None,
        seconds_to_first_step=found.seconds_to_first_step if found.losses else None,
        peak_memory_mb=found.peak_memory_mb,
    )


def _pair(comparison: Comparison, index: int, steps: Sequence[int]) -> PairResult:
    a, b = comparison.trajectory(0), comparison.trajectory(index)
    found, disturbed = comparison.judge(index, steps), comparison.disturbed(index)
    return PairResult(
        first=comparison.sides[0].label,
        second=comparison.sides[index].label,
        answer=found.verdict.in_words,
        verdict=found.verdict,
        tolerance=comparison.tolerance(index),
        distances=() if b.untrained is not None else tuple(distances(a, b).tolist()),
        steps=found.steps,
        second_yardstick=tuple(spread(all_runs(a, disturbed)).tolist()) if disturbed else (),
    )
