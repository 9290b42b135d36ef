"""Saves the checkpoints that become due within an epoch."""

from dataclasses import replace

from keras_imnet64.records import RunState
from keras_imnet64.training.callbacks.position import Position
from keras_imnet64.training.checkpoints import Checkpoints
from keras_imnet64.training.clock import TrainingClock


class Checkpointing:
    """Saves the state before a step in the background if `train.checkpoint_every` has passed."""

    def __init__(self, checkpoints: Checkpoints, position: Position, clock: TrainingClock) -> None:
        self.checkpoints, self.position, self.clock = checkpoints, position, clock

    def before_step(self, state: RunState) -> None:
        epoch, step = self.position.epoch, self.position.num_steps_before
        num_steps = self.position.count_steps(epoch, step)
        if step and self.checkpoints.is_due(num_steps):
            seconds = self.clock.seconds
            state = replace(state, epoch=epoch, step=step, training_seconds=seconds)
            self.checkpoints.save_in_background(state, num_steps)
