"""Owns a run while it trains: the model, its state on disk, and how far the run has come."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType

import keras
import numpy as np

from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import Stopped, UserError
from keras_imnet64.core.types import Logs, StrPath
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.models.freeze import unfrozen
from keras_imnet64.models.keras_private import CallbacksBesideSteps, learning_rates_at
from keras_imnet64.models.ship import fill, float32_copy, ship
from keras_imnet64.records import Rollback, RunState, SizeStage
from keras_imnet64.runs import Run
from keras_imnet64.training.callbacks.best import BestModel
from keras_imnet64.training.callbacks.checkpointing import Checkpointing
from keras_imnet64.training.callbacks.early_stopping import EarlyStopping
from keras_imnet64.training.callbacks.finiteness import Finiteness
from keras_imnet64.training.callbacks.plateau import PlateauSchedule
from keras_imnet64.training.callbacks.position import Position
from keras_imnet64.training.callbacks.progress_bar import ProgressBar
from keras_imnet64.training.callbacks.recording import Recorder, line_of
from keras_imnet64.training.callbacks.replay import Replay
from keras_imnet64.training.callbacks.stop_signal import StopSignal
from keras_imnet64.training.callbacks.validation import Validation
from keras_imnet64.training.checkpoints import Checkpoints
from keras_imnet64.training.clock import TrainingClock
from keras_imnet64.training.data import make_stream
from keras_imnet64.training.finite import NotFinite
from keras_imnet64.training.last_epochs import LastEpochs
from keras_imnet64.training.memory import out_of_memory_advice, report_out_of_memory
from keras_imnet64.training.model import model_info_of
from keras_imnet64.training.optim import averaged_weights, slow_weights
from keras_imnet64.training.resume import restore_checkpoint
from keras_imnet64.training.setup import TrainingSetup
from keras_imnet64.training.state import epoch_and_step, list_checkpoints, variables_by_path
from keras_imnet64.training.statistics import remeasure


class Trainer:
    """Trains a run to its last epoch; leaving its context waits for the last checkpoint.

    Args:
        run: the run's folder, which this process has locked.
        setup: the model, the images and the stream of batches.
        callbacks: the user's callbacks, which Keras calls after ours.

    Attributes:
        cluster: the processes that train the run; each has a trainer, and one writes.
        state: the run's current state, which is replaced and never changed.
        float32_copy: the model that ships, with the weights of the last `fill_copy` and, at the
            run's end, the statistics of `remeasure_copy`.
    """

    def __init__(
        self,
        run: Run,
        setup: TrainingSetup,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self.run, self.setup, self.callbacks = run, setup, list(callbacks or ())
        self.cluster, self.num_devices = setup.devices.cluster, setup.devices.count
        self.recipe, self.model, self.stream = setup.recipe, setup.model, setup.stream
        self.state = RunState(0, 0)
        with Activity("building the model that ships"):
            self.float32_copy = float32_copy(setup.network)
        self.variables = variables_by_path(self.model, setup.metrics)
        train = self.recipe.train
        self.last_epochs = LastEpochs(self.model, train.epochs, train.average_last)
        self.variables |= self.last_epochs.state
        metrics = {p: v for p, v in self.variables.items() if p.startswith("metrics/")}
        self.position = Position(self.stream, metrics)
        self.clock = TrainingClock()
        self.checkpoints = Checkpoints(
            run.checkpoints,
            self.model,
            self.variables,
            self.recipe.train.checkpoint_every,
            writes=self.cluster.is_writer,
        )
        self.finiteness = Finiteness(self.model, self.variables, self.position)
        self.stop = StopSignal(self.model, self.cluster.stop_agreement())
        self.bar = ProgressBar(
            epochs=self.recipe.train.epochs,
            steps_per_epoch=self.stream.steps_per_epoch,
            batch_size=self.stream.batch_size,
            rates_of=self._rates_of,
            size_of_epoch=self.recipe.size_of_epoch if self.recipe.smaller_sizes else None,
        )
        self.validation = Validation(self.float32_copy, setup.data, setup.devices, self.finiteness)
        self.best = BestModel(
            self.recipe.selection != "none", lambda epoch: self.ship_copy(run.best, epoch)
        )
        self.early_stopping = EarlyStopping(
            self.recipe.train.early_stopping, self.recipe.train.epochs
        )
        self.plateau = PlateauSchedule(self.recipe.schedule.name == "plateau", self.model.optimizer)
        self.recorder = Recorder(
            run,
            self.recipe.size_of_epoch,
            self.model.optimizer,
            self.learning_rate,
            self.clock,
            writes=self.cluster.is_writer,
        )
        self.checkpointing = Checkpointing(self.checkpoints, self.position, self.clock)
        self.hooks = Hooks(self)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.checkpoints.close()

    # ------------------------------------------------------------------------------ the run's state

    def restore(self, before: tuple[int, int] | None = None) -> None:
        """Fills the variables from the newest checkpoint, from which training then resumes.

        Without a checkpoint the variables keep their initial values, and training starts.

        Args:
            before: (epoch, step); checkpoints of that step and later ones are deleted.
        """
        self.checkpoints.wait()
        with Activity("restoring the state"):
            self.state, metrics = restore_checkpoint(
                self.run, self.recipe, self.variables, self.cluster, before
            )
        self.position.resume_at(self.state.epoch, self.state.step, metrics)
        self._restart_interval()

    def save(self, epoch: int, step: int) -> None:
        """Writes a checkpoint from which training resumes at a step of an epoch.

        Raises:
            NotFinite: the state is not finite; nothing is written.
        """
        seconds = self.clock.seconds
        self.state = replace(self.state, epoch=epoch, step=step, training_seconds=seconds)
        with Activity("saving the state"):
            what = self.checkpoints.save(self.state)
        if what:
            raise self.finiteness.error(what)
        self._restart_interval()

    def has_checkpoint(self, before: tuple[int, int] | None = None) -> bool:
        """Returns whether there is a checkpoint, of a step before (epoch, step) if that is given.

        All processes of a run call it together.
        """

        def find() -> bool:
            places = map(epoch_and_step, list_checkpoints(self.run.checkpoints))
            return any(before is None or place < before for place in places)

        return bool(self.cluster.from_writer(find))

    def _restart_interval(self) -> None:
        num_steps = self.position.count_steps(self.state.epoch, self.state.step)
        self.checkpoints.restart_interval(num_steps)

    # ---------------------------------------------------------------------- training and rollback

    def train(self, replay: Replay | None = None) -> None:
        """Runs Keras' loop from the current state to the last epoch, or until a stop.

        Args:
            replay: checks the state before each step.

        Raises:
            NotFinite: the loss or a weight is not finite.
            RunFailed: memory ran out.
            UserError: the initial weights are not finite.
        """
        with Activity("saving the initial state"):
            if not self.has_checkpoint() and self.checkpoints.save(self.state):
                raise UserError("the initial weights are not finite: start from other weights")
        self.clock.start(self.state)
        if self.state.epoch >= self.recipe.train.epochs or self.state.stopped_early:
            return
        self.hooks.replay = replay
        advice = out_of_memory_advice(
            self.recipe.data.batch_size,
            self.recipe.train.accumulate_steps,
            self.num_devices,
            remat_is_off=not self.recipe.train.remat,
        )
        images = as_run_failed(self.stream.selection.store)
        with report_out_of_memory(advice), images, self.recorder.open_logs():
            stages = [each for each in self.recipe.size_stages if each.end_epoch > self.state.epoch]
            for stage in stages:
                self._train_at_one_size(stage, is_first=stage is stages[0])
                if self.model.stop_training:  # by a signal, a failure or a callback
                    break
            for callback in self.callbacks:
                callback.on_train_end(self.hooks.last_logs)

    def _train_at_one_size(self, stage: SizeStage, is_first: bool) -> None:
        """Runs Keras' loop from the current state to the end of a stage, or until a stop."""
        if self.recipe.smaller_sizes:
            self.model.train_function = None  # else TensorFlow traces a step for any size
        self.stream.begin(self.state.epoch, self.state.step)  # Keras may look at a batch at once
        with closing(self.bar):
            self.bar.prepare()
            self.model.fit(
                self.stream.dataset(stage.image_size),
                initial_epoch=self.state.epoch,
                epochs=stage.end_epoch,
                callbacks=CallbacksBesideSteps(
                    [self.hooks, *self.callbacks, self.bar],
                    spanning=self.callbacks,
                    is_first=is_first,
                    add_history=True,
                    model=self.model,
                    epochs=self.recipe.train.epochs,
                    steps=self.stream.steps_per_epoch,
                    verbose=0,
                ),
                shuffle=False,  # the stream is shuffled already
                verbose=0,
            )

    def raise_if_stopped(self) -> None:
        """Raises Stopped if a signal ended training, or a user's callback did within an epoch.

        A callback that stops at the end of an epoch, as Keras' EarlyStopping does, ends the run.
        """
        self.checkpoints.wait()
        if self.stop.requested or self.state.step:
            raise Stopped(
                f"stopped {self._where()}; the state is saved in {self.run.path}, and the same "
                "command resumes the run"
            )
        epoch, num_epochs = self.state.epoch, self.recipe.train.epochs
        if epoch < num_epochs and not self.state.stopped_early:
            averaged = ", without the average over the last epochs"
            say(
                f"note: a callback ended this run after epoch {epoch} of {num_epochs}"
                f"{averaged if self.recipe.train.average_last else ''}"
            )

    def _where(self) -> str:
        epoch, step = self.state.epoch, self.state.step
        return f"in epoch {epoch + 1} after step {step}" if step else f"after epoch {epoch}"

    def roll_back(self, failure: NotFinite) -> bool:
        """Restores a checkpoint from before the update that led to a failure, and lowers the rate.

        Returns:
            Whether there is such a checkpoint.
        """
        num_parts, factor = self.recipe.train.accumulate_steps, self.recipe.train.rollback_factor
        last_update = (failure.step - 1) // num_parts * num_parts  # whose weights the step used
        before = (failure.epoch, last_update)
        if not self.has_checkpoint(before):
            return False
        self.restore(before)
        say(f"{failure}: rolling back; the learning rate is multiplied by {factor}")
        plateau = replace(self.state.plateau, scale=self.state.plateau.scale * factor)
        rollbacks = (*self.state.rollbacks, Rollback(failure.epoch + 1, failure.step))
        self.state = replace(self.state, plateau=plateau, rollbacks=rollbacks)
        self.model.optimizer.learning_rate_scale.assign(plateau.scale)
        self.save(self.state.epoch, self.state.step)
        return True

    def find_first_step(self, failure: NotFinite) -> NotFinite | None:
        """Repeats the steps from the current checkpoint to a failure, and checks each state.

        The state before the first bad step becomes the newest checkpoint.

        Returns:
            The error of the first bad step; None if the state stays finite in all of the steps, or
            if a signal stops the run meanwhile.
        """
        start = (self.state.epoch, self.state.step)
        replay = Replay(failure, self.model, self.position, self.checkpoints)
        self.position.replay_end = (failure.epoch, failure.step)
        try:
            self.train(replay)
            return None
        except NotFinite as repeated:
            found = replay.found or repeated
        finally:
            self.position.replay_end = None
        before = (found.epoch, found.step - 1)
        first = NotFinite(found.what, found.epoch, found.step, found.step - 1)
        if replay.before == before:
            state = replace(
                self.state,
                epoch=before[0],
                step=before[1],
                training_seconds=self.clock.seconds,
            )
            self.checkpoints.save_arrays(replay.arrays, state)
            return first
        return first if start == before else None

    # -------------------------------------------------------------------------- for the callbacks

    def learning_rate(self, update: int) -> float:
        """Returns the rate of an update, counted from 0."""
        (rate,) = learning_rates_at(self.model.optimizer, np.array([update]))
        return float(rate) * self.state.plateau.scale

    def _rates_of(self, epoch: int) -> np.ndarray:
        """Returns the rates of the steps of an epoch, and of the one after it: float [S + 1]."""
        first = self.position.count_steps(epoch, 0)
        steps = first + np.arange(self.stream.steps_per_epoch + 1)
        updates = steps // self.recipe.train.accumulate_steps
        return learning_rates_at(self.model.optimizer, updates) * self.state.plateau.scale

    def is_scored(self, num_epochs: int) -> bool:
        """Returns whether the validation images are scored after so many epochs."""
        every, total = self.recipe.train.validate_every, self.recipe.train.epochs
        return every > 0 and (num_epochs % every == 0 or num_epochs == total)

    def fill_copy(self, num_epochs: int) -> None:
        """Copies the weights that ship after so many epochs to the copy.

        These are the means of the last epochs if `train.average_last` has begun, else the averages
        of `train.ema`, else Lookahead's slow weights, else the model's own.
        """
        optimizer = self.model.optimizer
        averages = averaged_weights(optimizer) or slow_weights(optimizer)
        means = self.last_epochs.means(num_epochs)
        fill(self.float32_copy, self.setup.network, averages | means)

    def remeasure_copy(self) -> None:
        """Measures the statistics of the copy's batch normalisation anew, if the recipe says so.

        The images are the first of the epoch that would follow the last, at the size at which the
        model is scored, whatever the last size of `train.sizes`.

        Raises:
            RunFailed: memory ran out.
        """
        train, num_images = self.recipe.train, self.stream.batch_size
        num_batches = train.remeasure_statistics * train.accumulate_steps
        if not num_batches:
            return
        advice = (
            f"out of memory at {num_images} images per step while the statistics of batch "
            "normalisation were measured anew: training is over and its state is saved; the same "
            "command measures them again where more memory is free, and a new run with --set "
            "train.remeasure_statistics=0 leaves them as they are"
        )
        part = self.cluster.part
        stream = make_stream(self.recipe, self.setup.data, full_size=True, part=part)
        stream.begin(train.epochs)
        batches = stream.dataset().take(num_batches).as_numpy_iterator()
        with report_out_of_memory(advice), as_run_failed(stream.selection.store):
            remeasure(
                self.float32_copy,
                (pixels for pixels, _ in batches),
                num_batches,
                self.setup.devices,
                per_device=train.batch_norm == "per_device",
            )

    def ship_copy(self, path: StrPath, epoch: int) -> None:
        """Writes the float32 copy as the model file of an epoch, counted from 1."""
        if not self.cluster.is_writer:
            return
        info = model_info_of(self.recipe, self.setup.data, self.setup.own_model, epoch)
        with Activity(f"writing {path}"), unfrozen(self.float32_copy, self.setup.frozen):
            ship(self.float32_copy, path, info)


