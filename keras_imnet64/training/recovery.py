"""Handles a loss or weight that is not finite: rolls back, or keeps the state before it and fails.

The loss is checked in every step, the rest of the state more rarely, so that the first bad step
may lie before the step after which the run stopped. The steps of a run give the same each time.
They are therefore repeated from the newest checkpoint, which is finite, and the state is checked
after each.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed
from keras_imnet64.core.files import write_json
from keras_imnet64.core.validation import to_json
from keras_imnet64.data.stream import TrainingStream
from keras_imnet64.records import NotFiniteSteps
from keras_imnet64.runs import Run
from keras_imnet64.training.finite import NotFinite
from keras_imnet64.training.state import list_checkpoints

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer


def recover(trainer: "Trainer", trouble: NotFinite) -> None:
    """Rolls back with a smaller learning rate, or records the failing step and its images.

    Returns after a rollback, and when a signal stopped the search for the step.

    Raises:
        RunFailed: the recipe does not roll back, or has done so often enough, or no checkpoint is
            left to go back to.
    """
    run, settings, stream = trainer.run, trainer.recipe.train, trainer.stream
    if not list_checkpoints(run.checkpoints):
        raise RunFailed(f"{trouble}, and no checkpoint is left to go back to: begin anew, --fresh")
    trainer.restore()
    num_rollbacks = len(trainer.state.rollbacks)
    may_roll_back = settings.on_nan == "rollback" and num_rollbacks < settings.max_rollbacks
    if may_roll_back and trainer.roll_back(trouble):
        return
    found = None
    if not stream.inexact_steps:
        say(f"{trouble}: the steps to it are repeated, to find the first and keep the state before")
        found = trainer.find_first_step(trouble)
        if found is None and trainer.stop.requested:
            return
    write_images(found or trouble, run, stream)
    newest = list_checkpoints(run.checkpoints)[-1]
    times = f" (it went back {num_rollbacks} times already)" if num_rollbacks else ""
    if found is None:
        raise RunFailed(f"{trouble}{times}; {reason_not_repeated(stream, newest, run)}")
    raise RunFailed(
        f"{found}{times}; the same command goes on from {newest} "
        f"and repeats the step, whose images are named in {run.not_finite_file}: in a new run "
        "lower optimizer.learning_rate, set optimizer.clip_norm or "
        "train.on_nan='\"rollback\"'"
    )


def reason_not_repeated(stream: TrainingStream, newest: Path, run: Run) -> str:
    """Returns the clauses that say why the state right before the step could not be kept."""
    if stream.inexact_steps:
        reason = f"{stream.inexact_steps[0].op} draws its own random numbers, so"
    else:
        reason = "repeated, the steps gave something else: something in this run is random, and"
    return (
        f"{reason} the state before cannot be had again; the images are named in "
        f"{run.not_finite_file}, and the same command goes on from {newest}"
    )


def write_images(found: NotFinite, run: Run, stream: TrainingStream) -> None:
    """Writes not_finite.json: the step, or the steps, and the positions of their images."""
    steps = range(found.first, found.step + 1)
    record = NotFiniteSteps(
        epoch=found.epoch + 1,
        step=found.step,
        first_step=found.first if len(steps) > 1 else None,
        split="train",
        positions=tuple(p for s in steps for p in stream.positions(found.epoch, s - 1).tolist()),
    )
    write_json(run.not_finite_file, to_json(record, omit_none=True))
