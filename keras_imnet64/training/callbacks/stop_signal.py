"""Handles SIGINT and SIGTERM: the first stops a run after the current step, the second at once.

A process that follows its parent ignores further SIGTERMs: Slurm sends the signal to all processes
of a job, and the parent passes on what it gets. A parent that is in haste kills.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import keras

from keras_imnet64.backend.cluster import StopAgreement
from keras_imnet64.core.console import announce, say
from keras_imnet64.core.processes import follows_parent


class StopSignal:
    """Asks the run to stop when a signal comes.

    Args:
        agreement: with the other processes that train the run, on the step after which all stop;
            None for a run of one process.

    Attributes:
        requested: whether the run stops after the current step.
    """

    def __init__(self, model: keras.Model, agreement: StopAgreement | None = None) -> None:
        self.model, self.agreement = model, agreement
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals within the context; Python allows this in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        handlers = {number: signal.signal(number, self._handle) for number in signals}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def begin_step(self) -> None:
        """Counts a step; with other processes, notes whether it is the one they all stop after."""
        if self.agreement is not None and self.agreement.is_last_step():
            self.requested = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGTERM and follows_parent():
            return
        if self.requested or (self.agreement is not None and self.agreement.is_asked):
            raise KeyboardInterrupt
        if self.agreement is None:
            self.requested = True
            self.model.stop_training = True
            say("stopping after this step; a second signal stops at once")
        else:
            self.agreement.ask()
            announce("stopping all processes after a step; a second signal stops at once")
