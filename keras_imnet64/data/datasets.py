"""The table of data sets: prepares and opens the packed stores of a data set by its name.

To add a data set, add its row to DATASETS; a new form of sources is a row of `forms.FORMS`.
`locations` says where data sets lie, `stores` reads them.
"""

import contextlib
import hashlib
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from keras_imnet64.core.errors import UserError, first_few, nearest
from keras_imnet64.core.invocation import program_name
from keras_imnet64.core.paths import default_data_dir, expand
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.core.validation import to_json
from keras_imnet64.data.forms import cannot_skip, make_stores
from keras_imnet64.data.images.views import FILTERS
from keras_imnet64.data.locations import FETCHED, SUFFIX, Dataset, DatasetLocation
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
from keras_imnet64.data.sources.finding import Faulty
from keras_imnet64.data.stores import packing
from keras_imnet64.data.stores.opening import Store, is_store, open_store
from keras_imnet64.records import DatasetInfo, DatasetState

IMAGE_FOLDER = "image_folder"
IMAGE_FOLDER_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)
DOWNSAMPLED = "downsampled"
DOWNSAMPLED_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9][\w-]{0,63})_(?P<size>\d{1,3})x(?P=size)"
    rf"(_(?P<filter>{'|'.join(FILTERS)}))?",
    re.ASCII,
)


def _imagenet_labels() -> tuple[list[str], list[str]]:
    return archives.imagenet_wnids(), archives.imagenet_class_names()


def _imagenet_row(size: int) -> Dataset:
    return Dataset(
        name=f"imagenet_resized/{size}x{size}",
        image_size=size,
        num_classes=1000,
        splits={"train": 1_281_167, "validation": 50_000},
        description=f"ImageNet-1K at {size} x {size} pixels (arXiv:1707.08819), through TFDS.",
        made_from="The archives of image-net.org, through the TensorFlow Datasets builder of that "
        "name: downloaded where the site allows it, else from the folder of the archives. Their "
        "unpacked npz files, the older pickles, and images of that size in any other form are "
        "packed without TensorFlow Datasets.",
        make=through_tfds,
        labels=_imagenet_labels,
        builder="imagenet_resized",
        unverified_builder="imagenet_resized_unverified",
    )


DATASETS: Mapping[str, Dataset] = {
    row.name: row
    for row in (
        *(_imagenet_row(size) for size in (64, 32, 16, 8)),
        Dataset(
            name="shapes",
            image_size=shapes.IMAGE_SIZE,
            num_classes=len(shapes.CLASSES),
            splits={"train": shapes.NUM_TRAIN, "validation": shapes.NUM_VALIDATION},
            description=shapes.DESCRIPTION,
            made_from="Drawn on the spot when it is first used, the same bytes on every machine.",
            make=through_tfds,
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
            made_from="tiny-imagenet-200.zip or its unpacked folder, whose validation images may "
            "have been sorted into class folders; Parquet, WebDataset, a CSV or class folders.",
            make=from_image_files,
            resize_filter="box",  # our choice: its authors do not name theirs
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
            description="ImageNet-1K of 2012 as JPEGs of any size, read in place.",
            made_from="The two tars of image-net.org, which stay packed, folders train and val "
            "with class folders, what TensorFlow Datasets has built, Parquet, WebDataset or a CSV.",
            make=from_imagenet2012,
            resize_filter="bilinear",
        ),
        Dataset(
            name="imagenet21k",
            image_size=None,
            num_classes=11_221,
            splits={"train": 11_797_632, "validation": 561_052},
            description="ImageNet-21K's published selections (arXiv:2104.10972), as JPEGs.",
            made_from="The folder of class folders: those with more than 500 images, or those of "
            "--class-list; the first 50 images of each class are for validation.",
            make=from_imagenet21k,
            resize_filter="bilinear",
        ),
        Dataset(
            name=IMAGE_FOLDER,
            image_size=None,
            num_classes=None,
            splits={"train": None, "validation": None},
            description="Your own images in class folders; several sets as image_folder/NAME.",
            made_from="A folder whose folders are classes, or hold them as train, val or test; "
            "Parquet, WebDataset or a CSV; images of any size and of any kind that Pillow reads.",
            make=from_image_folder,
            resize_filter="bilinear",
            promises_images=False,
        ),
    )
}
OTHER_NAMES = {  # by which papers and people call them, in small letters without dashes
    "imagenet64": "imagenet_resized/64x64",
    "imagenet64x64": "imagenet_resized/64x64",
    "imagenetresized": "imagenet_resized/64x64",
    "downsampledimagenet": "imagenet_resized/64x64",
    "imagenet32": "imagenet_resized/32x32",
    "imagenet32x32": "imagenet_resized/32x32",
    "imagenet16": "imagenet_resized/16x16",
    "imagenet8": "imagenet_resized/8x8",
    "imagenet": "imagenet2012",
    "imagenet1k": "imagenet2012",
    "ilsvrc2012": "imagenet2012",
}


