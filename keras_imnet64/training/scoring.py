"""Scores model files on a run's final images, for metrics.json."""

import hashlib
import zipfile
from dataclasses import asdict

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.types import StrPath
from keras_imnet64.evaluation.evaluate import require_finite, score_model, score_views
from keras_imnet64.evaluation.views import NUM_CROPS
from keras_imnet64.models.load import load_model
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import FileScore, ScoredImages, ViewSet
from keras_imnet64.training.data import Data

NETWORK_MEMBERS = ("config.json", "model.weights.h5")  # of a `.keras` file


def score_file(path: StrPath, data: Data, devices: Devices, views: ViewSet) -> FileScore:
    """Returns the scores of a model file on a run's final images, in the recipe's view.

    Args:
        views: which views are averaged and scored too, beside the single view.

    Raises:
        RunFailed: the logits are not finite.
    """
    model = load_model(path)
    found = score_model(model, data.final, devices, data.view)
    require_finite(found, path)
    scores = asdict(found)
    if views != "none":
        scores |= asdict(score_views(model, data.final, devices, views))
    return FileScore(**scores)


def have_same_network(path: StrPath, other: StrPath) -> bool:
    """Whether two model files hold the same layers and weights, and thus have the same scores."""
    return _network_digests(path) == _network_digests(other)


def _network_digests(path: StrPath) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        return [hashlib.sha256(archive.read(name)).digest() for name in NETWORK_MEMBERS]


def describe_scores(recipe: Recipe, data: Data, devices: Devices) -> ScoredImages:
    """Describes the recipe, images and crops of the scores that `score_file` returns."""
    return ScoredImages(
        recipe=recipe.name,
        backend=devices.backend,
        dataset=data.final.store.dataset,
        split=data.final.store.split,
        verified=bool(data.final.store.verified and data.train.store.verified),
        selected_on=recipe.selection,
        crops=NUM_CROPS if recipe.evaluation.ten_crop else 1,
        views=recipe.evaluation.views,
    )
