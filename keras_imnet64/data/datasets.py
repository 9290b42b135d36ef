"""The table of data sets, and the way from a name to its packed stores.

To add a data set, add its row to DATASETS; a new kind of source is a module in `sources` and a
function in `preparing`. Where data sets lie is told in `places`; reading a store is the business
of `store`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError, nearest
from ..files import expand
from . import store as stores
from .places import Place
from .preparing import Request, from_picture_files, pack_tfds, through_tfds
from .sources import archives, shapes, tiny_imagenet

HALF_THERE, NOT_PREPARED = "half there", "not prepared"  # states that `info` tells of


@dataclass(frozen=True)
class Dataset:
    """A row of the table.

    Attributes:
        name: what recipes and commands call it.
        image_size: pixels per side.
        num_classes: K.
        splits: pictures in "train" and "validation", as the name promises them.
        description: one sentence.
        labels: returns (class ids, class names), in label order; None where the source tells.
        builder: TFDS' name of the builder, and of the one for unverified archives; empty where
            the pictures do not come through TFDS.
        make: the function of `preparing` that makes its stores.
        file_per_picture: whether damaged pictures can be left out one by one.
        resize_filter: how pictures are made small that a model of this set is shown later: as its
            own were, where that is known.
        embedded: whether it can be made on the spot, with nothing to download.
        source_hint: what stands after --source in a message.
    """

    name: str
    image_size: int
    num_classes: int
    splits: dict[str, int]
    description: str
    labels: Callable | None = None
    builder: str = ""
    unverified_builder: str = ""
    make: Callable = through_tfds
    file_per_picture: bool = False
    resize_filter: str = "box"
    embedded: bool = False
    source_hint: str = "DIR"


def _imagenet_labels():
    return archives.imagenet_wnids(), archives.imagenet_class_names()


def _imagenet_row(size):
    return Dataset(
        name=f"imagenet_resized/{size}x{size}",
        image_size=size,
        num_classes=1000,
        splits={"train": 1_281_167, "validation": 50_000},
        description=f"ImageNet-1K at {size} x {size} pixels (arXiv:1707.08819), through TFDS.",
        labels=_imagenet_labels,
        builder="imagenet_resized",
        unverified_builder="imagenet_resized_unverified",
    )


DATASETS = {
    row.name: row
    for row in (
        *(_imagenet_row(size) for size in (64, 32, 16, 8)),
        Dataset(
            name="shapes",
            image_size=shapes.IMAGE_SIZE,
            num_classes=len(shapes.CLASSES),
            splits={"train": shapes.NUM_TRAIN, "validation": shapes.NUM_VALIDATION},
            description=shapes.DESCRIPTION,
            labels=lambda: (list(shapes.CLASSES), list(shapes.CLASSES)),
            builder="shapes",
            embedded=True,
        ),
        Dataset(
            name="tiny_imagenet",
            image_size=tiny_imagenet.IMAGE_SIZE,
            num_classes=tiny_imagenet.NUM_CLASSES,
            splits={"train": tiny_imagenet.NUM_TRAIN, "validation": tiny_imagenet.NUM_VALIDATION},
            description="Tiny ImageNet: 200 classes of ImageNet at 64 x 64 pixels, as JPEG.",
            make=from_picture_files,
            file_per_picture=True,
            resize_filter="box",  # our choice: its authors do not say how theirs were made small
            source_hint="tiny-imagenet-200.zip",
        ),
    )
}


def find_dataset(name):
    """The table's row of this name.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    if name not in DATASETS:
        raise UserError(f'there is no data set "{name}": {nearest(name, DATASETS)}')
    return DATASETS[name]


