"""The table of data sets, and the way from a name to its packed stores.

To add a data set, add its row to DATASETS; a new kind of source is a module in `sources` and a
function in `prepare`. Where data sets lie is told in `locations`; reading a store is the business
of `store`.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.paths import expand
from keras_imnet64.data.images.views import FILTERS
from keras_imnet64.data.locations import DatasetLocation
from keras_imnet64.data.prepare import (
    Request,
    from_image_files,
    from_image_folder,
    from_imagenet21k,
    from_imagenet2012,
    pack_tfds,
    through_tfds,
)
from keras_imnet64.data.sources import archives, imagenet2012, shapes, tiny_imagenet
from keras_imnet64.data.stores import store as stores

OWN = "image_folder"
OWN_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)
SMALL = "downsampled"
SMALL_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9][\w-]{0,63})_(?P<size>\d{1,3})x(?P=size)"
    rf"(_(?P<filter>{'|'.join(FILTERS)}))?",
    re.ASCII,
)
HALF_THERE, NOT_PREPARED = "half there", "not prepared"  # states that `info` tells of


@dataclass(frozen=True)
class Dataset:
    """A row of the table.

    Attributes:
        name: what recipes and commands call it.
        image_size: pixels per side; None for images of any size, which a recipe gives one.
        num_classes: K; None where only the images tell.
        splits: images in "train" and "validation", as the name promises them, or None.
        description: one sentence.
        labels: returns (class ids, class names), in label order; None where the source tells.
        builder: TFDS' name of the builder, and of the one for unverified archives; empty where
            the images do not come through TFDS.
        make: the function of `prepare` that makes its stores.
        file_per_picture: whether damaged images can be left out one by one.
        resize_filter: how images are made small that a model of this set is shown later: as its
            own were, where that is known.
        embedded: whether it can be made on the spot, with nothing to download.
        source_hint: what stands after --source in a message.
        promises: whether the name says which images they are; where it does not, any images
            are what it promises, and so are verified.
    """

    name: str
    image_size: int | None
    num_classes: int | None
    splits: dict[str, int | None]
    description: str
    labels: Callable | None = None
    builder: str = ""
    unverified_builder: str = ""
    make: Callable = through_tfds
    file_per_picture: bool = False
    resize_filter: str = "box"
    embedded: bool = False
    source_hint: str = "DIR"
    promises: bool = True


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
            make=from_image_files,
            file_per_picture=True,
            resize_filter="box",  # our choice: its authors do not say how theirs were made small
            source_hint="tiny-imagenet-200.zip",
        ),
        Dataset(
            name="imagenet2012",
            image_size=None,
            num_classes=1000,
            splits={
                "train": imagenet2012.NUM_TRAIN,
                "validation": imagenet2012.NUM_VALIDATION,
            },
            description="ImageNet-1K of 2012 as JPEGs of any size, read where they lie.",
            make=from_imagenet2012,
            file_per_picture=True,
            resize_filter="bilinear",
        ),
        Dataset(
            name="imagenet21k",
            image_size=None,
            num_classes=11_221,
            splits={"train": 11_797_632, "validation": 561_052},
            description="ImageNet-21K's published selections (arXiv:2104.10972), as JPEGs.",
            make=from_imagenet21k,
            file_per_picture=True,
            resize_filter="bilinear",
        ),
        Dataset(
            name=OWN,
            image_size=None,
            num_classes=None,
            splits={"train": None, "validation": None},
            description="Your own images in class folders; several sets as image_folder/NAME.",
            make=from_image_folder,
            file_per_picture=True,
            resize_filter="bilinear",
            promises=False,
        ),
    )
}


def _made_by_downsampling(request):
    """What is made from another set is not prepared from a source."""
    dataset = request.verified.dataset
    raise UserError(f"{dataset.name} is made from larger images: run `{_command_for(dataset)}`")


def _small_row(name):
    """The row of `downsampled/NAME_SxS`, or of `downsampled/NAME_SxS_FILTER` if it is not box."""
    found = SMALL_NAME.fullmatch(name.removeprefix(f"{SMALL}/"))
    if not found or not int(found["size"]):
        raise UserError(
            f"{SMALL}/NAME_SxS needs the name of a set and a size, as in {SMALL}/pets_64x64; "
            f'received "{name}"'
        )
    size = int(found["size"])
    return Dataset(
        name=name,
        image_size=size,
        num_classes=None,
        splits={"train": None, "validation": None},
        description=f"The images of {found['name']}, downsampled to {size} x {size} pixels.",
        make=_made_by_downsampling,
        resize_filter=found["filter"] or "box",
        promises=False,
    )


def find_dataset(name):
    """The table's row of this name; `image_folder/NAME` has that of `image_folder`.

    What `downsample` makes has a row for each name, see `_small_row`.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    own, slash, rest = name.partition("/")
    if own == SMALL and slash:
        return _small_row(name)
    if own == OWN and slash:
        if not OWN_NAME.fullmatch(rest):
            raise UserError(
                f"{OWN}/NAME needs a name of letters, digits, dashes and underscores; "
                f'received "{rest}"'
            )
        return replace(DATASETS[OWN], name=name)
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
    class_list=None,
    validation_share=None,
    splits=None,
    progress=None,
    say=None,
):
    """Make a data set ready: build it through TFDS (or read its zip), then pack both splits.

    What is ready already is left alone, unless `source` says to read it anew.

    Args:
        name: a key of DATASETS.
        data_dir: where TFDS keeps its data; by default `default_data_dir()`.
        cache_dir: where packed stores go, by default data_dir (in the folder `packed`).
        source: folder with the published archives, or for `tiny_imagenet` its zip or folder, or
            a folder of JPEGs, which are read there from then on; None downloads through TFDS,
            draws `shapes`, or looks where TFDS has `imagenet2012`.
        allow_unverified: take images that are not the published ones, into a place of their own.
        skip_corrupt: leave out files that cannot be used where each image has a file. What is
            left of a published set without its damaged images goes into the place of unverified
            ones; `image_folder` promises no images, so that its are verified in any case.
        skipped: a list that receives (name, reason) of each image that was left out.
        class_list: for `imagenet21k`, a file of the class ids to take, one per line.
        validation_share: for `image_folder` without splits, what share of each class is kept for
            validation, about; default 0.1.
        splits: for `image_folder`, which folders are splits where that is not clear: "none", or
            the names of two with a comma between, training first.
        progress: called as `progress(description, done, total)`.
        say: called with a sentence about what was found, before the work; by default nothing is
            said.

    Returns:
        dict: the stores by split, memory-mapped.

    Raises:
        UserError: unknown name, wrong or missing archives, damaged images, no room, a failed
            download, or another process of this machine is preparing the same set.
    """
    dataset = find_dataset(name)
    _check_request(dataset, source, allow_unverified, skip_corrupt)
    _check_selection(dataset, class_list, validation_share, splits)
    verified, unverified = locations_of(dataset, data_dir, cache_dir)
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
        class_list=class_list,
        validation_share=validation_share,
        splits=splits,
        say=say,
    )
    return dataset.make(request)


