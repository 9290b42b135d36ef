"""The runs that a page is about, read from their folders and checked to belong together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.types import StrPath
from keras_imnet64.curves import check_history
from keras_imnet64.evaluation.prediction_files import (
    StoredPredictions,
    is_predictions_file,
    read_predictions,
)
from keras_imnet64.models.info import read_model_info
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import Environment, FileScore, Metrics, ModelInfo
from keras_imnet64.runs import Run, not_finished, open_run, unique_labels
from keras_imnet64.spectral.branches import branch_runs

MAX_RUNS = 10  # as many colours as can be told apart


@dataclass(frozen=True)
class Subject:
    """A finished run, or predictions of a model that need not be here.

    Attributes:
        label: the name of its folder or file, or its path where the names are not distinct.
        path: the run folder, or the file of predictions.
        recipe: None for predictions.
        environment: None for predictions, and for an ensemble, which no process has trained as a
            whole.
        branches: the runs of an ensemble's branches.
        predictions: None for a run.
    """

    label: str
    path: Path
    metrics: Metrics
    info: ModelInfo
    recipe: Recipe | None = None
    environment: Environment | None = None
    branches: tuple[Run, ...] = ()
    predictions: StoredPredictions | None = None

    @property
    def run(self) -> Run:
        """The run, if it is one."""
        return Run(self.path)

    @property
    def is_ensemble(self) -> bool:
        return self.info.ensemble is not None


def open_subjects(paths: Sequence[StrPath]) -> list[Subject]:
    """Opens finished runs and files of predictions, of one data set and of the same classes.

    Raises:
        UserError: there is no such run, it is not finished, or they do not belong together.
    """
    if len(paths) > MAX_RUNS:
        raise UserError(f"a report shows at most {MAX_RUNS} runs; received {len(paths)}")
    labels = unique_labels(paths)
    if len(set(labels)) < len(labels):
        raise UserError(f"a report shows each run once; received {' '.join(labels)}")
    if not paths:
        return []
    subjects = [_open(Path(path), label) for path, label in zip(paths, labels, strict=True)]
    runs = [each for each in subjects if each.predictions is None]
    for other in subjects:
        _check_comparable((runs or subjects)[0], other, classes_of(subjects))
    return subjects


def classes_of(subjects: Sequence[Subject]) -> dict[str, str]:
    """Returns {class id: name} in the order of the first run's logits.

    Files of predictions know only the classes that occur in them: of these alone, all are returned,
    in the order of their ids.
    """
    runs = [each for each in subjects if each.predictions is None]
    found = {
        wnid: name
        for info in (each.info for each in runs[:1] or subjects)
        for wnid, name in zip(info.wnids or (), info.class_names or info.wnids or (), strict=True)
    }
    return found if runs else dict(sorted(found.items()))


def _open(path: Path, label: str) -> Subject:
    if is_predictions_file(path) and not path.is_dir():
        return _open_predictions(path, label)
    run = open_run(path)
    if not run.is_finished or not run.model.is_file():
        raise not_finished(run)
    check_history(run)
    has_environment = run.environment_file.is_file()
    return Subject(
        label,
        path,
        run.read_metrics(),
        read_model_info(run.model),
        load_recipe(run.recipe_file),
        run.read_environment() if has_environment else None,
        () if has_environment else tuple(branch_runs(run.path)),
    )


def _open_predictions(path: Path, label: str) -> Subject:
    found = read_predictions(path)
    scores = FileScore(**vars(found.top.scores))
    metrics = Metrics(dataset=found.dataset, split=found.split, verified=False, model=scores)
    info = ModelInfo(wnids=found.wnids, class_names=found.class_names, dataset=found.dataset)
    return Subject(label, path, metrics, info, predictions=found)


def _check_comparable(first: Subject, other: Subject, classes: Collection[str]) -> None:
    if other.metrics.dataset != first.metrics.dataset:
        raise UserError(
            f"{first.label} is of {first.metrics.dataset} and {other.label} of "
            f"{other.metrics.dataset}: a report shows runs on one data set"
        )
    if other.metrics.split != first.metrics.split:
        raise UserError(
            f"{first.label} has scores of {first.metrics.split} and {other.label} of "
            f"{other.metrics.split}: a report shows one split"
        )
    if other.predictions is not None:
        other.predictions.in_order([*classes], other.label)
    elif other.info.wnids != first.info.wnids:
        counts = [len(each.info.wnids or ()) for each in (first, other)]
        raise UserError(
            f"{first.label} and {other.label} have other classes ({counts[0]} and {counts[1]} "
            "ids, or another order): a report shows runs of the same classes"
        )
