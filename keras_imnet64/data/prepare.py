"""Prepares data sets: turns each kind of source into stores, through TFDS or directly.

Each row of `datasets.DATASETS` names its function of this module. `sources` reads the sources,
`locations` says where the stores lie, and `packing` and `indexing` write them.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import UserError, first_few, printable
from keras_imnet64.core.invocation import program_name
from keras_imnet64.core.paths import portable
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.data.locations import Dataset, DatasetLocation
from keras_imnet64.data.sources import archives, finding, imagenet2012, shapes, tiny_imagenet
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.sources.class_lists import names_of
from keras_imnet64.data.stores import indexing, packing
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.data.stores.raw import RawStore
from keras_imnet64.records import SourceForm

TFDS = "tfds:"  # before the name of a builder in the `source` of a store
INDEX = "index:"  # before the folder of images in the `source` of a store
MAX_NAMES = 5  # classes or files listed in a line
VALIDATION_SHARE = 0.1  # of each class, if the source has no splits


@dataclass(frozen=True)
class Request:
    """The arguments of `datasets.prepare`, which documents them.

    Attributes:
        verified, unverified: the two locations of the data set.
        skipped: receives (name, reason) of each image that is left out.
        class_list, validation_share, splits: None for sources that do not use them.
        origin: the address of a remote source, from which `source` was copied for this time.
    """

    verified: DatasetLocation
    unverified: DatasetLocation
    source: StrPath | None
    allow_unverified: bool
    skip_corrupt: bool
    skipped: list[finding.Faulty]
    progress: PackProgress | None
    class_list: StrPath | None = None
    validation_share: float | None = None
    splits: str | None = None
    say: Callable[[str], None] | None = None
    origin: str = ""

    @property
    def options(self) -> list[str]:
        """The words of the command that decide which images are in which split and class."""
        values = {
            "--class-list": self.class_list,
            "--validation-share": self.validation_share,
            "--splits": self.splits,
        }
        words = [word for key, value in values.items() if value for word in (key, str(value))]
        return words + ["--skip-corrupt"] * self.skip_corrupt


# ---------------------------------------------------------------------------------- through TFDS


def through_tfds(request: Request) -> dict[str, Store]:
    """Lets TFDS build the data, then packs its splits. Returns the stores by split."""
    location = request.unverified if request.allow_unverified else request.verified
    _build(location, request.source, request.progress)
    form: SourceForm = "drawn" if location.dataset.embedded else "zip archives"
    if location.verified and location.is_packed():
        stores = location.open()
        if stores["train"].source.startswith(TFDS):  # the checked archives hold the same images
            return stores
    with location.replaced() as folder:
        for split in location.dataset.splits:
            pack_tfds(location, split, request.progress, folder / split, form)
    return location.open()


def _build(
    location: DatasetLocation, source: StrPath | None, progress: PackProgress | None
) -> None:
    """Builds the data with TFDS from local archives, drawn archives or a download."""
    dataset, paths = location.dataset, None
    size, num_classes, counts = _sizes_of(dataset)
    if location.verified:
        _require_space(location, counts, download=source is None and not dataset.embedded)
    if source is not None:
        needed = archives.archives_of(size)
        if location.verified:
            paths = archives.verify(source, needed, progress)
        else:
            checked = archives.check_layout(source, needed, size, num_classes, progress)
            paths, counts = checked.paths, checked.counts
            _require_space(location, counts, download=False)
    if location.verified and location.is_built():
        return
    from keras_imnet64.data.sources import imagenet_resized

    with tempfile.TemporaryDirectory() as scratch:
        if dataset.embedded:
            paths = shapes.write(Path(scratch))
        imagenet_resized.build(
            location.builder(),
            paths,
            total=sum(counts.values()),
            overwrite=not location.verified,
            progress=progress,
        )


def _sizes_of(dataset: Dataset) -> tuple[int, int, dict[str, int]]:
    """Returns (image size, classes, images by split) of a row that states all of them."""
    counts = {split: count for split, count in dataset.splits.items() if count is not None}
    assert dataset.image_size and dataset.num_classes and len(counts) == len(dataset.splits)
    return dataset.image_size, dataset.num_classes, counts


def _require_space(location: DatasetLocation, counts: Mapping[str, int], download: bool) -> None:
    """Checks the space for packed images, TFDS' copy of them, and archives that TFDS downloads.

    Neither the copy nor the archives are larger than the raw pixels.
    """
    size, *_ = _sizes_of(location.dataset)
    pixels = sum(counts.values()) * size**2 * 3
    packed = 0 if location.is_packed() else pixels
    tfds = 0 if location.verified and location.is_built() else pixels * (2 if download else 1)
    purpose = f"preparing {location.dataset.name} ({packed:,} bytes packed, {tfds:,} for TFDS)"
    is_same_disk = location.packed_dir.is_relative_to(location.data_dir)
    packing.require_space(location.packed_dir, packed + tfds if is_same_disk else packed, purpose)
    packing.require_space(location.data_dir, tfds, purpose)


def pack_tfds(
    location: DatasetLocation,
    split: str,
    progress: PackProgress | None,
    folder: Path,
    form: SourceForm = "TFRecords",
) -> RawStore:
    """Packs one split of what TFDS built into `folder`, in TFDS' reading order.

    Args:
        form: that from which TFDS has just built it.
    """
    from keras_imnet64.data.sources import imagenet_resized

    dataset, builder = location.dataset, location.builder()
    size, _, counts = _sizes_of(dataset)
    count = builder.info.splits[split].num_examples
    if location.verified and count != counts[split]:
        raise UserError(
            f"{location.tfds_dir} holds {count:,} images of {split} where {dataset.name} has "
            f"{counts[split]:,}: move that folder away and prepare the data set again"
        )
    assert dataset.labels
    wnids, names = dataset.labels()
    return packing.write_store(
        folder,
        imagenet_resized.read(builder, split),
        dataset=dataset.name,
        split=split,
        count=count,
        image_size=size,
        wnids=wnids,
        class_names=names,
        source=f"{TFDS}{builder.info.full_name}",
        form=form,
        verified=location.verified,
        progress=progress,
    )


# ------------------------------------------------------------------------- a file for each image


def from_image_files(request: Request) -> dict[str, Store]:
    """Packs Tiny ImageNet from its zip or folder. Returns the stores by split.

    The list of its images decides in which of the two locations they are packed.
    """
    if request.source is None:
        raise UserError(
            "tiny_imagenet is read from its zip or folder: pass it with --source, as in "
            f"`{program_name()} data prepare tiny_imagenet --source tiny-imagenet-200.zip`"
        )
    with tiny_imagenet.open_tree(request.source) as tree:
        listing = tiny_imagenet.read_listing(tree)
        refuse_or_skip(
            listing.unused, sum(map(len, listing.files.values())), request.source, request
        )
        unexpected = tiny_imagenet.mismatch(
            listing.wnids, listing.labels, archives.imagenet_wnids()
        )
        if unexpected and not request.allow_unverified:
            raise UserError(
                f"{request.source} is not Tiny ImageNet: {unexpected}; pass the usual "
                "tiny-imagenet-200.zip, or --allow-unverified to use other images in its layout"
            )
        require_classes(listing.wnids, request.source)
        damaged: list[finding.Faulty] = []
        if request.skip_corrupt:
            listing, damaged = tiny_imagenet.without_damaged(tree, listing, request.progress)
        location = request.unverified if unexpected or damaged else request.verified
        source = f"file:{portable(Path(request.origin or request.source).name)}"
        with location.replaced() as folder:
            for split in location.dataset.splits:
                _pack_files(
                    location, split, tree, listing, source, request.progress, folder / split
                )
    request.skipped.extend(damaged)
    return location.open()


def _pack_files(
    location: DatasetLocation,
    split: str,
    tree: tiny_imagenet.Tree,
    listing: tiny_imagenet.Listing,
    source: str,
    progress: PackProgress | None,
    folder: Path,
) -> None:
    files, labels = listing.files[split], listing.labels[split]
    packing.write_store(
        folder,
        tiny_imagenet.read(tree, files, labels),
        dataset=location.dataset.name,
        split=split,
        count=len(files),
        image_size=tiny_imagenet.IMAGE_SIZE,
        wnids=listing.wnids,
        class_names=listing.class_names,
        source=source,
        form="Tiny ImageNet's files",
        verified=location.verified,
        progress=progress,
    )


# ------------------------------------------------------------------------- JPEGs indexed in place


def from_imagenet2012(request: Request) -> dict[str, Store]:
    """Indexes ImageNet-1K: its tars, class folders or TFDS' build. Returns the stores by split."""
    data_dir = request.verified.data_dir
    manual, built = data_dir / "downloads" / "manual", imagenet2012.built_by_tfds(data_dir)
    if request.source is not None:
        listing = imagenet2012.list_images(request.source, request.progress)
    elif built is not None:
        listing = imagenet2012.list_tfrecords(built, request.progress)
    elif (manual / imagenet2012.TRAIN_TAR).is_file():
        listing = imagenet2012.list_images(manual, request.progress)
    else:
        raise UserError(
            f"imagenet2012 is read from {imagenet2012.TRAIN_TAR} and "
            f"{imagenet2012.VALIDATION_TAR}, which need a login at image-net.org: put them "
            f"into {manual}, or pass their folder, or one with train/ and val/, with --source"
        )
    return index_listing(request, listing, imagenet2012.mismatch(listing))


