"""What becomes of a run in which something is not finite: it goes back, or is left to be looked at.

The steps of a run are the same each time, so the state before any step is had by going on from the
checkpoint before it.
"""

from keras_imnet64.errors import RunFailed
from keras_imnet64.files import write_json
from keras_imnet64.training.callbacks import NotFinite
from keras_imnet64.training.progress import say


def recover(trouble, recipe, run, stream, restore, epoch_end, train):
    """Go back one checkpoint with a smaller learning rate, or keep what shows the step, and fail.

    Args:
        trouble: the `NotFinite`.
        restore: fills the variables from the newest checkpoint and begins there.
        train: goes on from there.

    Raises:
        RunFailed: the recipe does not go back, or has often enough.
    """
    progress = restore()
    back = len(progress["rollbacks"])
    if recipe.train.on_nan == "rollback" and back < recipe.train.max_rollbacks:
        say(f"{trouble}: going back, with the learning rate times {recipe.train.rollback_factor}")
        lower_rate(progress, recipe.train.rollback_factor, epoch_end.model.optimizer)
        progress["rollbacks"].append({"epoch": trouble.epoch + 1, "step": trouble.step})
        epoch_end.save(progress["epoch"], progress["step"])
        return
    step = keep_state_before(trouble, progress, restore, epoch_end.position, train)
    if epoch_end.position.stop.requested:
        return
    positions = stream.positions(trouble.epoch, step - 1).tolist()
    found = {"epoch": trouble.epoch + 1, "step": step, "positions": positions}
    write_json(run.not_finite_file, found | {"split": "train", "what": trouble.what})
    raise RunFailed(
        f"{trouble}; the state before it is the newest checkpoint, so that the same command "
        f"repeats the step, whose pictures are named in {run.not_finite_file}: lower "
        "optimizer.learning_rate or set optimizer.clip_norm in a new run, or go on with "
        "--set train.on_nan='\"rollback\"'"
        + (f" (it went back {back} times already)" if back else "")
    )


def lower_rate(progress, factor, optimizer):
    progress["plateau"]["scale"] *= factor
    optimizer.learning_rate_scale.assign(progress["plateau"]["scale"])


def keep_state_before(trouble, progress, restore, position, train):
    """Make the last finite state the newest checkpoint; returns the step that ends it.

    A step that is not finite may have been given weights that are not.
    """
    for done in range(trouble.step - 1, max(trouble.step - 3, -1), -1):
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
