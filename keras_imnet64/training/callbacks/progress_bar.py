"""Shows the progress of an epoch: a bar on a terminal, elsewhere dots that its result follows."""

import math
import threading
import time
from collections.abc import Callable

import keras
import numpy as np
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from keras_imnet64.core.activity import FIRST_LINE_SECONDS, Activity, resume, suspend
from keras_imnet64.core.console import console, say
from keras_imnet64.core.types import Logs

SECONDS_BETWEEN_TEXTS = 1.0  # where there is no terminal; making one takes about a millisecond
FIGURES_SECONDS = 60.0  # of an epoch, after which a log has a line with figures
MAX_SECONDS_BETWEEN_FIGURES = 600.0


class EpochInLog(Activity):
    """An epoch in a log: its number, a dot every five seconds, and its result behind them.

    Only what takes more than a minute has other lines. The steps have one after 1, 2, 4, 8 minutes
    and so on, and then every ten minutes, `text`: that the step is being compiled, or the figures.
    Scoring has lines of its own.
    """

    dot_seconds = 5.0
    keeps_line_seconds = FIGURES_SECONDS

    def __init__(self, title: str, text: str) -> None:
        super().__init__(text)
        self.title = title

    def line(self) -> str:
        return f"{self.title if self.seconds < FIGURES_SECONDS else self.text} "

    def plan_next_line(self) -> None:
        while self.next_line <= self.seconds:
            later = self.next_line + min(self.next_line, MAX_SECONDS_BETWEEN_FIGURES)
            self.next_line = max(FIGURES_SECONDS, later)


