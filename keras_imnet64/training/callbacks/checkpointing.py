"""Saves the checkpoints that become due within an epoch."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class Checkpointing:
    """Saves the state before a step in the background if `train.checkpoint_every` has passed."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer

    def before_step(self) -> None:
        position, checkpoints = self.trainer.position, self.trainer.checkpoints
        step = position.num_steps_before
        num_steps = position.count_steps(position.epoch, step)
        if step and checkpoints.is_due(num_steps):
            state = replace(self.trainer.state, epoch=position.epoch, step=step)
            checkpoints.save_in_background(state, num_steps)
