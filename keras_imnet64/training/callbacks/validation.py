"""Scores each epoch on the validation images, with the weights that would ship."""

import math
from typing import TYPE_CHECKING

from keras_imnet64.evaluation.evaluate import make_scorer, score_selection, scoring_batch_size
from keras_imnet64.records import Scores

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class Validation:
    """Scores the float32 copy of the training model, filled with its (averaged) weights."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.scorer = make_scorer(trainer.float32_copy)
        self.batch_size = scoring_batch_size(trainer.setup.devices)

    def score(self) -> Scores:
        """Fills the float32 copy and scores it; raises NotFinite if its loss is not finite."""
        data = self.trainer.setup.data
        self.trainer.fill_copy()
        view = data.one_crop_view
        scores = score_selection(self.scorer, data.validation, self.batch_size, view)
        if not math.isfinite(scores.loss):
            raise self.trainer.finiteness.error("the validation's loss")
        return scores