class ProgressBar(keras.callbacks.Callback):
    """Shows every step without delaying it, and notices a loss that is not finite.

    `CallbacksBesideSteps` runs `async_safe` callbacks beside the training step, so reading the loss
    does not delay the loop. Losses are running means over the epoch, as Keras gives them: once the
    mean is not finite, it stays so. `Hooks` ends the epoch when it sees `bad_step`. This callback
    must not do so itself: under JAX reading `self.model` writes the state into the model while a
    step runs.

    Attributes:
        bad_step: the first step of the epoch whose loss is not finite, counted from 1, or None.
    """

    async_safe = True

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        rates_of: Callable[[int], np.ndarray],
        size_of_epoch: Callable[[int], int] | None = None,
    ) -> None:
        """
        Args:
            batch_size: images per step.
            rates_of: epoch -> learning rates of its steps, and of the one after it. It is called
                before the first step: JAX computes nothing else while a step runs.
            size_of_epoch: epoch -> pixels per side of its images, if these change. The step is
                compiled each time that `prepare` is called then.
        """
        super().__init__()
        self.epochs, self.steps_per_epoch, self.batch_size = epochs, steps_per_epoch, batch_size
        self.rates_of, self.size_of_epoch = rates_of, size_of_epoch
        self.bad_step: int | None = None
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._in_log: EpochInLog | None = None  # in place of the bar where there is no terminal
        # Until the end of the first step of the process, or of a size, which compiles.
        self._compiling: Activity | None = Activity("preparing the training step")
        self._first_step_seconds: float | None = None  # of the epoch, if it compiled

    def prepare(self) -> None:
        """Shows that training begins, until the first epoch does; call it before Keras' loop."""
        if self.size_of_epoch and not self._compiling:
            self._compiling = Activity("preparing the training step")
        if self._compiling:
            self._compiling.start()

    def begin(self, epoch: int, step: int) -> None:
        """Begins an epoch at a step; call it before the step."""
        self.epoch, self.first, self.done = epoch, step, step
        self.bad_step = None
        self.rates = self.rates_of(epoch)
        self.started = self.first_done = time.monotonic()
        self.last_text = 0.0
        text = self._position()
        if self._compiling:
            size = f" at {self.size_of_epoch(epoch)} px" if self.size_of_epoch else ""
            text = self._compiling.text = f"{text}  compiling the training step{size}"
        if not console().is_terminal:
            if self._compiling:
                self._compiling.stop()
            self._in_log = EpochInLog(self._title(), text)
            self._in_log.start()
        elif not self._compiling:
            self._open_bar()

    def _open_bar(self) -> None:
        one_line = TextColumn("{task.description}", table_column=Column(no_wrap=True))
        columns = [BarColumn(bar_width=10 if console().width < 120 else 30), one_line]
        self._bar = Progress(*columns, console=console(), transient=True)
        suspend()
        self._bar.start()
        self._task = self._bar.add_task(
            self._position(), total=self.steps_per_epoch, completed=self.done
        )

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        step = self.first + batch + 1
        with self._lock:
            if not math.isfinite(logs["loss"]):
                self.bad_step = min(step, self.bad_step or step)
            if step <= self.done:
                return  # a later step has reported before
            if self.done == self.first:
                self.first_done = time.monotonic()  # the first step compiles
            self.done = step
            self._end_compiling()
            self._show(logs)

    def _end_compiling(self) -> None:
        """Opens the bar after a first step that compiled; a log has its seconds with the result."""
        compiling, self._compiling = self._compiling, None
        if compiling is None:
            return
        compiling.stop()
        if self._in_log is None:
            self._open_bar()
        elif compiling.seconds > FIRST_LINE_SECONDS:
            self._first_step_seconds = compiling.seconds

    def _show(self, logs: Logs) -> None:
        now = time.monotonic()
        if self._bar is not None:
            line = f"{self._position()}  {self._line(logs)}"
            self._bar.update(self._task, completed=self.done, description=line)
        elif self._in_log is not None and now - self.last_text >= SECONDS_BETWEEN_TEXTS:
            self.last_text = now
            self._in_log.text = f"{self._position()}  {self._line(logs)}"

    def _title(self) -> str:
        return f"epoch {self.epoch + 1}/{self.epochs}"

    def _position(self) -> str:
        return f"{self._title()} {self.done}/{self.steps_per_epoch}"

    def _line(self, logs: Logs) -> str:
        steps = self.done - self.first - 1
        per_step = (time.monotonic() - self.first_done) / steps if steps else 0.0
        line = (
            f"loss {logs['loss']:.3f} top1 {100 * logs['top1']:.1f} top5 {100 * logs['top5']:.1f}"
            f" lr {self.rates[self.done]:.2g}"
        )
        if not per_step:
            return line  # the first step compiles: no speed is known yet
        epoch_left = per_step * (self.steps_per_epoch - self.done)
        run_left = epoch_left + per_step * self.steps_per_epoch * self._later_epochs()
        return (
            f"{line} {self.batch_size / per_step:.0f} images/s left {duration(epoch_left)}, run "
            f"{duration(run_left)}"
        )

    def _later_epochs(self) -> float:
        """Returns the epochs after this one, each counted by the area of its images over now's."""
        later = range(self.epoch + 1, self.epochs)
        if not self.size_of_epoch:
            return len(later)
        now = self.size_of_epoch(self.epoch)
        return sum((self.size_of_epoch(epoch) / now) ** 2 for epoch in later)

    def close(self) -> None:
        """Removes the bar from the screen; a report that comes later does not bring it back."""
        with self._lock:
            self._close_bar()
            if self._in_log is not None:
                self._in_log.stop()
                self._in_log = None

    def _close_bar(self) -> None:
        if self._compiling:
            self._compiling.stop()
            self._compiling = None
        if self._bar is not None:
            self._bar.stop()
            resume()
            self._bar = None

    def end(self) -> tuple[float, float | None]:
        """Ends the steps of an epoch; the line of a log stays open until `say_result`.

        Returns:
            The epoch's seconds, and images per second without the first step, None if it is alone.
        """
        now = time.monotonic()
        with self._lock:
            self._close_bar()
        steps = self.done - self.first - 1
        measured = now - self.first_done
        return now - self.started, self.batch_size * steps / measured if steps > 0 else None

    def say_result(self, line: str) -> None:
        """Says the line of the epoch, which begins with its number as in `_title`."""
        with self._lock:
            in_log, self._in_log = self._in_log, None
            seconds, self._first_step_seconds = self._first_step_seconds, None
        if seconds is not None:
            line = f"{line}  first step {seconds:.0f} s"
        if in_log is None or not in_log.complete(line):
            say(line)


def duration(seconds: float) -> str:
    """Returns 4:05 or 3:04:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
