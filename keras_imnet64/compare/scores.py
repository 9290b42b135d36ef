"""Trains whole runs of each side, with several seeds, and scores them image by image.

Each run is one of the command `fit`, in a run folder of its own within the comparison's: a killed
comparison resumes it there.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from keras_imnet64.compare.folder import Comparison
from keras_imnet64.compare.result import FinalScores, Pair, SeedScores
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.processes import run_child
from keras_imnet64.runs import Run


def final_scores(comparison: Comparison, num_epochs: int, num_seeds: int) -> FinalScores:
    """Trains what is not finished, and scores it.

    Args:
        num_seeds: runs of each side: with the recipe's seed and the ones after it.
    """
    first_seed = comparison.recipe.train.seed
    seeds = range(first_seed, first_seed + num_seeds)
    for seed in seeds:
        for index in range(len(comparison.sides)):
            train(comparison, index, num_epochs, seed)
    return score(comparison, num_epochs, seeds)


def run_of(comparison: Comparison, index: int, num_epochs: int, seed: int) -> Run:
    """Returns the run of a side, which may not have begun."""
    return Run(comparison.side_folder(index) / f"{num_epochs}-epochs-seed-{seed}")


def train(comparison: Comparison, index: int, num_epochs: int, seed: int) -> None:
    """Trains or resumes a run in a process of its own, unless it is finished."""
    run, side = run_of(comparison, index, num_epochs, seed), comparison.sides[index]
    if run.is_finished:
        return
    recipe = comparison.side_folder(index) / "recipe.toml"
    write_atomic(recipe, side.recipe(comparison.recipe).to_toml())
    say(f"side {side.label}, seed {seed}")
    child = run_child(
        "keras_imnet64",
        "fit",
        *("--recipe", str(recipe), "--out", str(run.path), "--json", "--no-report"),
        *("--set", f"train.epochs={num_epochs}", "--set", f"train.seed={seed}"),
        *_options(comparison, index),
        environment=os.environ | side.environment,
        show_errors=True,
    )
    if child.failure:
        raise RunFailed(
            f"side {side.label} with seed {seed} failed: {child.failure}; what is finished is kept "
            f"in {comparison.folder}, and the same command goes on"
        )


def _options(comparison: Comparison, index: int) -> list[str]:
    """Returns the options of `fit` for the devices and folders of a side."""
    values = {
        "--backend": comparison.sides[index].backend,
        "--devices": comparison.sides[index].devices,
        "--virtual-devices": comparison.virtual_devices,
        "--data-dir": comparison.data_dir,
        "--cache-dir": comparison.cache_dir,
        "--num-processes": 1,  # whatever launcher has started this process as one of several
    }
    return [
        text
        for option, value in values.items()
        if value is not None
        for text in (option, str(value))
    ]


def score(comparison: Comparison, num_epochs: int, seeds: Sequence[int]) -> FinalScores:
    """Scores the finished runs: those of a seed are held against each other."""
    from keras_imnet64.backend.devices import choose_backend

    choose_backend()
    from keras_imnet64.compare.finished import compare_finished

    labels = [side.label for side in comparison.sides]
    by_seed = []
    for seed in seeds:
        runs: list[Path] = [
            run_of(comparison, index, num_epochs, seed).path for index in range(len(labels))
        ]
        by_seed.append(
            compare_finished(runs, data_dir=comparison.data_dir, cache_dir=comparison.cache_dir)
        )
    first = by_seed[0]
    return FinalScores(
        epochs=num_epochs,
        dataset=first.dataset,
        split=first.split,
        count=first.count,
        verified=bool(first.verified),
        sides=tuple(
            SeedScores(
                label,
                tuple(seeds),
                tuple(found.models[index].scores.top1 for found in by_seed),
                tuple(found.models[index].scores.top5 for found in by_seed),
            )
            for index, label in enumerate(labels)
        ),
        pairs=tuple(
            Pair(f"{labels[0]} seed {seed}", f"{label} seed {seed}", pair.test)
            for seed, found in zip(seeds, by_seed, strict=True)
            for label, pair in zip(labels[1:], found.pairs, strict=True)
        ),
    )
