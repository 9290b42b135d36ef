"""Handles SIGINT and SIGTERM: the first stops a run after the current step, the second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import keras

from keras_imnet64.core.console import say


class StopSignal:
    """Asks the run to stop when a signal comes.

    Attributes:
        requested: whether a signal has come.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.model.stop_training = True
        say("stopping after this step; a second signal stops at once")