def _check_request(dataset, source, allow_unverified, skip_corrupt):
    """Refuse options that contradict each other or the data set."""
    name = dataset.name
    if source is None and allow_unverified:
        raise UserError("--allow-unverified needs --source, the images to take")
    if source is not None and dataset.embedded:
        raise UserError(f"{name} is drawn on the spot: it takes no --source; received {source}")
    if skip_corrupt and dataset.embedded:
        raise UserError(f"{name} is drawn on the spot: it has nothing for --skip-corrupt to leave")
    if skip_corrupt and not dataset.file_per_picture:
        able = ", ".join(row.name for row in DATASETS.values() if row.file_per_picture)
        raise UserError(
            f"--skip-corrupt works for {able}, which has a file for each image; those of "
            f"{name} hold many, so fetch a damaged one again"
        )


def _check_selection(dataset, class_list, validation_share, splits):
    """Refuse options that another data set heeds."""
    if class_list is not None and dataset.name != "imagenet21k":
        raise UserError(f"--class-list is for imagenet21k; received it for {dataset.name}")
    if validation_share is not None and dataset.make is not from_image_folder:
        raise UserError(f"--validation-share is for {OWN}; received it for {dataset.name}")
    if splits is not None and dataset.make is not from_image_folder:
        raise UserError(f"--splits is for {OWN}; received it for {dataset.name}")


def locations_of(dataset, data_dir=None, cache_dir=None):
    """(the place of what the name promises, that of its unverified stand-in)."""
    data_dir = expand(data_dir) if data_dir else default_data_dir()
    cache_dir = expand(cache_dir) if cache_dir else data_dir
    return tuple(
        DatasetLocation(dataset, data_dir, cache_dir, verified) for verified in (True, False)
    )


def open_dataset(name, split, *, data_dir=None, cache_dir=None, in_memory="auto", progress=None):
    """The packed store of one split; packed now if TFDS has the data, or it is embedded.

    Verified images are preferred; where only unverified ones exist, those are opened, and
    `store.verified` says so.

    Args:
        name, data_dir, cache_dir, progress: as for `prepare`.
        split: "train" or "validation".
        in_memory: as for `store.open_store`.

    Returns:
        RawStore or EncodedStore

    Raises:
        UserError: unknown name or split, or the data is not prepared (the message has the command).
    """
    dataset = find_dataset(name)
    if split not in dataset.splits:
        raise UserError(f'{name} has no split "{split}": {nearest(split, dataset.splits)}')
    places = locations_of(dataset, data_dir, cache_dir)
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
        f"{name} is not prepared in {places[0].data_dir}: run `{_command_for(dataset)}`"
    )


def _command_for(dataset):
    """The command that makes a data set."""
    if dataset.make is _made_by_downsampling:
        return f"python cli.py data downsample DATASET --size {dataset.image_size} --out DIR"
    return f"python cli.py data prepare {dataset.name} --source {dataset.source_hint}"


def info(name, *, data_dir=None, cache_dir=None):
    """What is known of a data set and of its state on this machine; needs nothing prepared.

    Returns:
        dict, fit for JSON: name, description, image_size, classes, class_ids (the first five),
        class_names (theirs), state ("packed", "built by TFDS, not packed", "half there" or
        "not prepared"), verified (None if neither packed nor built), splits and digest by split,
        store_bytes, tfds_bytes, location, source. All of them are of one place: that of verified
        images, unless only unverified ones are there, or a part of them.
    """
    dataset = find_dataset(name)
    place, state = _describe(locations_of(dataset, data_dir, cache_dir))
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
