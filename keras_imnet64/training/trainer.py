"""Owns a run while it trains: the model, its state on disk, and how far the run has come."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType

import keras

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.core.types import StrPath
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.models.keras_private import learning_rate_at
from keras_imnet64.models.ship import fill, float32_copy, ship
from keras_imnet64.records import Rollback, RunState
from keras_imnet64.runs import Run
from keras_imnet64.training.build import model_info_of
from keras_imnet64.training.callbacks.finiteness import Finiteness
from keras_imnet64.training.callbacks.hooks import Hooks
from keras_imnet64.training.callbacks.position import Position
from keras_imnet64.training.callbacks.progress_bar import ProgressBar
from keras_imnet64.training.callbacks.replay import Replay
from keras_imnet64.training.callbacks.stop_signal import StopSignal
from keras_imnet64.training.checkpoints import Checkpoints
from keras_imnet64.training.finite import NotFinite
from keras_imnet64.training.memory import is_out_of_memory, out_of_memory_advice
from keras_imnet64.training.nan_recovery import recover_from_nan
from keras_imnet64.training.optim import averaged_weights
from keras_imnet64.training.resume import restore_checkpoint
from keras_imnet64.training.setup import TrainingSetup
from keras_imnet64.training.state import epoch_and_step, list_checkpoints, variables_by_path


class Trainer:
    """Trains a run to its last epoch; leaving its context waits for the last checkpoint.

    Args:
        run: the run's folder, which this process has locked.
        setup: the model, the images and the stream of batches.
        callbacks: the user's callbacks, which Keras calls after ours.

    Attributes:
        state: the run's current state, which is replaced and never changed.
        float32_copy: the model that ships, with the weights of the last `fill_copy`.
    """

    def __init__(
        self,
        run: Run,
        setup: TrainingSetup,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self.run, self.setup, self.callbacks = run, setup, list(callbacks or ())
        self.recipe, self.model, self.stream = setup.recipe, setup.model, setup.stream
        self.state = RunState(0, 0)
        self.float32_copy = float32_copy(self.model)
        self.variables = variables_by_path(self.model, setup.metrics)
        metrics = {p: v for p, v in self.variables.items() if p.startswith("metrics/")}
        self.position = Position(self.stream, metrics)
        self.checkpoints = Checkpoints(
            run.checkpoints, self.model, self.variables, self.recipe.train.checkpoint_every
        )
        self.finiteness = Finiteness(self.model, self.variables, self.position)
        self.stop = StopSignal(self.model)
        self.bar = ProgressBar(
            epochs=self.recipe.train.epochs,
            steps_per_epoch=self.stream.steps_per_epoch,
            batch_size=self.stream.batch_size,
            rate_at=self._rate_at,
        )
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
        self.state, metrics = restore_checkpoint(self.run, self.recipe, self.variables, before)
        self.position.resume_at(self.state.epoch, self.state.step, metrics)
        self._restart_interval()

    def save(self, epoch: int, step: int) -> None:
        """Writes a checkpoint from which training resumes at a step of an epoch.

        Raises:
            NotFinite: the state is not finite; nothing is written.
        """
        self.state = replace(self.state, epoch=epoch, step=step)
        if not self.checkpoints.save(self.state):
            raise self.finiteness.error("a weight")
        self._restart_interval()

    def _restart_interval(self) -> None:
        num_steps = self.position.count_steps(self.state.epoch, self.state.step)
        self.checkpoints.restart_interval(num_steps)

    # ---------------------------------------------------------------------- training and rollback

    def train(self) -> None:
        """Trains to the last epoch.

        Raises:
            Stopped: a signal or a user's callback stopped the run; its state is saved.
            RunFailed: memory ran out, or a number is not finite and the run does not roll back.
            UserError: the initial weights are not finite.
        """
        if not list_checkpoints(self.run.checkpoints) and not self.checkpoints.save(self.state):
            raise UserError("the initial weights are not finite: start from other weights")
        with self.stop.listening():
            while True:
                try:
                    self._fit()
                    break
                except NotFinite as failure:
                    recover_from_nan(self, failure)
                if self.stop.requested:
                    break
        self.checkpoints.wait()
        if self.stop.requested or self.state.step:
            raise Stopped(
                f"stopped {self._where()}; the state is saved in {self.run.path}, and the same "
                "command resumes the run"
            )

    def _where(self) -> str:
        epoch, step = self.state.epoch, self.state.step
        return f"in epoch {epoch + 1} after {step} steps" if step else f"after epoch {epoch}"

    def _fit(self, replay: Replay | None = None) -> None:
        """Runs Keras' loop from the current state to the last epoch, or until a stop."""
        if self.state.epoch >= self.recipe.train.epochs or self.state.stopped_early:
            return
        self.hooks.replay = replay
        images = as_run_failed(self.stream.selection.store)
        try:
            with images, self.hooks.recorder.open_logs(), closing(self.bar):
                self.model.fit(
                    self.stream.dataset(),
                    initial_epoch=self.state.epoch,
                    epochs=self.recipe.train.epochs,
                    callbacks=[self.hooks, *self.callbacks, self.bar],
                    shuffle=False,  # the stream is shuffled already
                    verbose=0,
                )
        except Exception as error:  # each backend raises its own type when memory runs out
            if not is_out_of_memory(error):
                raise
            advice = out_of_memory_advice(
                self.recipe.data.batch_size, self.recipe.train.accumulate_steps
            )
            raise RunFailed(advice) from error

    def roll_back(self, failure: NotFinite) -> bool:
        """Restores a checkpoint from before the update that led to a failure, and lowers the rate.

        Returns:
            Whether there is such a checkpoint.
        """
        num_parts, factor = self.recipe.train.accumulate_steps, self.recipe.train.rollback_factor
        last_update = (failure.step - 1) // num_parts * num_parts  # whose weights the step used
        before = (failure.epoch, last_update)
        if not any(epoch_and_step(p) < before for p in list_checkpoints(self.run.checkpoints)):
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
        replay = Replay(self, failure)
        self.position.replay_end = (failure.epoch, failure.step)
        try:
            self._fit(replay)
            return None
        except NotFinite as repeated:
            found = replay.found or repeated
        finally:
            self.position.replay_end = None
        before = (found.epoch, found.step - 1)
        first = NotFinite(found.what, found.epoch, found.step, found.step - 1)
        if replay.before == before:
            state = replace(self.state, epoch=before[0], step=before[1])
            self.checkpoints.save_arrays(replay.arrays, state)
            return first
        return first if start == before else None

    # -------------------------------------------------------------------------- for the callbacks

    def learning_rate(self, update: int) -> float:
        """Returns the rate of an update, counted from 0; safe to call while a step runs."""
        return learning_rate_at(self.model.optimizer, update) * self.state.plateau.scale

    def _rate_at(self, epoch: int, step: int) -> float:
        num_steps = self.position.count_steps(epoch, step)
        return self.learning_rate(num_steps // self.recipe.train.accumulate_steps)

    def fill_copy(self) -> None:
        """Copies the model's weights, or their averages if the recipe keeps them, to the copy."""
        fill(self.float32_copy, self.model, averaged_weights(self.model.optimizer))

    def ship_copy(self, path: StrPath, epoch: int) -> None:
        """Writes the float32 copy as the model file of an epoch, counted from 1."""
        info = model_info_of(self.recipe, self.setup.data, self.setup.own_model, epoch)
        ship(self.float32_copy, path, info)
