"""Writes checkpoints: at the end of each epoch, and within epochs in a background thread."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import reason
from keras_imnet64.records import RunState
from keras_imnet64.training.finite import find_not_finite
from keras_imnet64.training.state import (
    Arrays,
    Variables,
    read_variables,
    save_checkpoint,
)

MAX_OVERHEAD = 0.01  # share of the time that writing may take, if the interval is in minutes


class Checkpoints:
    """Decides when a checkpoint is due, reads the state between two steps, and writes it.

    Args:
        folder: the run's `checkpoints`.
        model: the model that is trained.
        variables: all of the run's variables.
        every: the interval: "10 min", "500 steps" or "epoch".
        writes: whether this process writes; of several that train one run, one does.
    """

    def __init__(
        self,
        folder: Path,
        model: keras.Model,
        variables: Variables,
        every: str,
        writes: bool = True,
    ) -> None:
        self.folder, self.model, self.variables, self.writes = folder, model, variables, writes
        number, _, self.unit = every.rpartition(" ")
        self.interval = int(number or 0)
        self.write_seconds = 0.0  # to read and write the last checkpoint within an epoch
        self.restart_interval(0)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def restart_interval(self, step: int) -> None:
        """Notes the step of the newest checkpoint, counted over all epochs."""
        self.last_step, self.last_time = step, time.monotonic()

    def is_due(self, step: int) -> bool:
        """Returns whether the interval is over at this step, counted over all epochs."""
        if not self.writes or (self._writing is not None and not self._writing.done()):
            return False
        if self.unit == "steps":
            return step - self.last_step >= self.interval
        seconds = max(60 * self.interval, self.write_seconds / MAX_OVERHEAD)
        return self.unit == "min" and time.monotonic() - self.last_time >= seconds

    def read(self) -> Arrays:
        """Returns copies of the state between two steps."""
        return read_variables(self.model, self.variables)

    def save(self, run_state: RunState) -> str | None:
        """Writes the current state, or returns what is not finite, see `find_not_finite`.

        Raises:
            OSError: the file could not be written; earlier checkpoints are intact.
        """
        arrays = self.read()
        if what := find_not_finite(arrays):
            return what
        self.save_arrays(arrays, run_state)
        return None

    def save_arrays(self, arrays: Arrays, run_state: RunState) -> None:
        """Writes a finite state that `read` returned; raises an OSError as `save` does."""
        self.wait()
        if self.writes:
            save_checkpoint(self.folder, arrays, run_state)

    def save_in_background(self, run_state: RunState, step: int) -> None:
        """Writes the current state while training continues; a failure is only reported.

        Args:
            step: the number of steps done, counted over all epochs.
        """
        started = time.monotonic()
        arrays = self.read()
        self.restart_interval(step)
        self._writing = self._writer.submit(self._write, arrays, run_state, started)

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is on disk."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Waits for the writing thread to end."""
        self._writer.shutdown()

    def _write(self, arrays: Arrays, run_state: RunState, started: float) -> None:
        if find_not_finite(arrays):  # the next check of the state ends the run
            say("no checkpoint was written: a weight, or the optimizer's state, is not finite")
            return
        try:
            save_checkpoint(self.folder, arrays, run_state)
        except Exception as error:  # an OSError, or memory ran out
            say(f"no checkpoint could be written ({reason(error)}); training continues")
        self.write_seconds = time.monotonic() - started
