"""The ways from a source to packed stores: through TFDS, or straight from files of images.

The rows of `datasets.DATASETS` name theirs. What the sources look like is told in `sources`, where
the results lie in `locations`, and how they are written in `packing`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import UserError, first_few, printable
from keras_imnet64.core.paths import portable
from keras_imnet64.data.locations import DatasetLocation
from keras_imnet64.data.sources import archives, finding, imagenet2012, shapes, tiny_imagenet
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.stores import indexing, packing
from keras_imnet64.data.stores.encoded import EncodedStore

INDEX = "index:"  # before the folder of images in the `source` of a store
MOST_NAMED = 5  # classes or files in a line
DEFAULT_SHARE = 0.1  # of the images of each class, for validation, where nothing splits them


@dataclass(frozen=True)
class Request:
    """What `datasets.prepare` was asked for; see there.

    Attributes:
        verified, unverified: the two places of the data set.
        skipped: receives (name, reason) of each image that is left out.
        class_list, validation_share, splits: of the sources that take them.
        say: receives sentences about what was found, before the work.
    """

    verified: DatasetLocation
    unverified: DatasetLocation
    source: str | Path | None
    allow_unverified: bool
    skip_corrupt: bool
    skipped: list
    progress: Callable | None
    class_list: str | Path | None = None
    validation_share: float | None = None
    splits: str | None = None
    say: Callable | None = None


# ---------------------------------------------------------------------------------- through TFDS


def through_tfds(request):
    """Let TFDS build the data, then pack its splits. Returns the stores by split."""
    place = request.unverified if request.allow_unverified else request.verified
    _build(place, request.source, request.progress)
    if place.verified and place.packed():  # the same images, as their archives have shown
        return place.open()
    with place.replaced() as folder:
        for split in place.dataset.splits:
            pack_tfds(place, split, request.progress, folder / split)
    return place.open()


def _build(place, source, progress):
    """Let TFDS build the place's data from local archives, drawn archives or a download."""
    dataset, counts, paths = place.dataset, place.dataset.splits, None
    if place.verified:
        _require_room(place, counts, download=source is None and not dataset.embedded)
    if source is not None:
        wanted = archives.archives_of(dataset.image_size)
        if place.verified:
            paths = archives.verify(source, wanted, progress)
        else:
            classes, size = dataset.num_classes, dataset.image_size
            checked = archives.check_layout(source, wanted, size, classes, progress)
            paths, counts = checked.paths, checked.counts
            _require_room(place, counts, download=False)
    if place.verified and place.built():
        return
    from keras_imnet64.data.sources import imagenet_resized

    options = dict(total=sum(counts.values()), overwrite=not place.verified, progress=progress)
    with tempfile.TemporaryDirectory() as scratch:
        if dataset.embedded:
            paths = shapes.write(Path(scratch))
        imagenet_resized.build(place.builder(), paths, **options)


def _require_room(place, counts, download):
    """Room for the packed images and for TFDS' copy of them, and for its archives if it fetches.

    Neither the copy nor the archives are larger than the raw pixels.
    """
    pixels = sum(counts.values()) * place.dataset.image_size**2 * 3
    packed = 0 if place.packed() else pixels
    tfds = 0 if place.verified and place.built() else pixels * (2 if download else 1)
    what = f"preparing {place.dataset.name} ({packed:,} bytes packed, {tfds:,} for TFDS)"
    same_disk = place.packed_dir.is_relative_to(place.data_dir)
    packing.require_space(place.packed_dir, packed + tfds if same_disk else packed, what)
    packing.require_space(place.data_dir, tfds, what)


def pack_tfds(place, split, progress, folder):
    """Pack one split of what TFDS built into `folder`, in TFDS' reading order."""
    from keras_imnet64.data.sources import imagenet_resized

    dataset, builder = place.dataset, place.builder()
    count = builder.info.splits[split].num_examples
    if place.verified and count != dataset.splits[split]:
        raise UserError(
            f"{place.tfds_dir} holds {count:,} images of {split} where {dataset.name} has "
            f"{dataset.splits[split]:,}: it is something else, move it away and prepare again"
        )
    wnids, names = dataset.labels()
    return packing.write_store(
        folder,
        imagenet_resized.read(builder, split),
        dataset=dataset.name,
        split=split,
        count=count,
        image_size=dataset.image_size,
        wnids=wnids,
        class_names=names,
        source=f"tfds:{builder.info.full_name}",
        verified=place.verified,
        progress=progress,
    )


