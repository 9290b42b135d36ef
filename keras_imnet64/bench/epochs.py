"""The time of epochs of `Model.fit`: Keras waits for the device at the end of an epoch alone."""

import time

import keras
import numpy as np

from keras_imnet64.core.types import Tensor
from keras_imnet64.models.keras_private import CallbacksBesideSteps


def seconds_between_ends(
    model: keras.Model, batches: Tensor, num_steps: int, epochs: int = 2
) -> list[float]:
    """Trains for epochs of so many steps, and returns the seconds between their ends.

    The first epoch fills pipelines and caches.
    """
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
    )
    model.fit(
        batches,
        steps_per_epoch=num_steps,
        epochs=epochs,
        callbacks=CallbacksBesideSteps(  # as `fit` has them
            [clock], add_history=True, model=model, epochs=epochs, verbose=0
        ),
        shuffle=False,
        verbose=0,
    )
    return np.diff(ends).tolist()
