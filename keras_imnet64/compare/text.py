"""Prints the result of a comparison in the terminal."""

from collections.abc import Iterator, Sequence

import click

from keras_imnet64.compare.result import (
    FinalScores,
    FinishedResult,
    PairResult,
    Result,
    ScoredModel,
    SeedScores,
    SideResult,
)
from keras_imnet64.compare.verdict import Stage, StepComparison
from keras_imnet64.core.console import show, show_table
from keras_imnet64.core.types import JsonObject
from keras_imnet64.core.validation import to_json

COLUMNS = {
    "label": "side",
    "dtype": "dtype",
    "devices": "devices",
    "rate": "images/s",
    "first": "first step after",
    "compile": "compiling",
    "memory": "peak memory",
    "last": "last loss",
}
SCORE_COLUMNS = {
    "label": "side",
    "seeds": "seeds",
    "top1": "top-1",
    "spread": "spread of top-1",
    "top5": "top-5",
}
MODEL_COLUMNS = {"label": "model", "top1": "top-1", "top5": "top-5", "loss": "loss"}
STAGES: dict[Stage, str] = {
    "forward": "outputs",
    "statistics": "statistics",
    "backward": "gradients",
    "kinks": "gradients at each side's own kinks",
    "update": "updates",
}


def show_result(result: Result, as_json: bool) -> None:
    """Prints a result."""
    if as_json:
        show(to_json(result), as_json)
        return
    click.echo(
        f"recipe {result.recipe}: {result.num_steps} steps of {result.images_per_step} images, "
        "from the same start and the same batches\n"
    )
    show_table([side_row(side) for side in result.sides], COLUMNS)
    click.echo("")
    show_table(*losses_table(result))
    for pair in result.pairs:
        click.echo("")
        for line in pair_lines(pair):
            click.echo(line)
    if result.scores is not None:
        click.echo("")
        show_scores(result.scores)
    click.echo(f"\n{result.out}/comparison.html shows all of it in a browser")


def losses_table(result: Result) -> tuple[list[JsonObject], dict[str, str]]:
    """Returns (rows, columns) of the losses at some steps, and of how far apart they are.

    The steps are the first, second, fourth, eighth and so on, the last, and those that were
    computed again from the same state.
    """
    columns = {"step": "step"}
    columns |= {f"loss {i}": f"loss, {side.label}" for i, side in enumerate(result.sides)}
    columns |= {f"pair {i}": f"{pair.second} apart" for i, pair in enumerate(result.pairs)}
    columns["yardstick"] = "yardstick"
    last = result.num_steps
    steps = {1 << power for power in range(last.bit_length())} | {last}
    steps |= {step.step + 1 for pair in result.pairs for step in pair.steps}

    def at(numbers: Sequence[float], number: int, style: str) -> str | None:
        return f"{numbers[number - 1]:{style}}" if numbers else None

    rows: list[JsonObject] = [
        {
            "step": number,
            **{f"loss {i}": at(s.losses, number, ".6f") for i, s in enumerate(result.sides)},
            **{f"pair {i}": at(p.distances, number, ".1e") for i, p in enumerate(result.pairs)},
            "yardstick": f"{result.yardstick[number - 1]:.1e}",
        }
        for number in sorted(steps)
    ]
    return rows, columns


def show_scores(scores: FinalScores) -> None:
    """Prints the scores of whole runs."""
    click.echo(f"after {scores.after}: {images_in_words(scores)}\n")
    show_table([score_row(side) for side in scores.sides], SCORE_COLUMNS)
    click.echo("")
    for pair in scores.pairs:
        click.echo(pair.in_words)


def show_finished(result: FinishedResult, as_json: bool) -> None:
    """Prints the comparison of finished runs and model files."""
    if as_json:
        show(to_json(result), as_json)
        return
    click.echo(f"{images_in_words(result)}\n")
    show_table([model_row(model) for model in result.models], MODEL_COLUMNS)
    click.echo("")
    for pair in result.pairs:
        click.echo(pair.in_words)
    if result.settings:
        click.echo("\nsettings that differ\n")
        show_table(*settings_table(result))