def from_imagenet21k(request: Request) -> dict[str, Store]:
    """Indexes the published selection of ImageNet-21K. Returns the stores by split."""
    source = _required_source(request, "the folder of its class folders")
    listing = folders.list_imagenet_21k(source, request.class_list)
    counts = listing.counts()
    found = (len(listing.wnids), counts["train"], counts["validation"])
    expected = folders.IMAGENET_21K_COUNTS[request.class_list is not None]
    difference = (
        f"it has {found[0]:,} classes with {found[1]:,} + {found[2]:,} images where the "
        f"published selection has {expected[0]:,} with {expected[1]:,} + {expected[2]:,}"
    )
    return index_listing(request, listing, "" if found == expected else difference)


def from_image_folder(request: Request) -> dict[str, Store]:
    """Indexes class folders of any images. Returns the stores by split."""
    source = _required_source(request, "the folder of your images")
    share = VALIDATION_SHARE if request.validation_share is None else request.validation_share
    folders.check_validation_share(share)
    listing = folders.list_image_folder(source, share, request.splits)
    if listing.folders and request.validation_share is not None:
        raise UserError(
            f"--validation-share is for images without splits, but {listing.root} has "
            f"{listing.folders}: leave the option out, or pass the folder of one split as --source"
        )
    return index_listing(request, listing, "")


