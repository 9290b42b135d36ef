"""When checkpoints are written: at each epoch's end, and between in a thread beside the steps."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import reason
from keras_imnet64.training.finite import FiniteCheck, what_is_not_finite
from keras_imnet64.training.state import is_finite, read_state, save_checkpoint

LARGEST_OVERHEAD = 0.01  # that writing takes, where minutes say how often


class Checkpoints:
    """Reads the state between two steps, and writes it.

    Args:
        folder: the run's `checkpoints`.
        model: the model that is trained.
        variables: {path: variable} of all state.
        every: "10 min", "500 steps" or "epoch".
    """

    def __init__(self, folder, model, variables, every):
        self.folder, self.model, self.variables = folder, model, variables
        number, _, self.unit = every.rpartition(" ")
        self.number = int(number or 0)
        self.cost = 0.0  # seconds that the last one took, of this thread and beside it
        self.begin(0)
        self.is_state_finite = FiniteCheck(model, variables)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing = None

    def begin(self, step):
        """The run goes on from a checkpoint of this step, counted over all epochs."""
        self.since_step, self.since = step, time.monotonic()

    def is_due(self, step):
        """Whether it is time for one before this step, counted over all epochs."""
        if self._writing is not None and not self._writing.done():
            return False
        if self.unit == "steps":
            return step - self.since_step >= self.number
        pause = max(60 * self.number, self.cost / LARGEST_OVERHEAD)
        return self.unit == "min" and time.monotonic() - self.since >= pause

    def read(self):
        """Returns {path: array}, copies of the state between two steps."""
        return read_state(self.model, self.variables)

    def what_is_not_finite(self):
        """Returns what of the state is not finite, see `finite.what_is_not_finite`, or None."""
        return what_is_not_finite(self.read())

    def save(self, progress):
        """Write the state now; returns whether it was finite, else nothing is written.

        Raises:
            OSError: it could not be written; the checkpoints before it are intact.
        """
        state = self.read()
        if not is_finite(state):
            return False
        self.save_copy(state, progress)
        return True

    def save_copy(self, state, progress):
        """Write a state that was read before and is finite; OSError as in `save`."""
        self.wait()
        save_checkpoint(self.folder, state, progress)

    def save_beside(self, progress, step):
        """Write the state of now while training goes on; where that fails, say so and go on."""
        started = time.monotonic()
        state = self.read()
        self.begin(step)
        self._writing = self._writer.submit(self._write, state, copy.deepcopy(progress), started)

    def wait(self):
        """Until what is being written is."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self):
        """The folder is left: nothing is being written any more."""
        self._writer.shutdown()

    def _write(self, state, progress, started):
        if not is_finite(state):  # the next look at the state ends the run
            say("no checkpoint was written: a weight, or the optimizer's state, is not finite")
            return
        try:
            save_checkpoint(self.folder, state, progress)
        except Exception as error:  # memory may lack too
            say(f"no checkpoint could be written ({reason(error)}); training goes on")
        self.cost = time.monotonic() - started
