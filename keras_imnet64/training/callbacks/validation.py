"""Scores each epoch on the validation images, with the weights that would ship."""

import math

import keras

from keras_imnet64.backend.devices import Devices
from keras_imnet64.evaluation.evaluate import make_scorer, score_selection, scoring_batch_size
from keras_imnet64.records import Scores
from keras_imnet64.training.callbacks.finiteness import Finiteness
from keras_imnet64.training.data import Data


class Validation:
    """Scores a model, the float32 copy of the training model, on the validation images."""

    def __init__(
        self, model: keras.Model, data: Data, devices: Devices, finiteness: Finiteness
    ) -> None:
        self.scorer, self.data, self.finiteness = make_scorer(model), data, finiteness
        self.batch_size, self.part = scoring_batch_size(devices), devices.cluster.part

    def score(self) -> Scores:
        """Returns the current scores; raises NotFinite if the loss is not finite."""
        images, view = self.data.validation, self.data.one_crop_view
        scores = score_selection(self.scorer, images, self.batch_size, view, self.part)
        if not math.isfinite(scores.loss):
            raise self.finiteness.error("the validation's loss")
        return scores