AT_END = "at the end of an epoch"  # stops Keras as True does, and differs from a user's True


class Hooks(keras.callbacks.Callback):
    """The callback through which Keras drives a run: calls its parts in their order.

    This class does not override `on_train_batch_end`, because Keras would then wait for each step.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer
        self.replay: Replay | None = None  # while the trainer looks for the first bad step
        self.last_logs: Logs | None = None  # with which Keras ended training at the last size

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        trainer = self.trainer
        trainer.position.begin_epoch(epoch)
        trainer.finiteness.begin_epoch()
        trainer.bar.begin(epoch, trainer.position.step)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        trainer = self.trainer
        trainer.position.begin_step()
        trainer.stop.begin_step()
        # The bar of each process notices a bad loss at another time, so that they look at it
        # together when the epoch is over.
        bad_step = trainer.bar.bad_step if trainer.cluster.num_processes == 1 else None
        if trainer.stop.requested or bad_step:
            self.model.stop_training = True  # Keras leaves the epoch after this step
        elif trainer.position.is_at_end:
            self.model.stop_training = AT_END
        trainer.finiteness.before_step()
        trainer.checkpointing.before_step(trainer.state)
        if self.replay:
            self.replay.before_step()

    def on_epoch_end(self, epoch: int, logs: dict[str, object] | None = None) -> None:
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
        # is shorter than Keras expects; undo that, unless a user's callback has stopped it there.
        # If Keras met the stream's end instead, TensorFlow would still run the parts of a step that
        # need no data, such as its counter.
        if self.model.stop_training == AT_END:
            self.model.stop_training = False
        if trainer.stop.requested or trainer.position.is_replay_done:
            self.model.stop_training = True
        trainer.last_epochs.add(epoch + 1, slow_weights(self.model.optimizer))
        scores = None
        if trainer.is_scored(epoch + 1):
            trainer.fill_copy(epoch + 1)
            scores = trainer.validation.score()
        row = trainer.recorder.make_row(epoch, logs or {}, scores, speed)
        if scores and logs is not None:  # for the user's callbacks, which Keras calls after this
            logs |= {
                "val_loss": scores.loss,
                "val_top1": scores.top1,
                "val_top5": scores.top5,
            }
        state = replace(trainer.state, history=(*trainer.state.history, row))
        state = trainer.best.choose(state)
        state = trainer.early_stopping.decide(state)
        state = trainer.plateau.update(state)
        trainer.recorder.write(state)
        trainer.bar.say_result(line_of(row, trainer.recipe.train.epochs))
        trainer.state = state
        if state.stopped_early:
            self.model.stop_training = True
            trainer.early_stopping.say()
        trainer.save(epoch + 1, 0)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.last_logs = logs
