"""Decides whether a run may go on with the images that are here.

A run goes on with the images that it was begun with. Those that it has neither trained on nor
been scored on may change, so that a damaged image which ended the run can be mended: nothing that
was learned came from it.
"""

import contextlib
import io

import numpy as np

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import write_atomic
from keras_imnet64.data.stores.encoded import ImageFailed, digest_of

MEASURED = ("dataset", "mean_image")  # normalizations that every training image has a part in


def stores_of(data):
    """{split: store} of a run's `data.Data`."""
    return {"train": data.train.store, "validation": data.final.store}


def check_same_images(run, recipe, data, stream, progress):
    """Refuse images of which some differ from those that the run has trained on.

    Args:
        run: a `Run`; its environment.json holds the digests that it was begun with.
        progress: of the checkpoint that the run goes on from.

    Raises:
        UserError: the images of a split have changed.
    """
    if not run.environment_file.exists() or not (progress["epoch"] or progress["step"]):
        return  # nothing has been trained on yet
    begun = run.environment["digest"]
    for split, store in stores_of(data).items():
        if store.digest == begun[split]:
            continue
        changed = _changed(run, store, begun[split])
        if changed is None or _has_used(store, changed, recipe, stream, progress):
            raise UserError(
                f"{run.path} was begun with other {split} images than those that are here as "
                f"{run.environment['dataset']}: bring those back, or begin anew with --fresh"
            )


@contextlib.contextmanager
def with_advice(run, recipe, stream, progress):
    """Say of an image that has failed how this run can go on, and keep what that takes.

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
        elif _has_used(store, [failure.position], recipe, stream, progress):
            advice += "; this run has used that image, so with another in its place it must be "
            advice += "begun anew with --fresh"
        else:
            _keep_hashes(run, store)
            advice += f"; or mend the image and run {store.command}, and the same command goes "
            advice += "on too, for this run has not used that image yet"
        raise RunFailed(f"{failure.fault}: {advice}") from failure


def forget_hashes(run):
    """Delete what `with_advice` has kept, once environment.json has the digests of today."""
    for split in ("train", "validation"):
        run.hashes_file(split).unlink(missing_ok=True)


def _has_used(store, positions, recipe, stream, progress):
    """Whether training or scoring, up to the newest checkpoint, had to do with these images."""
    if progress["epoch"] or (progress["step"] and recipe.model.normalization in MEASURED):
        return True
    if store.split != stream.selection.store.split:
        return False  # images for validation are first looked at when an epoch is over
    steps = [stream.positions(0, step) for step in range(progress["step"])]
    return bool(np.isin(positions, steps).any())


def _keep_hashes(run, store):
    content = io.BytesIO()
    np.save(content, store.hashes, allow_pickle=False)
    write_atomic(run.hashes_file(store.split), content.getvalue())


def _changed(run, store, begun):
    """Positions of images that differ from those of the digest `begun`; None where unknown."""
    try:
        before = np.load(run.hashes_file(store.split), allow_pickle=False)
        if digest_of(before, store.labels) != begun:
            return None
        return np.flatnonzero((before != store.hashes).any(axis=1))
    except (OSError, ValueError, AttributeError, IndexError):  # none was kept, or it is damaged
        return None