def _required_source(request: Request, source_kind: str) -> StrPath:
    if request.source is None:
        name = request.verified.dataset.name
        raise UserError(
            f"{name} needs a source: pass {source_kind} with --source, as in "
            f"`{program_name()} data prepare {name} --source DIR`"
        )
    return request.source


def index_listing(request: Request, listing: folders.Listing, unexpected: str) -> dict[str, Store]:
    """Indexes both splits into one of the two locations. Returns the stores by split.

    Args:
        unexpected: how the images differ from what the name promises, as a clause; else empty.
    """
    name = request.verified.dataset.name
    where = listing.source or listing.root
    refuse_or_skip(listing.faulty, sum(listing.counts().values()), where, request)
    if unexpected and not request.allow_unverified:
        raise UserError(
            f"{listing.root} is not {name}: {unexpected}; pass --allow-unverified to use it anyway"
        )
    if listing.splits["train"]:
        require_classes(listing.wnids, listing.root)
    location = request.unverified if unexpected else request.verified
    if request.say:
        describe(listing, request.say)
        _warn_of_replaced_images(location, _origin_of(request, listing), request.say)
    damaged: list[finding.Faulty] | None = [] if request.skip_corrupt else None
    with packing.store_work_folder(request.verified.packed_dir) as incoming:
        request.verified.refuse_if_being_packed()  # whichever location is used in the end
        train, validation = _write_splits(request, listing, incoming, not unexpected, damaged)
        if request.say:
            _warn_of_lost_classes(listing, validation, request.say)
            _warn_of_shared_images(train, validation, request.say)
            _warn_of_contradictions(train, request.say)
            _warn_of_contradictions(validation, request.say)
        if damaged and location.dataset.promises_images:
            location = request.unverified
            for split in listing.splits:
                indexing.mark_unverified(incoming / split)
        location.refuse_if_being_packed()
        location.publish(incoming)
    request.skipped.extend(damaged or [])
    return location.open()


def _origin_of(request: Request, listing: folders.Listing) -> str:
    """Returns where the images come from, as `StoreMeta.source` has it."""
    return f"{INDEX}{request.origin or portable(listing.root)}"


def _write_splits(
    request: Request,
    listing: folders.Listing,
    folder: Path,
    verified: bool,
    damaged: list[finding.Faulty] | None,
) -> list[EncodedStore]:
    """Indexes both splits into folders of their names in `folder`, training first.

    Images of remote sources, and of forms that cannot be read in place, are copied.
    """
    read = listing.read
    if read is None and request.origin:
        read = partial(indexing.read_in_place, listing.root)
    return [
        indexing.write_index(
            folder / split,
            listing.splits[split],
            root=listing.root,
            dataset=request.verified.dataset.name,
            split=split,
            wnids=listing.wnids,
            class_names=names_of(listing.wnids),
            source=_origin_of(request, listing),
            form=listing.form,
            contents=read(listing.splits[split]) if read else None,
            origin=request.origin,
            given=listing.source,
            options=request.options,
            verified=verified,
            skipped=damaged,
            progress=request.progress,
        )
        for split in ("train", "validation")
    ]


