"""Chooses the weights of the branches in an ensemble.

A weight multiplies the logits of a branch. "avg" gives all branches equal weights; "geo" weights
them by rank, best first, with p (1 - p)^rank and p = 0.3, as published; "fit" minimises the
cross-entropy of held-out images. The test split is used for neither ranking nor fitting, unless the
recipe selects on it (`train.select_on`).
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.data.selection import Selection
from keras_imnet64.evaluation.evaluate import scoring_batch_size
from keras_imnet64.evaluation.predictions import BranchPredictions, predict_branches, predict_logits
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.spectral.members import Member
from keras_imnet64.spectral.report import Mixture, ReportRow, ensemble_rows
from keras_imnet64.training.data import Data

Fusion: TypeAlias = Literal["avg", "geo", "fit"]

FUSIONS = ("avg", "geo", "fit")
GEO_P = 0.3
MAX_FIT_BYTES = 2**31  # of the logits that weights are fitted on


def check_fusion(fusion: str, recipe: Recipe) -> None:
    """Refuses an unknown fusion, and a fusion for which the recipe keeps no images aside."""
    if fusion not in FUSIONS:
        raise UserError(f'there is no fusion "{fusion}"; {nearest(fusion, FUSIONS)}')
    if fusion == "geo" and recipe.selection == "none":
        raise UserError(
            "--fusion geo ranks branches by accuracy: the recipe needs data.holdout, images kept "
            'aside for it, or train.select_on = "validation", to repeat a paper that ranked on it'
        )
    if fusion == "fit" and recipe.selection != "holdout":
        raise UserError(
            "--fusion fit needs images on which no branch is trained and no score is computed: set "
            "data.holdout in the recipe"
        )


class BranchScorer:
    """Ranks and weights the branches, and scores them on the test split.

    Use it within the scope of the devices.
    """

    def __init__(
        self, models: Sequence[keras.Model], data: Data, recipe: Recipe, devices: Devices
    ) -> None:
        self.models, self.data, self.recipe, self.devices = models, data, recipe, devices
        self.view, self.batch_size = data.one_crop_view, scoring_batch_size(devices)

    def ranking(self) -> list[int] | None:
        """Returns the positions of the branches, best first, on the images the recipe selects on.

        Returns None if the recipe does not select.
        """
        if self.recipe.selection == "none":
            return None
        return _ranking_of(self._predict(self.data.validation))

    def weights(self, fusion: Fusion, ranking: list[int] | None) -> list[float]:
        """Returns the weight of each branch."""
        if fusion == "geo":
            assert ranking is not None  # see `check_fusion`
            return geometric(ranking)
        if fusion == "fit":
            return self._fitted()
        return [1 / len(self.models)] * len(self.models)

    def _fitted(self) -> list[float]:
        num_classes, held_out = self.data.num_classes, self.data.validation
        max_images = max(1, MAX_FIT_BYTES // (4 * len(self.models) * num_classes))
        images = held_out.evenly_spaced(max_images)
        return fit_weights(*predict_logits(self.models, images, self.batch_size, self.view))

    def report_rows(
        self, members: Sequence[Member], ranking: list[int] | None, weights: Sequence[float]
    ) -> list[ReportRow]:
        """Returns the rows of the report, all scored on the test split with one crop.

        Without a ranking, these scores themselves order the branches, which `ranked_on` records.
        """
        final, ranked_on = self.data.final, str(self.recipe.selection)
        if ranking is None:
            ranking, ranked_on = _ranking_of(self._predict(final)), "these scores"
        mixtures = [Mixture("joined", list(weights)), *mixtures_of_best(ranking)]
        predictions = self._predict(final, [mixture.weights for mixture in mixtures])
        return ensemble_rows(members, self.models, predictions, weights, mixtures, ranked_on)

    def _predict(
        self, selection: Selection, mixtures: Sequence[Sequence[float]] = ()
    ) -> BranchPredictions:
        return predict_branches(
            self.models, selection, self.devices, self.batch_size, self.view, mixtures
        )


def mixtures_of_best(ranking: Sequence[int]) -> list[Mixture]:
    """Returns the mixtures of the best 1, 2, ... branches, with equal weights and by rank."""
    mixtures = []
    for count in range(1, len(ranking) + 1):
        equal = [1 / count] * count
        for fusion, weights in (("avg", equal), ("geo", geometric(range(count)))):
            of_branches = [0.0] * len(ranking)
            for position, weight in zip(ranking, weights, strict=False):
                of_branches[position] = weight
            mixtures.append(Mixture(f"{fusion} of {count}", of_branches))
    return mixtures


def _ranking_of(predictions: BranchPredictions) -> list[int]:
    return rank([scores.top1 for scores in predictions.scores])


def rank(top1: Sequence[float]) -> list[int]:
    """Returns positions, best first; of equal scores the earlier position comes first."""
    return sorted(range(len(top1)), key=lambda position: -top1[position])


def geometric(ranking: Sequence[int]) -> list[float]:
    """Returns p (1 - p)^rank of each position, scaled to sum to 1; p is `GEO_P`.

    Args:
        ranking: positions, best first.
    """
    weights = np.empty(len(ranking))
    weights[list(ranking)] = GEO_P * (1 - GEO_P) ** np.arange(len(ranking))
    scaled: list[float] = (weights / weights.sum()).tolist()
    return scaled


def fit_weights(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Returns weights of at least 0 that minimise the mean cross-entropy of weighted sums.

    The problem is convex. The weights need not sum to 1: their sum acts as an inverse temperature.

    Args:
        logits: float32 [M, N, K].
        labels: integers [N].
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    num_images = len(labels)
    own = logits[:, np.arange(num_images), labels].sum(axis=1, dtype="float64")  # [M]

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.tensordot(weights.astype("float32"), logits, 1)  # [N, K]
        loss = -log_softmax(mixed, axis=1)[np.arange(num_images), labels].sum(dtype="float64")
        expected = np.tensordot(logits, softmax(mixed, axis=1), ([1, 2], [0, 1]))  # [M]
        return loss / num_images, (expected - own) / num_images

    found = minimize(
        loss_and_gradient,
        np.full(len(logits), 1 / len(logits)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(logits),
    )
    weights: list[float] = found.x.tolist()
    return weights