def _made_by_downsampling(request: Request) -> NoReturn:
    """Refuses to prepare a set that `downsample` makes from another one."""
    dataset = request.verified.dataset
    raise UserError(f"{dataset.name} is made from larger images: run `{command_for(dataset)}`")


def _downsampled_row(name: str) -> Dataset:
    """Returns the row of `downsampled/NAME_SxS`, or of `downsampled/NAME_SxS_FILTER`.

    A name without a filter stands for the box filter.
    """
    match = DOWNSAMPLED_NAME.fullmatch(name.removeprefix(f"{DOWNSAMPLED}/"))
    if not match or not int(match["size"]):
        raise UserError(
            f"{DOWNSAMPLED}/NAME_SxS needs the name of a set and a size, as in "
            f'{DOWNSAMPLED}/pets_64x64; received "{name}"'
        )
    size = int(match["size"])
    return Dataset(
        name=name,
        image_size=size,
        num_classes=None,
        splits={"train": None, "validation": None},
        description=f"The images of {match['name']}, downsampled to {size} x {size} pixels.",
        made_from="A data set of larger images, by `data downsample`.",
        make=_made_by_downsampling,
        resize_filter=match["filter"] or "box",
        promises_images=False,
    )


def find_dataset(name: str) -> Dataset:
    """Returns the row of a data set; `image_folder/NAME` shares the row of `image_folder`.

    Each result of `downsample` has a row of its own, see `_downsampled_row`.

    Raises:
        UserError: there is no such data set; the message suggests the nearest name.
    """
    kind, slash, rest = name.partition("/")
    if kind == DOWNSAMPLED and slash:
        return _downsampled_row(name)
    if kind == IMAGE_FOLDER and slash:
        if not IMAGE_FOLDER_NAME.fullmatch(rest) or rest.endswith(SUFFIX):
            raise UserError(
                f"{IMAGE_FOLDER}/NAME needs a name of letters, digits, dashes and underscores that "
                f'does not end in {SUFFIX}; received "{rest}"'
            )
        return replace(DATASETS[IMAGE_FOLDER], name=name)
    if name not in DATASETS:
        raise UserError(f'there is no data set "{name}": {nearest_dataset(name, DATASETS)}')
    return DATASETS[name]


def scored_images(dataset: str, split: str, count: int, num_classes: int | None) -> str:
    """Returns in words which images a score is of, with the classes if they are not all.

    Args:
        num_classes: of the images; None if it is not known.
    """
    some = ""
    if has_part_of_classes(dataset, num_classes):
        some = f"{num_classes:,} of the {DATASETS[dataset].num_classes:,} classes of "
    return f"all {count:,} images of {some}{dataset} {split}"


def has_part_of_classes(dataset: str, num_classes: int | None) -> bool:
    """Whether images have fewer classes than the published data set; False where none is known."""
    total = DATASETS[dataset].num_classes if dataset in DATASETS else None
    return bool(num_classes and total and num_classes < total)


def all_rows(data_dir: StrPath | None, cache_dir: StrPath | None) -> list[Dataset]:
    """Returns the rows of the table, then those of the user's own data sets on this machine.

    The latter may be unfinished, or lie in folders that a command has left.
    """
    rows = dict(DATASETS)
    own, _ = locations_of(rows[IMAGE_FOLDER], data_dir, cache_dir)
    packed = own.packed_dir.parent
    for folder in sorted(packed.glob("*")) + sorted(packed.glob(".*")):
        stem = folder.name.removeprefix(".").partition(f".{packing.WORD}@")[0]
        stem = stem.removesuffix(f".{FETCHED}").removesuffix(SUFFIX)
        for kind in (IMAGE_FOLDER, DOWNSAMPLED):
            if stem.startswith(f"{kind}_"):
                name = f"{kind}/{stem.removeprefix(f'{kind}_')}"
                with contextlib.suppress(UserError):  # not a data set's folder
                    rows[name] = find_dataset(name)
    return list(rows.values())


