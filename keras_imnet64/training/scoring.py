"""Scores model files on a run's images: what metrics.json holds of them."""

import keras

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection
from keras_imnet64.evaluation.evaluate import (
    make_scorer,
    score,
    scoring_batch_size,
    ten_crop_batch_size,
    with_ten_crops,
)
from keras_imnet64.models.ship import load_model
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import FileScore, ScoredImages
from keras_imnet64.training.data import Data


def score_images(
    scorer: keras.Model, selection: Selection, batch_size: int, view: View | None
) -> FileScore:
    """Returns the scores of a model on all images of a selection, see `evaluate.score`."""
    return FileScore(**score(scorer, selection, batch_size, view))


def score_file(path: StrPath, data: Data, devices: Devices) -> FileScore:
    """Returns the scores of a model file on a run's final images, as the recipe shows them."""
    model, view, batch_size = load_model(path), data.view, scoring_batch_size(devices)
    if view and view.ten_crop:
        model, batch_size = with_ten_crops(model, view.image_size), ten_crop_batch_size(devices)
    return score_images(make_scorer(model), data.final, batch_size, view)


def describe_scores(recipe: Recipe, data: Data, devices: Devices) -> ScoredImages:
    """Returns of which recipe, on which images and how `score_file` scores."""
    return ScoredImages(
        recipe=recipe.name,
        backend=devices.backend,
        dataset=data.final.store.dataset,
        split=data.final.store.split,
        verified=bool(data.final.store.verified and data.train.store.verified),
        selected_on=recipe.selection,
        crops=10 if recipe.evaluation.ten_crop else 1,
    )
