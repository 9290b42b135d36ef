"""Around Keras' loop: where it begins, what an epoch's end decides, how a signal stops it."""

import contextlib
import math
import signal
import threading

import keras
from keras import ops

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_csv
from keras_imnet64.evaluation.evaluate import score
from keras_imnet64.models.ship import fill, ship
from keras_imnet64.training.optim import averaged_weights
from keras_imnet64.training.state import list_checkpoints, write_state

COLUMNS = (
    *("epoch", "step", "learning_rate", "loss", "top1", "top5"),
    *("val_loss", "val_top1", "val_top5", "images_per_second", "seconds"),
)


LOOK_EVERY = 50  # steps; at the epoch's end too


class NotFinite(Exception):
    """A number of the state, the loss or the validation's loss is infinite or NaN.

    Attributes:
        what: "the loss", "the validation's loss", or the path of a variable.
        epoch: the epoch, counted from 0.
        step: the step of the epoch, counted from 1, after which this was seen.
        finite_until: the last step of the epoch after which all of the state was seen to be finite.
        first: the first step after which it can have been so.
    """

    def __init__(self, what, epoch, step, finite_until):
        self.what, self.epoch, self.step, self.finite_until = what, epoch, step, finite_until
        self.first = step if what.endswith("loss") else finite_until + 1
        steps = f"step {step}" if self.first == step else f"one of the steps {self.first} to {step}"
        super().__init__(f"{what} is not finite at {steps} of epoch {epoch + 1}")


