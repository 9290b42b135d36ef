"""Handles a loss or weight that is not finite: rolls back, or records the failing step and fails.

The loss is checked in every step, the rest of the state less often, so the first bad step may lie
before the step at which the run stopped. To find it, the steps are repeated from the newest
checkpoint, which is finite, and the state is checked after each. This works because the steps of a
run give the same result each time.
"""

from functools import partial
from pathlib import Path

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed
from keras_imnet64.core.files import write_json
from keras_imnet64.core.validation import to_json
from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.records import NotFiniteSteps
from keras_imnet64.runs import Run
from keras_imnet64.training.finite import NotFinite
from keras_imnet64.training.state import list_checkpoints
from keras_imnet64.training.trainer import Trainer


def train_with_recovery(trainer: Trainer) -> None:
    """Trains a run to its last epoch.

    Raises:
        Stopped: a signal stopped the run, or a user's callback within an epoch; its state is saved.
        RunFailed: memory ran out, or a number is not finite and the run does not roll back.
        UserError: the initial weights are not finite.
    """
    with trainer.stop.listening():
        while True:
            try:
                trainer.train()
                break
            except NotFinite as failure:
                recover_from_nan(trainer, failure)
            if trainer.stop.requested:
                break
    trainer.raise_if_stopped()


def recover_from_nan(trainer: Trainer, failure: NotFinite) -> None:
    """Rolls back with a smaller learning rate, or records the failing step and its images.

    Returns after a rollback, or when a signal has stopped the search for the step.

    Raises:
        RunFailed: the recipe does not allow a (further) rollback, or there is no checkpoint to
            roll back to.
    """
    run, settings, stream = trainer.run, trainer.recipe.train, trainer.stream
    if not trainer.has_checkpoint():
        raise RunFailed(f"{failure}, and no checkpoint is left: start over with --fresh")
    trainer.restore()
    num_rollbacks = len(trainer.state.rollbacks)
    may_roll_back = settings.on_nan == "rollback" and num_rollbacks < settings.max_rollbacks
    if may_roll_back and trainer.roll_back(failure):
        return
    found = None
    if not stream.inexact_steps:
        say(f"{failure}: repeating the steps to find the first bad one and save the state before")
        found = trainer.find_first_step(failure)
        if found is None and trainer.stop.requested:
            return
    trainer.cluster.from_writer(partial(write_images, found or failure, run, stream))
    newest = Path(trainer.cluster.from_writer(lambda: str(list_checkpoints(run.checkpoints)[-1])))
    times = f" (rollbacks so far: {num_rollbacks})" if num_rollbacks else ""
    if found is None:
        raise RunFailed(f"{failure}{times}; {reason_not_repeated(stream, newest, run)}")
    raise RunFailed(
        f"{found}{times}; the same command resumes from {newest} and repeats the step; "
        f"{run.not_finite_file} lists its images: in a new run lower optimizer.learning_rate, set "
        "optimizer.clip_norm or "
        "train.on_nan='\"rollback\"'"
    )


def reason_not_repeated(stream: TrainingStream, newest: Path, run: Run) -> str:
    """Returns why the state right before the failing step could not be saved."""
    if stream.inexact_steps:
        reason = f"{stream.inexact_steps[0].op} draws its own random numbers, so"
    else:
        reason = "the repeated steps gave something else: something in this run is random, so"
    return (
        f"{reason} the state before that step cannot be restored; {run.not_finite_file} lists the "
        f"images, and the same command resumes from {newest}"
    )


def write_images(found: NotFinite, run: Run, stream: TrainingStream) -> None:
    """Writes not_finite.json: the failing step, or steps, and the positions of their images."""
    steps = range(found.first, found.step + 1)
    record = NotFiniteSteps(
        epoch=found.epoch + 1,
        step=found.step,
        first_step=found.first if len(steps) > 1 else None,
        split="train",
        positions=tuple(p for s in steps for p in stream.positions(found.epoch, s - 1).tolist()),
    )
    write_json(run.not_finite_file, to_json(record, omit_none=True))
