"""The runs that a page is about, read from their folders and checked to belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath
from keras_imnet64.models.info import read_model_info
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import Environment, Metrics, ModelInfo
from keras_imnet64.runs import Run, not_finished, open_run
from keras_imnet64.spectral.branches import branch_runs

MAX_RUNS = 10  # as many colours as can be told apart


@dataclass(frozen=True)
class Subject:
    """A finished run.

    Attributes:
        label: the name of its folder, or its path where the names are not distinct.
        environment: None for an ensemble, which no process has trained as a whole.
        branches: the runs of an ensemble's branches.
    """

    label: str
    run: Run
    recipe: Recipe
    metrics: Metrics
    info: ModelInfo
    environment: Environment | None
    branches: tuple[Run, ...]

    @property
    def history(self) -> list[dict[str, str]]:
        """The rows of history.csv; an ensemble has none."""
        return self.run.history if self.run.history_file.is_file() else []

    @property
    def is_ensemble(self) -> bool:
        return self.info.ensemble is not None


def open_subjects(paths: Sequence[StrPath]) -> list[Subject]:
    """Opens finished runs of one data set and of the same classes.

    Raises:
        UserError: there is no such run, it is not finished, or runs do not belong together.
    """
    if len(paths) > MAX_RUNS:
        raise UserError(f"a report shows at most {MAX_RUNS} runs; received {len(paths)}")
    names = [Path(path).resolve().name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(set(labels)) < len(labels):
        raise UserError(f"a report shows each run once; received {' '.join(labels)}")
    subjects = [_open(path, label) for path, label in zip(paths, labels, strict=True)]
    for other in subjects[1:]:
        _check_comparable(subjects[0], other)
    return subjects


def _open(path: StrPath, label: str) -> Subject:
    run = open_run(path)
    if not run.is_finished or not run.model.is_file():
        raise not_finished(run)
    has_environment = run.environment_file.is_file()
    return Subject(
        label,
        run,
        load_recipe(run.recipe_file),
        run.read_metrics(),
        read_model_info(run.model),
        run.read_environment() if has_environment else None,
        () if has_environment else tuple(branch_runs(run.path)),
    )


def _check_comparable(first: Subject, other: Subject) -> None:
    if other.metrics.dataset != first.metrics.dataset:
        raise UserError(
            f"{first.label} is a run on {first.metrics.dataset} and {other.label} one on "
            f"{other.metrics.dataset}: a report shows runs on one data set"
        )
    if other.info.wnids != first.info.wnids:
        counts = [len(each.info.wnids or ()) for each in (first, other)]
        raise UserError(
            f"{first.label} and {other.label} have other classes ({counts[0]} and {counts[1]} "
            "ids, or another order): a report shows runs of the same classes"
        )