class StopRequest:
    """Notes the first SIGINT or SIGTERM, so that the step is finished; a second ends all."""

    def __init__(self):
        self.requested = False
        self.model = None

    @contextlib.contextmanager
    def listening(self):
        """Handle the signals within; only the main thread can, elsewhere they are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self.model is not None:
            self.model.stop_training = True
        say("stopping after this step; once more stops at once")


class Position(keras.callbacks.Callback):
    """Begins each epoch at the right step, and knows how many steps of it are done.

    Attributes:
        until: (epoch, step), where to stop although nobody asks for it.
    """

    def __init__(self, stream, progress_bar, stop, metrics):
        super().__init__()
        self.stream, self.progress_bar, self.stop = stream, progress_bar, stop
        self.metrics = metrics
        self.until = None

    def start(self, epoch, step, metric_state):
        """Training goes on there, with this state of the metrics within the epoch."""
        self.first_epoch, self.first_step, self.metric_state = epoch, step, metric_state
        self.epoch, self.step = epoch, step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.step = epoch, self.first_step if epoch == self.first_epoch else 0
        if self.step:  # Keras has just reset the metrics
            write_state(self.metrics, self.metric_state, "the checkpoint")
        self.stream.begin(epoch, self.step)
        self.progress_bar.begin(epoch, self.step)

    def on_train_batch_begin(self, batch, logs=None):
        # Counted here because overriding on_train_batch_end would make Keras wait for each step.
        self.step += 1
        at_its_end = self.is_epoch_done or self._is_at_until
        if self.stop.requested or at_its_end or self.progress_bar.bad_step:
            self.model.stop_training = True  # Keras leaves the epoch after this step

    def on_epoch_end(self, epoch, logs=None):
        # Only now has the last step of a resumed epoch, which has fewer, ended it. Letting Keras
        # ask for one more would end it too, but TensorFlow then still runs those parts of a step
        # that need no data, such as counting it.
        if self.is_epoch_done:
            self.model.stop_training = self.stop.requested or self._is_at_until

    @property
    def is_epoch_done(self):
        return self.step == self.stream.steps_per_epoch

    @property
    def _is_at_until(self):
        return self.until == (self.epoch, self.step)


class EpochEnd(keras.callbacks.Callback):
    """Validates, records, ships the best, lowers the rate, stops early, writes the checkpoint.

    Within an epoch it writes the checkpoints that fall due, and looks every `LOOK_EVERY` steps
    whether the state is finite. The loss is looked at in every step, by the progress bar.

    Attributes:
        finite_until: the last step of the epoch after which the state was seen to be finite.
    """

    def __init__(
        self,
        run,
        recipe,
        *,
        plain,
        scorer,
        validation,
        view,
        scoring_batch_size,
        checkpoints,
        position,
        info,
        progress,
    ):
        """
        Args:
            plain: float32 twin of the training model, which is filled, scored and shipped.
            scorer: `make_scorer(plain)`.
            validation: `Selection`.
            view: how its images are shown, see `stream.evaluation_batches`.
            checkpoints: a `Checkpoints`.
            info: what goes into the model files.
            progress: JSON-able record of the run: epoch, step, history, best, plateau.
        """
        super().__init__()
        self.run, self.recipe, self.plain, self.scorer = run, recipe, plain, scorer
        self.validation, self.view = validation, view
        self.scoring_batch_size = scoring_batch_size
        self.checkpoints, self.position, self.info = checkpoints, position, info
        self.progress = progress

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self.writer = tf.summary.create_file_writer(str(self.run.logs))
        is_begun = bool(list_checkpoints(self.run.checkpoints))
        if not is_begun and not self.checkpoints.save(self.progress):
            raise UserError("the weights to begin with are not finite: take others")

    def on_epoch_begin(self, epoch, logs=None):
        self.finite_until = self.position.step  # a checkpoint is finite
        self.found_not_finite = None

    def on_train_batch_begin(self, batch, logs=None):
        done = self.position.step - 1  # of this epoch; `position` has counted the one that begins
        if done and done % LOOK_EVERY == 0:
            self._look(done)
        steps = self.position.epoch * self.position.stream.steps_per_epoch + done
        if done and self.checkpoints.is_due(steps):
            at = {"epoch": self.position.epoch, "step": done}
            self.checkpoints.save_beside(self.progress | at, steps)

    def _look(self, done):
        """Stop after the step that begins if the state is not finite; `done` are before it."""
        if self.checkpoints.is_state_finite():
            self.finite_until = done
        elif self.found_not_finite is None:
            self.found_not_finite = self._not_finite(self.checkpoints.what_is_not_finite(), done)
            self.model.stop_training = True

    def _not_finite(self, what, step):
        return NotFinite(what, self.position.epoch, step, self.finite_until)

    def on_epoch_end(self, epoch, logs=None):
        bar = self.position.progress_bar
        seconds, images_per_second = bar.end()
        self._check_finite(bar.bad_step)
        if not self.position.is_epoch_done:  # a signal, or a callback of the user's
            self.save(epoch, self.position.step)
            return
        row = self._row(epoch, logs, seconds, images_per_second)
        self.progress["history"].append(row)
        self._choose_best(epoch, row["val_top1"])
        self._lower_rate(row["val_loss"])
        self._record(row)
        self.save(epoch + 1, 0)  # last: what was written before it is written again after a kill

    def _check_finite(self, bad_step):
        """Raises NotFinite unless all of the state is finite; `bad_step`: the loss's, or None."""
        found = self.found_not_finite
        if bad_step and (found is None or bad_step <= found.step):
            raise self._not_finite("the loss", bad_step)
        if found:
            raise found
        what = self.checkpoints.what_is_not_finite()
        if what:
            raise self._not_finite(what, self.position.step)

    def save(self, epoch, step):
        """Checkpoint everything; training goes on at this step of this epoch."""
        self.progress |= {"epoch": epoch, "step": step}
        if not self.checkpoints.save(self.progress):
            raise self._not_finite("a weight", self.position.step)
        self.checkpoints.begin(epoch * self.position.stream.steps_per_epoch + step)

    def _row(self, epoch, logs, seconds, images_per_second):
        fill(self.plain, self.model, averaged_weights(self.model.optimizer))
        scores = score(self.scorer, self.validation, self.scoring_batch_size, self.view)
        if not math.isfinite(scores["loss"]):
            raise self._not_finite("the validation's loss", self.position.step)
        optimizer = self.model.optimizer
        return {
            "epoch": epoch + 1,
            "step": int(ops.convert_to_numpy(optimizer.iterations)),
            "learning_rate": self._rate_used(optimizer),
            "loss": float(logs["loss"]),
            "top1": round(100 * float(logs["top1"]), 4),
            "top5": round(100 * float(logs["top5"]), 4),
            **{f"val_{name}": scores[name] for name in ("loss", "top1", "top5")},
            "images_per_second": round(images_per_second, 1),
            "seconds": round(seconds, 1),
        }

    def _rate_used(self, optimizer):
        """The rate of the epoch's last update; `optimizer.learning_rate` is that of the next."""
        updates = int(ops.convert_to_numpy(optimizer.iterations))
        return float(optimizer._learning_rate(updates - 1)) * self.progress["plateau"]["scale"]

    def _choose_best(self, epoch, top1):
        """Ship the best epoch so far, where images were kept aside to choose by."""
        if self.recipe.selection == "none":
            return
        best = self.progress["best"]
        if best is None or top1 > best["val_top1"]:
            self.progress["best"] = {"epoch": epoch + 1, "val_top1": top1}
            ship(self.plain, self.run.best, self.info | {"epoch": epoch + 1})
        patience = self.recipe.train.early_stopping
        if patience and epoch + 1 - self.progress["best"]["epoch"] >= patience:
            say(f"stopping early: no better val_top1 for {patience} epochs")
            self.progress["stopped_early"] = True
            self.model.stop_training = True

    def _lower_rate(self, val_loss):
        """The plateau schedule: lower the rate's scale after `patience` epochs without gain."""
        if self.recipe.schedule.name != "plateau":
            return
        schedule, plateau = self.model.optimizer._learning_rate.options, self.progress["plateau"]
        if plateau["best"] is None or val_loss < plateau["best"] - schedule["min_delta"]:
            plateau |= {"best": val_loss, "wait": 0}
        else:
            plateau["wait"] += 1
        if plateau["wait"] >= schedule["patience"]:
            plateau |= {"scale": plateau["scale"] * schedule["factor"], "wait": 0}
            self.model.optimizer.learning_rate_scale.assign(plateau["scale"])
        self.progress["plateau"] = plateau

    def _record(self, row):
        import tensorflow as tf

        write_csv(self.run.history_file, COLUMNS, self.progress["history"])
        with self.writer.as_default(step=row["step"]):
            for name in COLUMNS[2:]:
                tf.summary.scalar(name, row[name])
        self.writer.flush()
        say(
            f"epoch {row['epoch']}/{self.recipe.train.epochs}  loss {row['loss']:.3f}"
            f"  top1 {row['top1']:.2f}  top5 {row['top5']:.2f}  val_loss {row['val_loss']:.3f}"
            f"  val_top1 {row['val_top1']:.2f}  val_top5 {row['val_top5']:.2f}"
            f"  lr {row['learning_rate']:.3g}  {row['images_per_second']:.0f} images/s"
            f"  {row['seconds']:.0f} s"
        )