def settings_table(result: FinishedResult) -> tuple[list[JsonObject], dict[str, str]]:
    """Returns (rows, columns) of the settings that differ, with a column for each model."""
    columns = {"key": "setting"} | {str(i): m.label for i, m in enumerate(result.models)}
    rows: list[JsonObject] = [
        {"key": setting.key, **{str(i): value for i, value in enumerate(setting.values)}}
        for setting in result.settings
    ]
    return rows, columns


def images_in_words(result: FinalScores | FinishedResult) -> str:
    """Returns which images were scored."""
    unverified = " (NOT VERIFIED data)" if result.verified is False else ""
    return f"all {result.count:,} images of {result.dataset} {result.split}{unverified}"


def score_row(side: SeedScores) -> JsonObject:
    """Returns the scores of a side as texts, by the keys of `SCORE_COLUMNS`."""

    def mean(values: tuple[float, ...]) -> str:
        return f"{sum(values) / len(values):.2f} %"

    several = len(side.seeds) > 1
    return {
        "label": side.label,
        "seeds": ", ".join(map(str, side.seeds)),
        "top1": mean(side.top1),
        "spread": f"{side.spread:.2f}" if several else None,
        "top5": mean(side.top5),
    }


def model_row(model: ScoredModel) -> JsonObject:
    """Returns the scores of a model as texts, by the keys of `MODEL_COLUMNS`."""
    scores = model.scores
    return {
        "label": model.label,
        "top1": f"{scores.top1:.2f} %",
        "top5": f"{scores.top5:.2f} %",
        "loss": f"{scores.loss:.4f}",
    }


def side_row(side: SideResult) -> JsonObject:
    """Returns the figures of a side as texts, by the keys of `COLUMNS`."""
    rate, compiling, memory = side.images_per_second, side.compile_seconds, side.peak_memory_mb
    first = side.seconds_to_first_step
    return {
        "label": side.label,
        "dtype": side.dtype,
        "devices": ", ".join(side.devices),
        "rate": None if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}",
        "first": None if first is None else f"{first:.1f} s",
        "compile": None if compiling is None else f"{compiling:.1f} s",
        "memory": None if memory is None else f"{memory:,.0f} MB",
        "last": f"{side.losses[-1]:.5f}" if side.losses else None,
    }


def pair_lines(pair: PairResult) -> Iterator[str]:
    """Yields what is said of two sides: the verdict first."""
    verdict = pair.verdict
    yield f"{pair.second} against {pair.first}: {pair.answer}"
    if verdict.is_forward_only:
        pass  # there are no losses
    elif verdict.parting_step is None:
        yield f"  losses: never more than {pair.tolerance.loss:g} apart"
    else:
        yield (
            f"  losses: more than {pair.tolerance.loss:g} apart from step "
            f"{verdict.parting_step + 1} on, at most {verdict.distance:.2g}"
        )
    if verdict.yardstick is not None:
        yield (
            f"  yardstick: {verdict.yardstick:.2g}, of runs of {pair.first} that start one last "
            "bit apart"
        )
    if verdict.second_yardstick is not None and verdict.disturbance is not None:
        yield (
            f"  second yardstick: {verdict.second_yardstick:.2g}, of runs of {pair.first} whose "
            f"weights are moved by {verdict.disturbance:.1g} of themselves in each step, as much "
            "as outputs differ between the two sides"
        )
    for step in pair.steps:
        yield f"  step {step.step + 1} from the same state: {step_in_words(step)}"


def step_in_words(step: StepComparison) -> str:
    """Returns the largest difference of each stage, with its place, in units of its scale."""
    parts = [
        f"{words} {largest.size:.1g} ({largest.where})" if largest.size else f"{words} 0"
        for stage, words in STAGES.items()
        if (largest := step.largest(stage)) is not None
    ]
    return ", ".join(parts)