# ------------------------------------------------------------------------- a file for each image


def from_image_files(request):
    """Pack Tiny ImageNet straight from its zip or folder. Returns the stores by split.

    Which of the two places they go into shows only when the images are listed.
    """
    if request.source is None:
        raise UserError(
            "tiny_imagenet is read from its zip or folder: pass it with --source, as in "
            "`python cli.py data prepare tiny_imagenet --source tiny-imagenet-200.zip`"
        )
    with tiny_imagenet.open_tree(request.source) as tree:
        listing = tiny_imagenet.read_listing(tree)
        _leave_out(listing.unused, sum(map(len, listing.files.values())), request.source, request)
        unexpected = listing.mismatch(archives.imagenet_wnids())
        if unexpected and not request.allow_unverified:
            raise UserError(
                f"{request.source} is not Tiny ImageNet: {unexpected}; pass the usual "
                "tiny-imagenet-200.zip, or --allow-unverified to use other images in its layout"
            )
        _require_classes(listing.wnids, request.source)
        damaged = []
        if request.skip_corrupt:
            listing, damaged = tiny_imagenet.without_damaged(tree, listing, request.progress)
        place = request.unverified if unexpected or damaged else request.verified
        with place.replaced() as folder:
            for split in place.dataset.splits:
                _pack_files(place, split, tree, listing, request, folder / split)
    request.skipped.extend(damaged)
    return place.open()


def _pack_files(place, split, tree, listing, request, folder):
    packing.write_store(
        folder,
        tiny_imagenet.read(tree, listing.files[split], listing.labels[split]),
        dataset=place.dataset.name,
        split=split,
        count=len(listing.files[split]),
        image_size=place.dataset.image_size,
        wnids=listing.wnids,
        class_names=listing.class_names,
        source=f"file:{portable(Path(request.source).name)}",
        verified=place.verified,
        progress=request.progress,
    )


# ------------------------------------------------------------------- JPEGs indexed where they lie


def from_imagenet2012(request):
    """Index ImageNet-1K: its tars, class folders, or what TFDS has built. Returns the stores."""
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
            f"{imagenet2012.VALIDATION_TAR}, which image-net.org gives after a login: put them "
            f"into {manual}, or pass their folder, or one with train/ and val/, with --source"
        )
    return _index(request, listing, imagenet2012.mismatch(listing))


def from_imagenet21k(request):
    """Index the published selection of ImageNet-21K's class folders. Returns the stores."""
    _require_source(request, "the folder of its class folders")
    listing = folders.list_imagenet_21k(request.source, request.class_list)
    counts = listing.counts()
    found = (len(listing.wnids), counts["train"], counts["validation"])
    expected = folders.IMAGENET_21K_COUNTS[request.class_list is not None]
    differs = f"it has {found[0]:,} classes with {found[1]:,} + {found[2]:,} images where the " + (
        f"published selection has {expected[0]:,} with {expected[1]:,} + {expected[2]:,}"
    )
    return _index(request, listing, "" if found == expected else differs)


def from_image_folder(request):
    """Index anyone's class folders. Returns the stores by split."""
    _require_source(request, "the folder of your images")
    share = DEFAULT_SHARE if request.validation_share is None else request.validation_share
    if not 0 < share < 1:
        raise UserError(f"--validation-share must be between 0 and 1; received {share}")
    listing = folders.list_image_folder(request.source, share, request.splits)
    if listing.folders and request.validation_share is not None:
        raise UserError(
            f"--validation-share is for images that are not split, but {listing.root} has "
            f"{listing.folders}: leave the option out, or pass the folder of one split as --source"
        )
    return _index(request, listing, "")


def _require_source(request, what):
    if request.source is None:
        name = request.verified.dataset.name
        raise UserError(
            f"{name} is read where it lies: pass {what} with --source, as in "
            f"`python cli.py data prepare {name} --source DIR`"
        )


