"""Counts `training_seconds`: the wall clock from a run's first step to its written model file.

Compiling, checkpoints, the scores of epochs and what follows the last step until `model.keras` is
written are included. Before the first step nothing is counted, such as loading data and building
the model, and neither is what follows the file: its final scores.

A run that was interrupted counts what each of its processes took: from where it trains to the
checkpoint from which the next process resumes, and of the last process to the model file. What a
killed process did after its newest checkpoint is lost, is done again by the next, and counts once.
Rollbacks and steps that are repeated within a process took their time, and count.
"""

import time

from keras_imnet64.records import RunState


def in_tenths(seconds: float | None) -> float | None:
    """Returns seconds as records have them: with one decimal; None stays None."""
    return None if seconds is None else round(seconds, 1)


class TrainingClock:
    """Adds the time of this process to that of earlier ones, which the state of a run holds."""

    def __init__(self) -> None:
        self._earlier: float | None = 0.0
        self._started: float | None = None

    def start(self, state: RunState) -> None:
        """Starts to count where a process begins to train; does nothing if the clock runs.

        Args:
            state: the state from which the process trains. If a version of this program wrote it
                that did not count yet, the total is unknown.
        """
        if self._started is None:
            self._earlier = state.training_seconds if state.has_trained else 0.0
            self._started = time.monotonic()

    @property
    def seconds(self) -> float | None:
        """The seconds so far, over all processes; None if those of an earlier one are unknown."""
        if self._earlier is None or self._started is None:
            return None
        return self._earlier + time.monotonic() - self._started
