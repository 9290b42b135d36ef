"""What becomes of a run in which something is not finite: it goes back, or is left to be looked at.

The steps of a run are the same each time, so the state before any step is had by going on from the
checkpoint before it.
"""

from keras_imnet64.errors import RunFailed
from keras_imnet64.files import write_json
from keras_imnet64.output import say
from keras_imnet64.training.callbacks import NotFinite
from keras_imnet64.training.state import list_checkpoints, place_of


def recover(trouble, recipe, run, stream, restore, epoch_end, train):
    """Go back one checkpoint with a smaller learning rate, or keep what shows the step, and fail.

    Args:
        trouble: the `NotFinite`.
        restore: fills the variables from the newest checkpoint, or the newest before a place, and
            begins there.
        train: goes on from there.

    Raises:
        RunFailed: the recipe does not go back, or has often enough, or there is nothing to go to.
    """
    if not list_checkpoints(run.checkpoints):
        raise RunFailed(f"{trouble}, and no checkpoint is left to go back to: begin anew, --fresh")
    progress = restore()
    back = len(progress["rollbacks"])
    wanted = recipe.train.on_nan == "rollback" and back < recipe.train.max_rollbacks
    if wanted and roll_back(trouble, recipe.train.rollback_factor, run, restore, epoch_end):
        return
    step = keep_state_before(trouble, recipe, progress, restore, epoch_end.position, train)
    if epoch_end.position.stop.requested:
        return
    positions = stream.positions(trouble.epoch, step - 1).tolist()
    found = {"epoch": trouble.epoch + 1, "step": step, "split": "train", "positions": positions}
    write_json(run.not_finite_file, found)
    if step != trouble.step:  # whose update it was
        trouble = NotFinite("a weight", trouble.epoch, step)
    times = f" (it went back {back} times already)" if back else ""
    raise RunFailed(
        f"{trouble}{times}; the same command goes on from {list_checkpoints(run.checkpoints)[-1]} "
        f"and repeats the step, whose pictures are named in {run.not_finite_file}: in a new run "
        "lower optimizer.learning_rate, set optimizer.clip_norm or "
        "train.on_nan='\"rollback\"'"
    )


def roll_back(trouble, factor, run, restore, epoch_end):
    """Go back behind at least one update before the trouble; returns whether that was possible."""
    before = (trouble.epoch, trouble.step - 1)  # whose weights gave what is not finite
    if not any(place_of(path) < list(before) for path in list_checkpoints(run.checkpoints)):
        return False
    progress = restore(before)
    say(f"{trouble}: going back, with the learning rate times {factor}")
    progress["plateau"]["scale"] *= factor
    epoch_end.model.optimizer.learning_rate_scale.assign(progress["plateau"]["scale"])
    progress["rollbacks"].append({"epoch": trouble.epoch + 1, "step": trouble.step})
    epoch_end.save(progress["epoch"], progress["step"])
    return True


def keep_state_before(trouble, recipe, progress, restore, position, train):
    """Make the last finite state the newest checkpoint; returns the step that ends it.

    A step that is not finite may have been given weights that are not, and those may have been
    gathered over the parts of a batch.
    """
    earliest = trouble.step - 2 - recipe.train.accumulate_steps
    for done in range(trouble.step - 1, max(earliest, -1), -1):
        if (progress["epoch"], progress["step"]) >= (trouble.epoch, done):
            return progress["step"] + 1
        position.until = (trouble.epoch, done)
        try:
            train()
            return done + 1
        except NotFinite:
            progress = restore()
        finally:
            position.until = None
    return trouble.step
