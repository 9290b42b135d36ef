"""Scores model files on a run's final images, for metrics.json."""

from dataclasses import asdict

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.types import StrPath
from keras_imnet64.evaluation.evaluate import score_model
from keras_imnet64.models.load import load_model
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import FileScore, ScoredImages
from keras_imnet64.training.data import Data


def score_file(path: StrPath, data: Data, devices: Devices) -> FileScore:
    """Returns the scores of a model file on a run's final images, in the recipe's view."""
    return FileScore(**asdict(score_model(load_model(path), data.final, devices, data.view)))


def describe_scores(recipe: Recipe, data: Data, devices: Devices) -> ScoredImages:
    """Describes the recipe, images and crops of the scores that `score_file` returns."""
    return ScoredImages(
        recipe=recipe.name,
        backend=devices.backend,
        dataset=data.final.store.dataset,
        split=data.final.store.split,
        verified=bool(data.final.store.verified and data.train.store.verified),
        selected_on=recipe.selection,
        crops=10 if recipe.evaluation.ten_crop else 1,
    )
