"""Records each epoch: a row of history.csv, TensorBoard curves, and the line that tells of it.

`records.EpochRow` declares what is recorded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import keras

from keras_imnet64.core.files import write_csv
from keras_imnet64.core.types import Logs
from keras_imnet64.records import EpochRow, RunState, Scores
from keras_imnet64.runs import Run
from keras_imnet64.training.clock import TrainingClock, in_tenths

COLUMNS = tuple(field.name for field in fields(EpochRow))
CURVES = COLUMNS[2:]  # TensorBoard shows all columns but epoch and step


class Recorder:
    """Makes and writes the record of an epoch; call `write` within `open_logs`.

    Args:
        size_of_epoch: epoch, counted from 0 -> pixels per side of its images.
        learning_rate: update, counted from 0 -> learning rate.
        writes: whether this process writes the record; of several that train one run, one does.
    """

    def __init__(
        self,
        run: Run,
        size_of_epoch: Callable[[int], int],
        optimizer: keras.optimizers.Optimizer,
        learning_rate: Callable[[int], float],
        clock: TrainingClock,
        writes: bool = True,
    ) -> None:
        self.run, self.size_of_epoch, self.writes = run, size_of_epoch, writes
        self.optimizer, self.learning_rate, self.clock = optimizer, learning_rate, clock

    @contextmanager
    def open_logs(self) -> Iterator[None]:
        """Keeps a TensorBoard file in the run's `logs` open within the context."""
        if not self.writes:
            yield
            return
        import tensorflow as tf

        self.writer = tf.summary.create_file_writer(str(self.run.logs))
        try:
            yield
        finally:
            self.writer.close()

    def make_row(
        self, epoch: int, logs: Logs, scores: Scores | None, speed: tuple[float, float | None]
    ) -> EpochRow:
        """Returns the row of an epoch.

        Args:
            epoch: counted from 0.
            logs: loss, top1 and top5 of training, as Keras gives them.
            scores: of the validation images; None in epochs without.
            speed: seconds, and images per second if they are known.
        """
        seconds, rate = speed
        updates = int(keras.ops.convert_to_numpy(self.optimizer.iterations))
        return EpochRow(
            epoch=epoch + 1,
            step=updates,
            # of the last update; `optimizer.learning_rate` is that of the next
            learning_rate=self.learning_rate(updates - 1),
            loss=float(logs["loss"]),
            top1=round(100 * float(logs["top1"]), 4),
            top5=round(100 * float(logs["top5"]), 4),
            val_loss=scores.loss if scores else None,
            val_top1=scores.top1 if scores else None,
            val_top5=scores.top5 if scores else None,
            images_per_second=None if rate is None else round(rate, 1),
            seconds=round(seconds, 1),
            training_seconds=in_tenths(self.clock.seconds),
            size=self.size_of_epoch(epoch),
        )

    def write(self, state: RunState) -> None:
        """Records the last epoch of a state's history."""
        if not self.writes:
            return
        import tensorflow as tf

        row = state.history[-1]
        write_history(self.run.history_file, state)
        with self.writer.as_default(step=row.step):
            for name in CURVES:
                if (value := getattr(row, name)) is not None:
                    tf.summary.scalar(name, value)
        self.writer.flush()


def line_of(row: EpochRow, num_epochs: int) -> str:
    """Returns what is told of an epoch, in a line of at most 100 characters."""
    parts = [
        f"epoch {row.epoch}/{num_epochs}",
        f"loss {row.loss:.3f}",
        f"top1 {row.top1:.1f}",
        *([] if row.val_loss is None else [f"val_loss {row.val_loss:.3f}"]),
        *([] if row.val_top1 is None else [f"val_top1 {row.val_top1:.1f}"]),
        f"lr {row.learning_rate:.2g}",
        *([] if row.images_per_second is None else [f"{row.images_per_second:.0f} images/s"]),
    ]
    return "  ".join(parts)


def write_history(path: Path, state: RunState) -> None:
    """Writes history.csv, with a row for each finished epoch."""
    write_csv(path, COLUMNS, [asdict(row) for row in state.history])
