"""Handles a loss or weight that is not finite: rolls back, or keeps the state before it and fails.

The loss is looked at in every step, the rest of the state more rarely, so that the step that is
to be named may lie before the step after which the run stopped. The steps of a run give the same
each time. They are therefore repeated from the newest checkpoint, which is finite, and the state
is looked at after each.
"""

import keras

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed
from keras_imnet64.core.files import write_json
from keras_imnet64.training.callbacks import NotFinite
from keras_imnet64.training.finite import what_is_not_finite
from keras_imnet64.training.state import list_checkpoints, place_of


def recover(trouble, recipe, run, stream, restore, epoch_end, train):
    """Go back one checkpoint with a smaller learning rate, or keep what shows the step, and fail.

    Args:
        trouble: the `NotFinite`.
        restore: fills the variables from the newest checkpoint, or the newest before a place, and
            begins there.
        train: goes on from there; takes further callbacks, which are called before the user's.

    Raises:
        RunFailed: the recipe does not go back, or has often enough, or there is nothing to go to.
    """
    if not list_checkpoints(run.checkpoints):
        raise RunFailed(f"{trouble}, and no checkpoint is left to go back to: begin anew, --fresh")
    progress = restore()
    back = len(progress["rollbacks"])
    wanted = recipe.train.on_nan == "rollback" and back < recipe.train.max_rollbacks
    if wanted and roll_back(trouble, recipe.train, run, restore, epoch_end):
        return
    times = f" (it went back {back} times already)" if back else ""
    found = None
    if not stream.inexact_steps:
        say(f"{trouble}: the steps to it are repeated, to find the first and keep the state before")
        found = find_first(trouble, progress, epoch_end, train)
        if found is None and epoch_end.position.stop.requested:
            return
    write_images(found or trouble, run, stream)
    newest = list_checkpoints(run.checkpoints)[-1]
    if found is None:
        raise RunFailed(f"{trouble}{times}; {not_repeated(stream, newest, run)}")
    raise RunFailed(
        f"{found}{times}; the same command goes on from {newest} "
        f"and repeats the step, whose images are named in {run.not_finite_file}: in a new run "
        "lower optimizer.learning_rate, set optimizer.clip_norm or "
        "train.on_nan='\"rollback\"'"
    )


def not_repeated(stream, newest, run):
    """Returns the clauses that say why no state right before the step could be kept."""
    if stream.inexact_steps:
        reason = f"{stream.inexact_steps[0].op} draws its own random numbers, so"
    else:
        reason = "repeated, the steps gave something else: something in this run is random, and"
    return (
        f"{reason} the state before cannot be had again; the images are named in "
        f"{run.not_finite_file}, and the same command goes on from {newest}"
    )


def write_images(found, run, stream):
    """Write not_finite.json: the step, or the steps, and the positions of their images."""
    steps = range(found.first, found.step + 1)
    positions = [p for step in steps for p in stream.positions(found.epoch, step - 1).tolist()]
    content = {"epoch": found.epoch + 1, "step": found.step}
    if len(steps) > 1:
        content["first_step"] = found.first
    write_json(run.not_finite_file, content | {"split": "train", "positions": positions})


def roll_back(trouble, settings, run, restore, epoch_end):
    """Go back behind at least one update before the trouble; returns whether that was possible.

    Args:
        settings: the recipe's `train`.
    """
    parts = settings.accumulate_steps
    last_update = (trouble.step - 1) // parts * parts  # which gave the weights of that step
    before = (trouble.epoch, last_update)
    if not any(place_of(path) < list(before) for path in list_checkpoints(run.checkpoints)):
        return False
    progress = restore(before)
    factor = settings.rollback_factor
    say(f"{trouble}: going back, with the learning rate times {factor}")
    progress["plateau"]["scale"] *= factor
    epoch_end.model.optimizer.learning_rate_scale.assign(progress["plateau"]["scale"])
    progress["rollbacks"].append({"epoch": trouble.epoch + 1, "step": trouble.step})
    epoch_end.save(progress["epoch"], progress["step"])
    return True


def find_first(trouble, progress, epoch_end, train):
    """Repeat the steps from the newest checkpoint to the trouble, and keep the state before it.

    That state is made the newest checkpoint.

    Args:
        progress: of that checkpoint, where `train` goes on.

    Returns:
        NotFinite: of the first step after which the state is not finite; None if it is finite
        after all of them, and if a signal stopped the run meanwhile.
    """
    search = Search(trouble, epoch_end)
    begin = (progress["epoch"], progress["step"])
    epoch_end.position.until = (trouble.epoch, trouble.step)
    try:
        train(search)
        return None
    except NotFinite as again:
        found = search.found or again
    finally:
        epoch_end.position.until = None
    found = NotFinite(found.what, found.epoch, found.step, found.step - 1)
    if search.before == (found.epoch, found.step - 1):
        epoch, step = search.before
        at = {"epoch": epoch, "step": step}
        epoch_end.checkpoints.save_copy(search.state, epoch_end.progress | at)
        return found
    return found if begin == (found.epoch, found.step - 1) else None


class Search(keras.callbacks.Callback):
    """Reads the state before each step that may have been the first; stops behind the first.

    Attributes:
        before: (epoch, step) of the last state that was finite, None before the first.
        state: that state, {path: array}.
        found: the `NotFinite` of the step behind it, or None.
    """

    def __init__(self, trouble, epoch_end):
        super().__init__()
        self.epoch, self.first_step = trouble.epoch, trouble.finite_until
        self.epoch_end = epoch_end
        self.before = self.state = self.found = None

    def on_train_batch_begin(self, batch, logs=None):
        position = self.epoch_end.position
        done = position.step - 1
        if position.epoch != self.epoch or done < max(1, self.first_step) or self.found:
            return
        state = self.epoch_end.checkpoints.read()
        what = what_is_not_finite(state)
        if what:
            self.found = NotFinite(what, self.epoch, done, done - 1)
            self.model.stop_training = True
        else:
            self.before, self.state = (self.epoch, done), state
