"""Decides whether a run may resume with the images that are here.

A run resumes with the images that it was begun with. Those that it has neither trained on nor
been scored on may change, so that a damaged image that ended the run can be mended: no weight
depends on it.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import write_atomic
from keras_imnet64.data.stores.encoded import EncodedStore, ImageFailed, digest_of
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.records import RunState
from keras_imnet64.runs import Run
from keras_imnet64.training.setup import TrainingSetup

if TYPE_CHECKING:
    from keras_imnet64.training.trainer import Trainer

MEASURED = ("dataset", "mean_image")  # normalizations that depend on every training image


def check_same_images(run: Run, setup: TrainingSetup, state: RunState) -> None:
    """Refuses images of which some differ from those that the run has trained on.

    Args:
        run: its environment.json holds the digests of the images that it was begun with.
        state: of the checkpoint from which the run resumes.

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
                f"{run.path} was begun with other {store.split} images than those that are here as "
                f"{environment.dataset}: bring those back, or begin anew with --fresh"
            )


@contextlib.contextmanager
def advise_on_failed_images(trainer: "Trainer") -> Iterator[None]:
    """Says of an image that cannot be read how the run can resume, and keeps what that takes.

    Raises:
        RunFailed: in place of an ImageFailed.
    """
    try:
        yield
    except ImageFailed as failure:
        store = failure.store
        advice = "bring back the file as it was, and the same command goes on"
        if store.hashes is None:
            advice += "; with another in its place the run must be begun anew with --fresh"
        elif _has_used(store, [failure.position], trainer.setup, trainer.state):
            advice += (
                "; this run has used that image, so with another in its place it must be begun "
                "anew with --fresh"
            )
        else:
            _keep_hashes(trainer.run, store.split, store.hashes)
            advice += (
                f"; or mend the image and run {store.command}, and the same command goes on too, "
                "for this run has not used that image yet"
            )
        raise RunFailed(f"{failure.fault}: {advice}") from failure


def delete_hashes(run: Run) -> None:
    """Deletes the hashes that were kept, once environment.json has the digests of now."""
    run.hashes_file("train").unlink(missing_ok=True)
    run.hashes_file("validation").unlink(missing_ok=True)


def _has_used(
    store: Store,
    positions: Sequence[int] | np.ndarray,
    setup: TrainingSetup,
    state: RunState,
) -> bool:
    """Returns whether training or scoring has used any of these images of a store."""
    if state.epoch or (state.step and setup.recipe.model.normalization in MEASURED):
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
    """Returns the positions of the images that differ from those of a digest.

    None: they are unknown.
    """
    if not isinstance(store, EncodedStore):
        return None
    try:
        before = np.load(run.hashes_file(store.split), allow_pickle=False)
        if digest_of(before, store.labels) != digest:
            return None
        return np.flatnonzero((before != store.hashes).any(axis=1))
    except (OSError, ValueError, AttributeError, IndexError):  # not kept, or damaged
        return None