def nearest_dataset(name: str, known: Collection[str]) -> str:
    """Returns a clause for an error message, as `nearest`; knows what others call the data sets."""
    other = OTHER_NAMES.get(name.lower().replace("-", "").replace("_", ""))
    return nearest(other if other in known else name, known)


def prepare(
    name: str,
    *,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    source: StrPath | None = None,
    allow_unverified: bool = False,
    skip_corrupt: bool = False,
    skipped: list[Faulty] | None = None,
    class_list: StrPath | None = None,
    validation_share: float | None = None,
    splits: str | None = None,
    progress: PackProgress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Store]:
    """Prepares a data set: builds it through TFDS, or reads its files, then packs both splits.

    A data set that is packed already is only opened, unless `source` is given. While another
    process prepares the data set in the same folder, this one waits, and says so; if that was for
    the same arguments, it only opens the result.

    Args:
        name: a key of DATASETS.
        data_dir: where TFDS keeps its data; by default `paths.default_data_dir()`.
        cache_dir: where packed stores go, by default data_dir (in the folder `packed`).
        source: a file or folder in any form of the table `forms.FORMS`, or the address of one,
            such as s3://bucket/folder. JPEGs of any size stay where they are, unless they are
            remote or in Parquet. None downloads through TFDS, draws `shapes`, or looks for
            `imagenet2012` where TFDS keeps it.
        allow_unverified: accept images other than the published ones, and pack them separately.
        skip_corrupt: leave out unusable images; not of archives and batches (`Form.can_skip`). A
            published set without its damaged images counts as unverified; `image_folder` promises
            no images, so its images always count as verified.
        skipped: receives (name, reason) of each image that was left out.
        class_list: for `imagenet21k`, a file of the class ids to select, one per line.
        validation_share: for `image_folder` without splits, the approximate share of each class
            that is kept for validation; default 0.1. With 1 models can be scored on the set, not
            trained.
        splits: for `image_folder`, which folders are splits if that is not clear: "none", or the
            names of the training and the validation folder with a comma between.
        say: called with sentences about what was found, before the images are read; and with one if
            the images are not verified, but verified images take precedence over them.

    Returns:
        The stores by split, memory-mapped.

    Raises:
        UserError: unknown name, an option without the source that it needs, wrong or missing
            archives, damaged images, a full disk, a failed download, or another process on this
            machine is packing the same set on a file system without locks.
    """
    dataset = find_dataset(name)
    _check_request(dataset, source, allow_unverified, skip_corrupt)
    _check_options(dataset, source, skip_corrupt, class_list, validation_share, splits)
    verified, unverified = locations_of(dataset, data_dir, cache_dir)
    if source is None and verified.is_packed():
        return verified.open()
    location = unverified if allow_unverified else verified
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
    if allow_unverified:  # the images may be the published ones, which only their files tell
        warn_of_precedence(verified, _remedy_for_precedence(cache_dir), say)
    options = (source, allow_unverified, skip_corrupt, class_list, validation_share, splits)
    with verified.preparing(_digest(*map(str, options))) as is_done:
        if source is None and verified.is_packed():  # by another process meanwhile
            return verified.open()
        if is_done and location.is_packed():
            return location.open()
        location.refuse_if_being_packed()
        stores = make_stores(request)
    if not allow_unverified and not stores["train"].verified:  # without the damaged images
        warn_of_precedence(verified, _remedy_for_precedence(cache_dir), say)
    return stores


def warn_of_precedence(
    verified: DatasetLocation, remedy: str, say: Callable[[str], None] | None
) -> None:
    """Says that verified images, if there are any, are used instead of the unverified ones.

    Args:
        verified: where the verified images of the data set lie, if they exist.
        remedy: what to do to use the unverified images, as a clause.
    """
    if say and verified.is_ready():
        folder = verified.packed_dir if verified.is_packed() else verified.tfds_dir
        say(
            f"note: the verified {verified.dataset.name} in {folder} takes precedence in all other "
            f"commands: to use unverified images, {remedy}"
        )


def _remedy_for_precedence(cache_dir: StrPath | None) -> str:
    folders = "other folders (--data-dir and --cache-dir)" if cache_dir else "another --data-dir"
    return f"move it away, or prepare them in {folders}"