def _warn_of_replaced_images(
    location: DatasetLocation, source: str, say: Callable[[str], None]
) -> None:
    """Warns if a data set of this name exists whose images come from elsewhere."""
    try:
        before = location.open()["train"].source if location.is_packed() else None
    except UserError:  # a damaged store is replaced as well
        return
    if before and before != source:
        say(f"note: replaces the images of {printable(before.removeprefix(INDEX))}")


def _warn_of_lost_classes(
    listing: folders.Listing, validation: EncodedStore, say: Callable[[str], None]
) -> None:
    """Warns of classes whose validation images are all damaged and were left out."""
    listed = {image.label for image in listing.splits["validation"]}
    lost = sorted(listed - set(validation.labels.tolist()))
    if lost:
        note = folders.unscored_note([listing.wnids[label] for label in lost], "validation")
        say(f"note: {note}")


def _warn_of_shared_images(
    train: EncodedStore, validation: EncodedStore, say: Callable[[str], None]
) -> None:
    """Warns of validation images that are training images too, by the SHA-256 of their bytes."""
    assert train.hashes is not None and validation.hashes is not None
    hashes = list(map(bytes, validation.hashes))
    trained_as: dict[bytes, set[int]] = {digest: set() for digest in hashes}  # their labels
    for digest, label in zip(map(bytes, train.hashes), train.labels.tolist(), strict=True):
        if digest in trained_as:
            trained_as[digest].add(label)
    in_same: list[int] = []  # positions of validation images that have the same class in train
    in_other: list[int] = []
    for position, label in enumerate(validation.labels.tolist()):
        if labels := trained_as[hashes[position]]:
            (in_same if label in labels else in_other).append(position)
    total = f"of the {len(hashes):,} validation images"
    if in_same:
        say(
            f"note: train has the same file as {len(in_same):,} {total}, so the scores will look "
            "too good"
        )
    if in_other:
        first = in_other[0]
        trained = int(np.flatnonzero((train.hashes == validation.hashes[first]).all(axis=1))[0])
        say(
            f"note: train has the same file as {len(in_other):,} {total} in another class, such as "
            f"{_pair((train, trained), (validation, first))}: at most one of the labels is right, "
            "so the scores will look too bad"
        )


def _warn_of_contradictions(store: EncodedStore, say: Callable[[str], None]) -> None:
    """Warns of images of several classes, by the SHA-256 of their bytes."""
    if not len(store):
        return
    assert store.hashes is not None
    hashes = np.ascontiguousarray(store.hashes).view(f"V{store.hashes.shape[1]}").ravel()
    numbers = np.unique(hashes, return_inverse=True)[1]
    first_label = np.empty(numbers.max() + 1, store.labels.dtype)
    first_label[numbers[::-1]] = store.labels[::-1]
    others = np.flatnonzero(first_label[numbers] != store.labels)
    if len(others):
        first = int(np.flatnonzero(numbers == numbers[others[0]])[0])
        say(
            f"note: {len(others):,} images of {store.split} are in another class too, such as "
            f"{_pair((store, first), (store, int(others[0])))}: at most one of the labels is right"
        )


def _pair(*images: tuple[EncodedStore, int]) -> str:
    """Returns the paths of two images, each given as its store and position."""
    return " and ".join(printable(store.source_of(position)) for store, position in images)


def require_classes(wnids: Sequence[str], source: StrPath) -> None:
    """Refuses a single class, from which a model cannot learn to distinguish anything."""
    if len(wnids) < 2:
        raise UserError(
            f"{source} holds images of one class, {wnids[0]}; two classes or more are needed"
        )


def refuse_or_skip(
    faulty: list[finding.Faulty], num_images: int, where: StrPath, request: Request
) -> None:
    """Refuses unusable files, or adds them to `request.skipped` with --skip-corrupt."""
    if faulty and not request.skip_corrupt:
        description = finding.describe_faulty(faulty, num_images, where)
        raise UserError(
            f"{description}; convert or move such files, or leave them out with --skip-corrupt, "
            "which lists them"
        )
    request.skipped.extend(faulty)


def describe(listing: folders.Listing, say: Callable[[str], None]) -> None:
    """Reports the classes and splits that were recognised, and the files that were ignored."""
    counts = " + ".join(f"{count:,}" for count in listing.counts().values())
    where = f" in {listing.folders}" if listing.folders else ""
    classes = printable(first_few(listing.wnids, MAX_NAMES))
    say(f"{len(listing.wnids):,} classes{where} ({counts} images): {classes}")
    for note in listing.notes:
        say(f"note: {note}")
    if listing.ignored:
        say(f"ignored: {printable(first_few(listing.ignored, MAX_NAMES))}")
