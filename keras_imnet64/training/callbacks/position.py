"""Tracks the current epoch and step, and starts a resumed epoch at its step."""

from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.training.state import Arrays, Variables, assign_variables


class Position:
    """Counts the steps of an epoch; the first epoch of a resumed run begins at a later step.

    Attributes:
        epoch: counted from 0.
        step: the number of steps of the epoch that have begun.
        replay_end: (epoch, step) after which a replay ends; None outside a replay.
    """

    def __init__(self, stream: TrainingStream, metrics: Variables) -> None:
        self.stream, self.metrics = stream, metrics
        self.replay_end: tuple[int, int] | None = None
        self.resume_at(0, 0, {})

    def resume_at(self, epoch: int, step: int, metric_arrays: Arrays) -> None:
        """Makes training resume at a step, with the values that the metrics had there."""
        self.resume_epoch, self.resume_step = epoch, step
        self.metric_arrays = metric_arrays
        self.epoch, self.step = epoch, step

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.step = epoch, self.resume_step if epoch == self.resume_epoch else 0
        if self.step:  # Keras has just reset the metrics
            assign_variables(self.metrics, self.metric_arrays, "the checkpoint")
        self.stream.begin(epoch, self.step)

    def begin_step(self) -> None:
        self.step += 1  # not at its end, see `Hooks`

    @property
    def num_steps_before(self) -> int:
        """The number of steps of the epoch before the one that has just begun."""
        return self.step - 1

    def count_steps(self, epoch: int, step: int) -> int:
        """Returns the number of steps over all epochs before a step of an epoch."""
        return epoch * self.stream.steps_per_epoch + step

    @property
    def is_epoch_done(self) -> bool:
        return self.step == self.stream.steps_per_epoch

    @property
    def is_replay_done(self) -> bool:
        return self.replay_end == (self.epoch, self.step)

    @property
    def is_at_end(self) -> bool:
        """Whether the current step is the last of the epoch or of a replay."""
        return self.is_epoch_done or self.is_replay_done
