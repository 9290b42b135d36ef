"""The callback through which Keras drives a run: what happens when, and in which order."""

from dataclasses import replace
from typing import TYPE_CHECKING

import keras

from keras_imnet64.core.types import Logs
from keras_imnet64.training.callbacks.best import BestModel
from keras_imnet64.training.callbacks.checkpointing import Checkpointing
from keras_imnet64.training.callbacks.early_stopping import EarlyStopping
from keras_imnet64.training.callbacks.plateau import PlateauSchedule
from keras_imnet64.training.callbacks.recording import Recorder
from keras_imnet64.training.callbacks.replay import Replay
from keras_imnet64.training.callbacks.validation import Validation

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


class Hooks(keras.callbacks.Callback):
    """Calls the parts of a run in their order.

    This class does not override `on_train_batch_end`, because Keras would then wait for each step.
    """

    def __init__(self, trainer: "Trainer") -> None:
        super().__init__()
        self.trainer = trainer
        self.validation = Validation(trainer)
        self.best = BestModel(trainer)
        self.early_stopping = EarlyStopping(trainer)
        self.plateau = PlateauSchedule(trainer)
        self.recorder = Recorder(trainer)
        self.checkpointing = Checkpointing(trainer)
        self.replay: Replay | None = None  # while the trainer looks for the first bad step

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        trainer = self.trainer
        trainer.position.begin_epoch(epoch)
        trainer.finiteness.begin_epoch()
        trainer.bar.begin(epoch, trainer.position.step)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        trainer = self.trainer
        trainer.position.begin_step()
        if trainer.stop.requested or trainer.position.is_at_end or trainer.bar.bad_step:
            self.model.stop_training = True  # Keras leaves the epoch after this step
        trainer.finiteness.before_step()
        self.checkpointing.before_step()
        if self.replay:
            self.replay.before_step()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Ends an epoch, even if a signal or a user's callback has cut it short.

        The order matters. The best model and the schedules decide by the validation scores, then
        the history is written. The checkpoint comes last: if the process is killed before, the
        resumed run writes everything else again.
        """
        trainer = self.trainer
        speed = trainer.bar.end()
        trainer.finiteness.check_epoch(trainer.bar.bad_step)
        if not trainer.position.is_epoch_done:
            trainer.save(epoch, trainer.position.step)
            return
        # `on_train_batch_begin` has stopped Keras at the epoch's last step, since a resumed epoch
        # is shorter than Keras expects; undo that. If Keras met the stream's end instead,
        # TensorFlow would still run the parts of a step that need no data, such as its counter.
        self.model.stop_training = trainer.stop.requested or trainer.position.is_replay_done
        scores = self.validation.score()
        row = self.recorder.make_row(epoch, logs or {}, scores, speed)
        state = replace(trainer.state, history=(*trainer.state.history, row))
        state = self.best.choose(state)
        state = self.early_stopping.decide(state)
        state = self.plateau.update(state)
        self.recorder.write(state)
        trainer.state = state
        if state.stopped_early:
            self.model.stop_training = True
        trainer.save(epoch + 1, 0)
