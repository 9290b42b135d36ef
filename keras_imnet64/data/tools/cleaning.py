"""Removing what is no longer needed: copies that were packed, downloads, and what the dead left.

Packed stores and sources are never touched; neither is what a living process is making.
"""

import contextlib
import shutil
import time

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import read_json
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.work_folders import abandoned
from keras_imnet64.data import datasets
from keras_imnet64.data import locations as places
from keras_imnet64.data.stores import packing

STILL_BUILDING = 3600  # seconds since TFDS wrote into a build that may be alive


def clean(name=None, *, data_dir=None, cache_dir=None, dry_run=False):
    """Remove what is no longer needed of one data set, or of all.

    That is, where both splits are packed, TFDS' own copy of them and the archives that TFDS
    downloaded for it; and working folders of processes of this machine that have died.

    Args:
        name: a data set; None means all.
        data_dir, cache_dir: as for `datasets.prepare`.
        dry_run: only tell what would be removed.

    Returns:
        dict, fit for JSON: removed (list of {what, path, bytes}), bytes (of all), dry_run.

    Raises:
        UserError: there is no such data set, or a process is packing it.
        RunFailed: something cannot be removed.
    """
    both = [
        place
        for row in ([datasets.find_dataset(name)] if name else _all_rows(data_dir, cache_dir))
        for place in datasets.locations_of(row, data_dir, cache_dir)
    ]
    for place in both:
        place.refuse_if_being_packed()
    found = [entry for place in both for entry in _unneeded(place)]
    removed = [{"what": what, "path": str(path), "bytes": _bytes(path)} for what, path in found]
    if not dry_run:
        for _, path in found:
            _remove(path)
    return {
        "removed": removed,
        "bytes": sum(entry["bytes"] for entry in removed),
        "dry_run": dry_run,
    }


def _all_rows(data_dir, cache_dir):
    """The table's rows, and those of sets with names of their own that lie here."""
    rows = dict(datasets.DATASETS)
    packed = datasets.locations_of(rows[datasets.IMAGE_FOLDER], data_dir, cache_dir)[
        0
    ].packed_dir.parent
    for folder in sorted(packed.glob("*")) + sorted(packed.glob(".*")):
        own = folder.name.removeprefix(".").partition(f".{packing.WORD}@")[0]
        own = own.removesuffix(places.SUFFIX)
        for kind in (datasets.IMAGE_FOLDER, datasets.DOWNSAMPLED):
            if own.startswith(f"{kind}_"):
                name = f"{kind}/{own.removeprefix(f'{kind}_')}"
                with contextlib.suppress(UserError):  # another's folder
                    rows[name] = datasets.find_dataset(name)
    return rows.values()


def _unneeded(place):
    """(what it is, where it lies) of all that may go."""
    name = place.dataset.name
    for path in (place.packed_dir, *map(place.folder, place.dataset.splits)):
        for folder in abandoned(path, packing.WORD):
            yield f"{name}, begun by a process that died", folder
    if place.tfds_dir is None or not _is_whole(place) or _is_being_built(place.tfds_dir):
        return
    if place.tfds_dir.is_dir():
        yield f"{name}, TFDS' copy of what is packed", place.tfds_dir
    if place.verified:
        for file in _downloads(place):
            yield f"{name}, downloaded by TFDS for what is packed", file


def _is_whole(place):
    """Whether both splits are packed and can be opened."""
    try:
        return place.packed() and bool(place.open())
    except UserError:
        return False


def _is_being_built(folder):
    """Whether TFDS may be writing there: its unfinished folders say no process."""
    files = (file for part in folder.glob("*incomplete*") for file in (part, *part.rglob("*")))
    newest = max((file.lstat().st_mtime for file in files), default=0)
    return newest > time.time() - STILL_BUILDING


def _downloads(place):
    """What TFDS fetched for this size, each archive with the note beside it."""
    begin = f"Imagenet{place.dataset.image_size}_"
    for note in sorted((place.data_dir / "downloads").glob("*.INFO")):
        try:
            content = read_json(note)
            ours = content["dataset_names"] == [place.builder_name]
            ours = ours and content["original_fname"].startswith(begin)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if ours:
            yield from (path for path in (note.with_suffix(""), note) if path.is_file())


def _bytes(path):
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_file())


def _remove(path):
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise RunFailed(
            f"{path} cannot be removed ({os_error_text(error, path.parent)}); mend that and run "
            "the same command again"
        ) from error