def _digest(*texts: str) -> str:
    """Returns a text that differs if the texts do, and hides them: an address may have secrets."""
    return hashlib.sha256(repr(texts).encode()).hexdigest()


def _check_request(
    dataset: Dataset, source: StrPath | None, allow_unverified: bool, skip_corrupt: bool
) -> None:
    """Refuses options that contradict each other or the data set."""
    name = dataset.name
    if source is None and allow_unverified:
        raise UserError("--allow-unverified needs --source, the images to use")
    if source is not None and dataset.embedded:
        raise UserError(f"{name} is drawn by this package and takes no --source; received {source}")
    if skip_corrupt and dataset.embedded:
        raise UserError(f"{name} is drawn by this package: leave out --skip-corrupt")
    if skip_corrupt and dataset.make is _made_by_downsampling:
        raise UserError(f"{name} is made from another data set: leave out --skip-corrupt")
    if skip_corrupt and dataset.builder and source is None:
        raise cannot_skip(f"the archives of {name}")


def _check_options(
    dataset: Dataset,
    source: StrPath | None,
    skip_corrupt: bool,
    class_list: StrPath | None,
    validation_share: float | None,
    splits: str | None,
) -> None:
    """Refuses options that belong to another data set, or have no effect without a source."""
    if class_list is not None and dataset.name != "imagenet21k":
        raise UserError(f"--class-list is for imagenet21k; received it for {dataset.name}")
    for option, value in {"--validation-share": validation_share, "--splits": splits}.items():
        if value is not None and dataset.make is not from_image_folder:
            raise UserError(f"{option} is for {IMAGE_FOLDER}; received it for {dataset.name}")
    given = {
        "--class-list": class_list is not None,
        "--validation-share": validation_share is not None,
        "--splits": splits is not None,
        # ImageNet-1K is also read from where TFDS keeps it.
        "--skip-corrupt": skip_corrupt and dataset.make is not from_imagenet2012,
    }
    if source is None and any(given.values()):
        option = next(option for option, is_given in given.items() if is_given)
        raise UserError(
            f"{option} needs --source, the images to use: without --source, a data set that is "
            "prepared already is only opened"
        )


def locations_of(
    dataset: Dataset, data_dir: StrPath | None = None, cache_dir: StrPath | None = None
) -> tuple[DatasetLocation, DatasetLocation]:
    """Returns the location of what the name promises, and that of its unverified substitute."""
    data_path = expand(data_dir) if data_dir else default_data_dir()
    cache_path = expand(cache_dir) if cache_dir else data_path
    return (
        DatasetLocation(dataset, data_path, cache_path, verified=True),
        DatasetLocation(dataset, data_path, cache_path, verified=False),
    )


def open_dataset(
    name: str,
    split: str,
    *,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    in_memory: str = "auto",
    progress: PackProgress | None = None,
) -> Store:
    """Opens the packed store of one split; packs it first if TFDS has built it, or it is embedded.

    Verified images are preferred; `store.verified` is False if only unverified ones exist.

    Args:
        name, data_dir, cache_dir, progress: as for `prepare`.
        split: "train" or "validation".
        in_memory: as for `opening.open_store`.

    Raises:
        UserError: unknown name or split, the data is not prepared (the message has the command),
            or all of its images are for validation and `split` is "train".
    """
    dataset = find_dataset(name)
    if split not in dataset.splits:
        raise UserError(f'{name} has no split "{split}": {nearest(split, dataset.splits)}')
    locations = locations_of(dataset, data_dir, cache_dir)
    if dataset.embedded and not locations[0].is_ready():
        prepare(name, data_dir=data_dir, cache_dir=cache_dir, progress=progress)
    found = next((location for location in locations if location.is_ready()), None)
    if found is None or not is_store(found.folder(split)):
        found = _packed_meanwhile(locations, split, progress)
    if found is not None:
        store = open_store(found.folder(split), in_memory)
        if not len(store):
            raise UserError(
                f"{name} has no images of {split}, for all of them are for validation: score "
                f"models on it with `{program_name()} evaluate MODEL --dataset {name}`, and train "
                "on another data set"
            )
        return store
    others = [] if name in DATASETS else _own_prepared(data_dir, cache_dir)
    prepared = f" (prepared are {first_few(others, 5)})" if others else ""
    raise UserError(
        f"{name} is not prepared in {locations[0].data_dir}{prepared}: run "
        f"`{command_for(dataset, data_dir, cache_dir)}`"
    )