def _index(request, listing, unexpected):
    """Both splits into one of the two places. `unexpected`: what is not as the name promises."""
    name = request.verified.dataset.name
    where = listing.source or listing.root
    _leave_out(listing.faulty, sum(listing.counts().values()), where, request)
    if unexpected and not request.allow_unverified:
        raise UserError(
            f"{listing.root} is not {name}: {unexpected}; --allow-unverified takes it all the same"
        )
    _require_classes(listing.wnids, listing.root)
    if request.say:
        _describe(listing, request.say)
        place = request.unverified if unexpected else request.verified
        _note_replaced(place, listing.root, request.say)
    damaged = [] if request.skip_corrupt else None
    with packing.working_folder(request.verified.packed_dir) as incoming:
        request.verified.refuse_if_being_packed()  # named so wherever the images go in the end
        train, validation = _write_splits(request, listing, incoming, not unexpected, damaged)
        if request.say:
            _note_lost_classes(listing, validation, request.say)
            _note_shared_images(train, validation, request.say)
        place = request.verified
        if unexpected or (damaged and place.dataset.promises):
            place = request.unverified
            for split in listing.splits:
                indexing.mark_unverified(incoming / split)
        place.refuse_if_being_packed()
        place.take_in(incoming)
    request.skipped.extend(damaged or [])
    return place.open()


def _write_splits(
    request: Request,
    listing: folders.Listing,
    folder: Path,
    verified: bool,
    damaged: list[finding.Faulty] | None,
) -> list[EncodedStore]:
    """Index both splits into folders of their names in `folder`; training comes first."""
    return [
        indexing.write_index(
            folder / split,
            listing.splits[split],
            root=listing.root,
            dataset=request.verified.dataset.name,
            split=split,
            wnids=listing.wnids,
            class_names=_names_of(listing.wnids),
            source=f"{INDEX}{portable(listing.root)}",
            verified=verified,
            skipped=damaged,
            progress=request.progress,
        )
        for split in ("train", "validation")
    ]


def _note_replaced(place: DatasetLocation, root: Path, say: Callable[[str], None]) -> None:
    """Say whose images a data set of this name had before, if they lay elsewhere."""
    try:
        before = place.open()["train"].source if place.packed() else None
    except UserError:  # a damaged store is replaced as well
        return
    if before and before != f"{INDEX}{portable(root)}":
        say(f"note: replaces the images of {printable(before.removeprefix(INDEX))}")


def _note_lost_classes(
    listing: folders.Listing, validation: EncodedStore, say: Callable[[str], None]
) -> None:
    """Name the classes whose validation images were all left out for their damage."""
    there = set(validation.labels.tolist())
    lost = sorted({image.label for image in listing.splits["validation"]} - there)
    if lost:
        note = folders.unscored_note([listing.wnids[label] for label in lost], "validation")
        say(f"note: {note}")


def _note_shared_images(
    train: EncodedStore, validation: EncodedStore, say: Callable[[str], None]
) -> None:
    """Say how many validation images are trained on too, by the SHA-256 of their files."""
    hashes = list(map(bytes, validation.hashes))
    trained_on = set(hashes).intersection(map(bytes, train.hashes))
    count = sum(digest in trained_on for digest in hashes)
    if count:
        say(
            f"note: train has the same file as {count:,} of the {len(hashes):,} validation "
            "images, so the scores will look too good"
        )


def _require_classes(wnids: list[str], where: str | Path) -> None:
    """Refuse a single class, from which no model can learn to tell anything."""
    if len(wnids) < 2:
        raise UserError(
            f"{where} holds images of one class, {wnids[0]}; two classes or more are needed"
        )


def _leave_out(
    faulty: list[finding.Faulty], num_images: int, where: str | Path, request: Request
) -> None:
    """Refuse files that are no images, or list them as skipped where the user asked for that."""
    if faulty and not request.skip_corrupt:
        which = finding.describe_faulty(faulty, num_images, where)
        raise UserError(
            f"{which}; convert or move such files, or leave them out with --skip-corrupt, which "
            "lists them"
        )
    request.skipped.extend(faulty)


def _describe(listing: folders.Listing, say: Callable[[str], None]) -> None:
    """Tell the user what was taken for classes and splits, and what was left aside."""
    counts = " + ".join(f"{count:,}" for count in listing.counts().values())
    where = f" in {listing.folders}" if listing.folders else ""
    classes = printable(first_few(listing.wnids, MOST_NAMED))
    say(f"{len(listing.wnids):,} classes{where} ({counts} images): {classes}")
    for note in listing.notes:
        say(f"note: {note}")
    if listing.ignored:
        say(f"left aside: {printable(first_few(listing.ignored, MOST_NAMED))}")


def _names_of(wnids):
    """Names for people: ImageNet's where the ids are its own, else the ids themselves."""
    names = dict(zip(archives.imagenet_wnids(), archives.imagenet_class_names(), strict=True))
    return [names.get(wnid, wnid) for wnid in wnids]
