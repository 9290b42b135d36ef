"""What a run shows while it trains: a bar on a terminal, plain lines elsewhere."""

import math
import threading
import time

import keras
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from keras_imnet64.core.console import console, say

PLAIN_SECONDS = 30  # between two lines where there is no terminal


class ProgressBar(keras.callbacks.Callback):
    """Follows every step without holding it up, shows it, and notices a loss that is not finite.

    Keras runs `async_safe` callbacks beside the training step, so reading the loss does not wait
    for the device. Losses are running means over the epoch, as Keras gives them: once one is not
    finite, it stays so, and `bad_step` is the first; `Position` stops there. Not from here, for
    under JAX `self.model` writes the state into the model, beside a step that is using it.
    """

    async_safe = True

    def __init__(self, *, epochs, steps_per_epoch, batch_size, rate_at):
        """`rate_at(epoch, step)` -> learning rate; `batch_size` images per step."""
        super().__init__()
        self.epochs, self.steps_per_epoch, self.batch_size = epochs, steps_per_epoch, batch_size
        self.rate_at = rate_at
        self.bad_step = None
        self._lock = threading.Lock()
        self._bar = None

    def begin(self, epoch, step):
        """An epoch begins at this step; called before its first step."""
        self.epoch, self.first, self.seen = epoch, step, step
        self.bad_step = None
        self.started = self.first_done = time.monotonic()
        self.last_line = time.monotonic()
        if console().is_terminal:
            one_line = TextColumn("{task.description}", table_column=Column(no_wrap=True))
            columns = [BarColumn(bar_width=10 if console().width < 120 else 30), one_line]
            self._bar = Progress(*columns, console=console(), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(
                self._where(), total=self.steps_per_epoch, completed=step
            )

    def on_train_batch_end(self, batch, logs=None):
        step = self.first + batch + 1
        with self._lock:
            if not math.isfinite(logs["loss"]):
                self.bad_step = min(step, self.bad_step or step)
            if step <= self.seen:
                return  # a later step was quicker
            if self.seen == self.first:
                self.first_done = time.monotonic()  # the first step compiles
            self.seen = step
            self._show(logs)

    def _show(self, logs):
        if self._bar is not None:
            line = f"{self._where()}  {self._line(logs)}"
            self._bar.update(self._task, completed=self.seen, description=line)
        elif time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            say(f"{self._where()}  {self._line(logs)}")

    def _where(self):
        return f"epoch {self.epoch + 1}/{self.epochs} {self.seen}/{self.steps_per_epoch}"

    def _line(self, logs):
        steps = self.seen - self.first - 1
        per_step = (time.monotonic() - self.first_done) / steps if steps else 0.0
        line = (
            f"loss {logs['loss']:.3f} top1 {100 * logs['top1']:.1f} top5 {100 * logs['top5']:.1f}"
            f" lr {self.rate_at(self.epoch, self.seen):.2g}"
        )
        if not per_step:
            return line  # the first step compiles: no speed is known yet
        epoch_left = per_step * (self.steps_per_epoch - self.seen)
        run_left = epoch_left + per_step * self.steps_per_epoch * (self.epochs - self.epoch - 1)
        return (
            f"{line} {self.batch_size / per_step:.0f} images/s left {duration(epoch_left)}, run "
            f"{duration(run_left)}"
        )

    def close(self):
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def end(self):
        """The epoch is over; returns (seconds, images per second without the first step)."""
        now = time.monotonic()
        self.close()
        steps = self.seen - self.first - 1
        measured = now - self.first_done
        return now - self.started, self.batch_size * steps / measured if steps > 0 else 0.0


def duration(seconds):
    """4:05 or 3:04:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