def _own_prepared(data_dir: StrPath | None, cache_dir: StrPath | None) -> list[str]:
    """Returns the names of the user's own data sets that are packed."""
    rows = [row for row in all_rows(data_dir, cache_dir) if row.name not in DATASETS]
    return [
        row.name
        for row in rows
        if any(place.is_packed() for place in locations_of(row, data_dir, cache_dir))
    ]


def _packed_meanwhile(
    locations: Sequence[DatasetLocation], split: str, progress: PackProgress | None
) -> DatasetLocation | None:
    """Packs a split that TFDS has built, unless another process does, for which this one waits.

    Both splits come from one location: verified and unverified images never mix.
    """
    lock_file = locations[0].lock_file
    may_come = lock_file.exists() or any(location.is_ready() for location in locations)
    with locations[0].preparing() if may_come else contextlib.nullcontext():
        found = next((location for location in locations if location.is_ready()), None)
        if found is None:
            for location in locations:
                location.refuse_if_being_packed()
        elif not is_store(found.folder(split)):
            found.refuse_if_being_packed()
            pack_tfds(found, split, progress, found.folder(split))
        return found


def command_for(
    dataset: Dataset, data_dir: StrPath | None = None, cache_dir: StrPath | None = None
) -> str:
    """Returns the command that makes a data set in these folders."""
    if dataset.make is _made_by_downsampling:
        return f"{program_name()} data downsample DATASET --size {dataset.image_size} --out DIR"
    words = [*program_name().split(), "data", "prepare", dataset.name]
    words += [] if dataset.embedded else ["--source", dataset.source_hint]
    words += ["--data-dir", str(data_dir)] if data_dir else []
    words += ["--cache-dir", str(cache_dir)] if cache_dir else []
    return shlex.join(words)


def info(
    name: str,
    *,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    stores: Mapping[str, Store] | None = None,
) -> JsonObject:
    """Describes a data set and its state on this machine, prepared or not.

    Args:
        name, data_dir, cache_dir: as for `prepare`.
        stores: what `prepare` has returned, to describe them even if verified images take
            precedence; default: what `open_dataset` opens.

    Returns:
        dict, fit for JSON: the fields of `records.DatasetInfo`, `num_classes` as "classes".

    Raises:
        UserError: unknown name, or a damaged store.
    """
    dataset = find_dataset(name)
    locations = locations_of(dataset, data_dir, cache_dir)
    location, state, opened = _described(locations, stores)
    store = opened.get("validation")
    if store is not None:
        wnids, class_names = store.wnids, store.class_names
    else:
        wnids, class_names = dataset.labels() if dataset.labels else ([], [])
    facts = DatasetInfo(
        name=name,
        description=dataset.description,
        image_size=dataset.image_size,
        num_classes=dataset.num_classes if store is None else len(wnids),
        class_ids=list(wnids[:5]),
        class_names=list(class_names[:5]),
        state=state,
        verified=None if state in ("half there", "not prepared") else location.verified,
        splits={s: len(opened[s]) if opened else n for s, n in dataset.splits.items()},
        digest={split: store.digest for split, store in opened.items()},
        store_bytes=location.packed_bytes(),
        tfds_bytes=location.tfds_bytes(),
        location=None if state == "not prepared" else str(location.packed_dir),
        source=None if store is None else store.source,
        form=None if store is None else store.meta.form,
    )
    return to_json(facts)


def _described(
    locations: tuple[DatasetLocation, DatasetLocation], stores: Mapping[str, Store] | None
) -> tuple[DatasetLocation, DatasetState, Mapping[str, Store]]:
    """Returns the location that `info` describes, the state there, and the stores if packed."""
    if stores:
        verified, unverified = locations
        return verified if stores["train"].verified else unverified, "packed", stores
    location, state = _current_location(locations)
    return location, state, location.open() if state == "packed" else {}


def _current_location(
    locations: tuple[DatasetLocation, DatasetLocation],
) -> tuple[DatasetLocation, DatasetState]:
    """Returns the location that is used, and how far the data set is prepared there."""
    for location in locations:
        if location.is_ready():
            return location, "packed" if location.is_packed() else "built by TFDS, not packed"
    for location in locations:
        if location.packed_bytes() or location.tfds_bytes():
            return location, "half there"
    return locations[0], "not prepared"