def default_data_dir():
    """TFDS' own convention: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return expand(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def prepare(
    name,
    *,
    data_dir=None,
    cache_dir=None,
    source=None,
    allow_unverified=False,
    skip_corrupt=False,
    skipped=None,
    progress=None,
):
    """Make a data set ready: build it through TFDS (or read its zip), then pack both splits.

    What is ready already is left alone, unless `source` says to read it anew.

    Args:
        name: a key of DATASETS.
        data_dir: where TFDS keeps its data; by default `default_data_dir()`.
        cache_dir: where packed stores go, by default data_dir (in the folder `packed`).
        source: folder with the published archives, or for `tiny_imagenet` its zip or folder;
            None downloads through TFDS, or draws `shapes`.
        allow_unverified: take pictures that are not the published ones, into a place of their own.
        skip_corrupt: leave out damaged pictures of `tiny_imagenet`; what is left is not the
            published set, so it goes into the place of unverified ones.
        skipped: a list that receives (name, reason) of each picture that was left out.
        progress: called as `progress(description, done, total)`.

    Returns:
        dict[str, RawStore]: the stores by split, memory-mapped.

    Raises:
        UserError: unknown name, wrong or missing archives, damaged pictures, no room, a failed
            download, or another process of this machine is preparing the same set.
    """
    dataset = find_dataset(name)
    _check_request(dataset, source, allow_unverified, skip_corrupt)
    verified, unverified = _places(dataset, data_dir, cache_dir)
    if source is None and verified.packed():
        return verified.open()
    (unverified if allow_unverified else verified).refuse_if_being_packed()
    request = Request(
        verified,
        unverified,
        source=source,
        allow_unverified=allow_unverified,
        skip_corrupt=skip_corrupt,
        skipped=[] if skipped is None else skipped,
        progress=progress,
    )
    return dataset.make(request)


def _check_request(dataset, source, allow_unverified, skip_corrupt):
    """Refuse options that contradict each other or the data set."""
    name = dataset.name
    if source is None and allow_unverified:
        raise UserError("--allow-unverified needs --source, the pictures to take")
    if source is not None and dataset.embedded:
        raise UserError(f"{name} is drawn on the spot: it takes no --source; received {source}")
    if skip_corrupt and dataset.embedded:
        raise UserError(f"{name} is drawn on the spot: it has nothing for --skip-corrupt to leave")
    if skip_corrupt and not dataset.file_per_picture:
        able = ", ".join(row.name for row in DATASETS.values() if row.file_per_picture)
        raise UserError(
            f"--skip-corrupt works for {able}, which has a file for each picture; those of "
            f"{name} hold many, so fetch a damaged one again"
        )


def _places(dataset, data_dir, cache_dir):
    """(the place of what the name promises, that of its unverified stand-in)."""
    data_dir = expand(data_dir) if data_dir else default_data_dir()
    cache_dir = expand(cache_dir) if cache_dir else data_dir
    return tuple(Place(dataset, data_dir, cache_dir, verified) for verified in (True, False))


def open_dataset(name, split, *, data_dir=None, cache_dir=None, in_memory="auto", progress=None):
    """The packed store of one split; packed now if TFDS has the data, or it is embedded.

    Verified pictures are preferred; where only unverified ones exist, those are opened, and
    `store.verified` says so.

    Args:
        name, data_dir, cache_dir, progress: as for `prepare`.
        split: "train" or "validation".
        in_memory: as for `store.open_store`.

    Returns:
        RawStore

    Raises:
        UserError: unknown name or split, or the data is not prepared (the message has the command).
    """
    dataset = find_dataset(name)
    if split not in dataset.splits:
        raise UserError(f'{name} has no split "{split}": {nearest(split, dataset.splits)}')
    places = _places(dataset, data_dir, cache_dir)
    if not any(place.ready() for place in places):
        for place in places:
            place.refuse_if_being_packed()
    if dataset.embedded and not places[0].ready():
        prepare(name, data_dir=data_dir, cache_dir=cache_dir, progress=progress)
    for place in places:
        if place.ready():  # both splits of one place: verified and unverified never mix
            if not stores.is_store(place.folder(split)):
                place.refuse_if_being_packed()
                pack_tfds(place, split, progress, place.folder(split))
            return stores.open_store(place.folder(split), in_memory)
    raise UserError(
        f"{name} is not prepared in {places[0].data_dir}: run "
        f"`python cli.py data prepare {name} --source {dataset.source_hint}`"
    )


def info(name, *, data_dir=None, cache_dir=None):
    """What is known of a data set and of its state on this machine; needs nothing prepared.

    Returns:
        dict, fit for JSON: name, description, image_size, classes, class_ids (the first five),
        class_names (theirs), state ("packed", "built by TFDS, not packed", "half there" or
        "not prepared"), verified (None if neither packed nor built), splits and digest by split,
        store_bytes, tfds_bytes, location, source. All of them are of one place: that of verified
        pictures, unless only unverified ones are there, or a part of them.
    """
    dataset = find_dataset(name)
    place, state = _describe(_places(dataset, data_dir, cache_dir))
    opened = place.open() if state == "packed" else {}
    some = next(iter(opened.values()), None)
    ids, names = (some.wnids, some.class_names) if some else _known_labels(dataset)
    return {
        "name": name,
        "description": dataset.description,
        "image_size": dataset.image_size,
        "classes": len(ids) if some else dataset.num_classes,
        "class_ids": list(ids[:5]),
        "class_names": list(names[:5]),
        "state": state,
        "verified": None if state in (HALF_THERE, NOT_PREPARED) else place.verified,
        "splits": {s: len(opened[s]) if opened else n for s, n in dataset.splits.items()},
        "digest": {split: store.digest for split, store in opened.items()},
        "store_bytes": place.packed_bytes(),
        "tfds_bytes": place.tfds_bytes(),
        "location": None if state == NOT_PREPARED else str(place.packed_dir),
        "source": some.source if some else None,
    }


def _describe(places):
    """(the place that `info` tells of, how far the data set is made there)."""
    for place in places:
        if place.ready():
            return place, "packed" if place.packed() else "built by TFDS, not packed"
    for place in places:
        if place.packed_bytes() or place.tfds_bytes():
            return place, HALF_THERE
    return places[0], NOT_PREPARED


def _known_labels(dataset):
    return dataset.labels() if dataset.labels else ([], [])
