"""Which step of which epoch training is at, and the beginning of an epoch at a later step."""

from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.training.state import Arrays, Variables, assign_variables


class Position:
    """Counts the steps of an epoch, and begins the first epoch of a process at its step.

    Attributes:
        epoch: counted from 0.
        step: the steps of the epoch that are done; within a step that step is counted, too.
        replay_end: (epoch, step) after which a replay ends; None while none is made.
    """

    def __init__(self, stream: TrainingStream, metrics: Variables) -> None:
        self.stream, self.metrics = stream, metrics
        self.replay_end: tuple[int, int] | None = None
        self.resume_at(0, 0, {})

    def resume_at(self, epoch: int, step: int, metric_arrays: Arrays) -> None:
        """Makes training resume at a step, with this state of the metrics within the epoch."""
        self.first_epoch, self.first_step, self.metric_arrays = epoch, step, metric_arrays
        self.epoch, self.step = epoch, step

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.step = epoch, self.first_step if epoch == self.first_epoch else 0
        if self.step:  # Keras has just reset the metrics
            assign_variables(self.metrics, self.metric_arrays, "the checkpoint")
        self.stream.begin(epoch, self.step)

    def begin_step(self) -> None:
        # Counted at a step's beginning because overriding on_train_batch_end would make Keras wait
        # for each step.
        self.step += 1

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
