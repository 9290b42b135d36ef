"""Saves the checkpoints that fall due within an epoch."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class Checkpointing:
    """Saves the state before a step in the background where the recipe's interval is over."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer

    def before_step(self) -> None:
        position, checkpoints = self.trainer.position, self.trainer.checkpoints
        done = position.step - 1  # the step that begins is counted already
        num_steps = position.count_steps(position.epoch, done)
        if done and checkpoints.is_due(num_steps):
            state = replace(self.trainer.state, epoch=position.epoch, step=done)
            checkpoints.save_in_background(state, num_steps)
