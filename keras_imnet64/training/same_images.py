"""Checks that the images of a resumed run are those with which it started.

Images that the run has neither trained on nor been scored on may change, because no weight depends
on them: a damaged image that ended the run can be repaired.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import write_atomic
from keras_imnet64.data.stores.encoded import EncodedStore, ImageFailed, digest_of
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.models.options import WHITENING
from keras_imnet64.records import RunState
from keras_imnet64.runs import Run
from keras_imnet64.training.setup import TrainingSetup
from keras_imnet64.training.trainer import Trainer

MEASURED = ("dataset", "mean_image")  # normalizations that depend on every training image


def check_same_images(run: Run, setup: TrainingSetup, state: RunState) -> None:
    """Refuses a data set if images that the run has used have changed.

    Args:
        run: its environment.json holds the digests of the images with which it started.
        state: the state of the checkpoint from which the run resumes.

    Raises:
        UserError: the images of a split have changed.
    """
    if not run.environment_file.exists() or not state.has_trained:
        return
    environment = run.read_environment()
    for store, digest in (
        (setup.data.train.store, environment.digest.train),
        (setup.data.final.store, environment.digest.validation),
    ):
        if store.digest == digest:
            continue
        changed = _changed_positions(run, store, digest)
        if changed is None or _has_used(store, changed, setup, state):
            raise UserError(
                f"the {store.split} images of {environment.dataset} differ from those with which "
                f"{run.path} was started: restore those images, or start over with --fresh"
            )


@contextlib.contextmanager
def advise_on_failed_images(trainer: Trainer) -> Iterator[None]:
    """Explains how a run can resume whose image could not be read, and keeps the hashes for that.

    Raises:
        RunFailed: replaces an ImageFailed.
    """
    try:
        yield
    except ImageFailed as failure:
        store = failure.store
        advice = "restore the original file, and the same command resumes the run"
        if store.hashes is None:
            advice += "; with another file in its place, start over with --fresh"
        elif _has_used(store, [failure.position], trainer.setup, trainer.state):
            advice += (
                "; this run has used that image, so with another file in its place, start over "
                "with --fresh"
            )
        else:
            _keep_hashes(trainer.run, store.split, store.hashes)
            advice += (
                f"; or repair the image and run {store.command}: the same command then resumes "
                "too, because this run has not used that image yet"
            )
        raise RunFailed(f"{failure.fault}: {advice}") from failure


def delete_hashes(run: Run) -> None:
    """Deletes the kept hashes; call it once environment.json has the current digests."""
    run.hashes_file("train").unlink(missing_ok=True)
    run.hashes_file("validation").unlink(missing_ok=True)


def _has_used(
    store: Store,
    positions: Sequence[int] | np.ndarray,
    setup: TrainingSetup,
    state: RunState,
) -> bool:
    """Returns whether training or scoring has used any of these images of a store."""
    model = setup.recipe.model
    measured = model.normalization in MEASURED or model.all_options.get(WHITENING)
    if state.epoch or (state.step and measured):
        return True
    if store.split != setup.data.train.store.split:
        return False  # images for validation are first used when an epoch is over
    used = [setup.stream.positions(0, step) for step in range(state.step)]
    return bool(np.isin(positions, used).any())


def _keep_hashes(run: Run, split: str, hashes: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, hashes, allow_pickle=False)
    write_atomic(run.hashes_file(split), content.getvalue())


def _changed_positions(run: Run, store: Store, digest: str) -> np.ndarray | None:
    """Returns the positions of the images that differ from those of a digest; None if unknown."""
    if not isinstance(store, EncodedStore):
        return None
    try:
        before = np.load(run.hashes_file(store.split), allow_pickle=False)
        if digest_of(before, store.labels) != digest:
            return None
        return np.flatnonzero((before != store.hashes).any(axis=1))
    except (OSError, ValueError, AttributeError, IndexError):  # no hashes, or damaged ones
        return None
