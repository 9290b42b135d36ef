"""The table of the forms in which people have images, and the stores made of each.

A form is recognised by the files of a source, not by an option. To add one, write a module in
`sources` that lists its images and labels, and add its row to FORMS. `prepare` has the functions
for the forms that belong to one data set; those for forms that any data set may have are here.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.paths import expand, is_remote, os_error_text, portable, without_secrets
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.data.images.exact import decode_exactly
from keras_imnet64.data.images.reading import report_unreadable
from keras_imnet64.data.locations import Dataset, DatasetLocation
from keras_imnet64.data.prepare import (
    VALIDATION_SHARE,
    Request,
    describe,
    from_image_files,
    from_image_folder,
    from_imagenet21k,
    from_imagenet2012,
    index_listing,
    refuse_or_skip,
    require_classes,
    through_tfds,
)
from keras_imnet64.data.sources import (
    archives,
    batches,
    csv_labels,
    finding,
    imagenet2012,
    layout,
    parquet,
    remote,
    shards,
    tiny_imagenet,
    webdataset,
)
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.sources.class_lists import UNLABELLED, Classes, arrange, own_classes
from keras_imnet64.data.sources.finding import SourceFiles
from keras_imnet64.data.sources.listing import Listed
from keras_imnet64.data.stores import packing
from keras_imnet64.data.stores.indexing import ImageEntry, read_in_place
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.records import SourceForm

RESIZED, TINY, FULL, FULL_21K, OWN = (
    "imagenet_resized", "tiny_imagenet", "imagenet2012", "imagenet21k", "image_folder",
)  # fmt: skip
ANY = (RESIZED, TINY, FULL, OWN)
READ_BATCH = 512  # images that are decoded together
MANY_CLASSES = 5  # without images, that a note names


@dataclass(frozen=True)
class Form:
    """A row of the table FORMS.

    Attributes:
        name: what `data info` calls it.
        looks_like: the files, in a phrase.
        datasets: names, up to the slash, of the data sets that may have it.
        matches: whether a source has it.
        make: makes the stores.
        can_skip: whether damaged images can be left out one by one.
    """

    name: SourceForm
    looks_like: str
    datasets: tuple[str, ...]
    matches: Callable[[SourceFiles], bool]
    make: Callable[[Request], dict[str, Store]]
    can_skip: bool = True


def find_form(dataset: Dataset, source: Path) -> Form | None:
    """Returns the form of a source, or None if it has none that the data set may have."""
    family = dataset.name.partition("/")[0]
    rows = [form for form in FORMS if family in form.datasets]
    files = SourceFiles.of(source) if len(rows) > 1 else SourceFiles(source)
    return next((form for form in rows if form.matches(files)), None)


def make_stores(request: Request) -> dict[str, Store]:
    """Makes the stores of a request in the way of its source's form. Returns them by split.

    A source of no known form is left to the data set's own function, whose message says what it
    needs. A remote source is fetched first.

    Raises:
        UserError: the source does not exist, cannot be used, or does not go with the options.
    """
    dataset = request.verified.dataset
    if request.source is not None and is_remote(request.source):
        url = str(request.source)
        with packing.store_work_folder(request.verified.packed_dir):  # so that others wait
            request.verified.refuse_if_being_packed()
            fetch_dir = request.verified.fetch_dir
            with remote.local_copy(url, fetch_dir, request.progress) as copy:
                return make_stores(replace(request, source=copy, origin=without_secrets(url)))
    form = None
    if request.source is not None and not dataset.embedded:
        _require_source(request.source)
        form = find_form(dataset, expand(request.source))
    if form is not None and request.splits is not None and form.name != "class folders":
        raise UserError(f"--splits is for class folders, but {request.source} is {form.name}")
    if form is not None and request.skip_corrupt and not form.can_skip:
        raise cannot_skip(f"{request.source}, which is {form.name},")
    return form.make(request) if form else dataset.make(request)


def _require_source(source: StrPath) -> None:
    """Refuses a path that does not exist; the message has the nearest name beside it."""
    path = expand(source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        beside: list[str] = []
        with contextlib.suppress(OSError, ValueError):
            beside = os.listdir(path.parent)
        close = get_close_matches(path.name, beside, n=1)
        advice = f"did you mean {path.with_name(close[0])}?" if close else "check the path"
        raise UserError(f"--source {source} does not exist; {advice}") from None
    except OSError as error:
        raise UserError(f"--source {source} cannot be read: {os_error_text(error, path)}") from None


def cannot_skip(source: str) -> UserError:
    """Returns the error for a source in which no single image can be left out."""
    return UserError(
        f"--skip-corrupt leaves out single images, but the files of {source} hold many images "
        "each: leave the option out, and download a damaged file again"
    )


# ------------------------------------------------------------------------------ unpacked batches


def from_batches(request: Request, is_npz: bool) -> dict[str, Store]:
    """Packs downsampled ImageNet from npz files or pickles, in their order."""
    dataset = request.verified.dataset
    assert request.source is not None and dataset.image_size and dataset.num_classes
    assert dataset.labels
    size, source = dataset.image_size, expand(request.source)
    wnids, names = dataset.labels()
    found = batches.list_batches(
        source,
        is_npz=is_npz,
        image_size=size,
        num_classes=dataset.num_classes,
        progress=request.progress,
    )
    location = _location_for(request, batches.counts_mismatch(found.labels))
    with location.replaced() as folder:
        for split in dataset.splits:
            packing.write_store(
                folder / split,
                found.read(split, size, dataset.num_classes),
                dataset=dataset.name,
                split=split,
                count=len(found.labels[split]),
                image_size=size,
                wnids=wnids,
                class_names=names,
                source=f"file:{request.origin or portable(source)}",
                form="npz batches" if is_npz else "pickle batches",
                verified=location.verified,
                progress=request.progress,
            )
    return location.open()


def _location_for(request: Request, unexpected: str) -> DatasetLocation:
    """Returns where the images belong; refuses others than the published ones if not allowed."""
    if unexpected and not request.allow_unverified:
        name = request.verified.dataset.name
        raise UserError(
            f"{request.source} is not {name}: {unexpected}; pass --allow-unverified to use it "
            "anyway"
        )
    return request.unverified if unexpected else request.verified


# ---------------------------------------------------------------- shards and lists of image files


def from_listed(
    list_images: Callable[[Path, PackProgress | None], Listed], request: Request
) -> dict[str, Store]:
    """Packs images of one size, or indexes images of any size, as their source lists them."""
    assert request.source is not None
    listed = list_images(Path(os.path.abspath(expand(request.source))), request.progress)
    _refuse_what_is_missing(listed)
    classes = _classes_of(listed, request.verified.dataset)
    entries = _with_labels(listed, classes, request)
    listing = folders.Listing(
        listed.root,
        classes.ids,
        entries,
        notes=listed.notes + _lacking_classes(request.verified.dataset, classes, entries),
        form=listed.form,
        read=listed.read,
        source=expand(request.source),
    )
    if listing.splits["train"]:
        require_classes(classes.ids, listed.root)
    unexpected = _mismatch(request.verified.dataset, listing)
    if request.verified.dataset.image_size is None:
        return index_listing(request, listing, unexpected)
    return _pack_listing(request, listing, classes, unexpected)


def _refuse_what_is_missing(listed: Listed) -> None:
    """Refuses splits without images, and images without labels."""
    for split, images in listed.entries.items():
        if not images:
            raise UserError(f"{listed.labels.where} has no images of {split}: get the whole set")
    for split, numbers in listed.labels.numbers.items():
        if split in listed.entries and (count := numbers.count(UNLABELLED)):
            raise UserError(
                f"{listed.labels.where} has no labels for {count:,} of {len(numbers):,} images of "
                f"{split} (they are {UNLABELLED}): get the labelled images, or move them away"
            )


def _classes_of(listed: Listed, dataset: Dataset) -> Classes:
    if not dataset.promises_images:
        return own_classes(listed.labels.own_ids(), listed.labels.where, listed.labels.names)
    source_ids = listed.labels.class_ids()
    fixed = dataset.labels()[0] if dataset.labels else []
    return arrange(source_ids, listed.labels.where, dataset.name, fixed)


def _with_labels(listed: Listed, classes: Classes, request: Request) -> dict[str, list[ImageEntry]]:
    """Returns the images of both splits with labels of the data set; splits what has no splits."""
    entries = {
        split: [replace(image, label=int(classes.positions[image.label])) for image in images]
        for split, images in listed.entries.items()
    }
    name = request.verified.dataset.name
    if "train" not in entries:
        return _only_scored(listed, entries["validation"], request)
    if "validation" in entries:
        if request.validation_share is not None:
            raise UserError(
                f"--validation-share is for images without splits, but {request.source} has "
                "validation images: leave the option out"
            )
        return entries
    if request.verified.dataset.promises_images:
        raise UserError(
            f"{request.source} has no validation images, which {name} needs: add them, named "
            "like validation or val"
        )
    return _held_out(listed, entries["train"], classes, request)


def _only_scored(
    listed: Listed, images: list[ImageEntry], request: Request
) -> dict[str, list[ImageEntry]]:
    lacking = f"{request.source} has no images of train"
    if request.verified.dataset.promises_images:
        raise UserError(f"{lacking}, which {request.verified.dataset.name} needs")
    if request.validation_share != 1:
        raise UserError(
            f"{lacking}: add them, or pass --validation-share 1 for a set on which models are only "
            "scored"
        )
    listed.notes.append(folders.split_note(1))
    return {"train": [], "validation": images}


def _held_out(
    listed: Listed, images: Sequence[ImageEntry], classes: Classes, request: Request
) -> dict[str, list[ImageEntry]]:
    share = VALIDATION_SHARE if request.validation_share is None else request.validation_share
    folders.check_validation_share(share)
    names: dict[int, list[str]] = {}
    for image in images:
        names.setdefault(image.label, []).append(image.in_words)
    validation = set()
    for label, each in names.items():
        where = f"the class {classes.ids[label]} of {listed.labels.where}"
        validation |= folders.held_out(each, share, where)
    listed.notes.append(folders.split_note(share))
    return {
        "train": [image for image in images if image.in_words not in validation],
        "validation": [image for image in images if image.in_words in validation],
    }


def _lacking_classes(
    dataset: Dataset, classes: Classes, entries: dict[str, list[ImageEntry]]
) -> list[str]:
    """Returns notes about listed classes of the user's own that have no images in a split."""
    if dataset.promises_images:  # `_mismatch` says what is lacking
        return []
    notes = []
    for split, images in entries.items():
        if not images:
            continue  # all of them are for validation, as `split_note` says
        present = {image.label for image in images}
        lacking = [wnid for label, wnid in enumerate(classes.ids) if label not in present]
        if lacking:
            shown = ", ".join(lacking[:MANY_CLASSES])
            more = f" and {len(lacking) - MANY_CLASSES:,} more" * (len(lacking) > MANY_CLASSES)
            notes.append(f"{split} has no images of {shown}{more}")
    return notes


def _mismatch(dataset: Dataset, listing: folders.Listing) -> str:
    """Returns how images differ from those that the data set's name promises, or empty."""
    labels = {
        split: np.array([image.label for image in images], np.int64)
        for split, images in listing.splits.items()
    }
    family = dataset.name.partition("/")[0]
    if family == RESIZED:
        return batches.counts_mismatch(labels)
    if family == TINY:
        return tiny_imagenet.mismatch(listing.wnids, labels, archives.imagenet_wnids())
    return imagenet2012.mismatch(listing) if family == FULL else ""


# ------------------------------------------------------------------------------ images of one size


def _pack_listing(
    request: Request, listing: folders.Listing, classes: Classes, unexpected: str
) -> dict[str, Store]:
    """Decodes the listed images, all of one size, into raw stores."""
    dataset = request.verified.dataset
    assert dataset.image_size
    location = _location_for(request, unexpected)
    damaged: list[finding.Faulty] = []
    if request.say:
        describe(listing, request.say)
    if request.skip_corrupt:
        damaged = _leave_out_damaged(listing, dataset.image_size, request.progress)
        location = request.unverified if damaged else location
    with location.replaced() as folder:
        for split, images in listing.splits.items():
            packing.write_store(
                folder / split,
                _decoded(listing, images, dataset.image_size),
                dataset=dataset.name,
                split=split,
                count=len(images),
                image_size=dataset.image_size,
                wnids=classes.ids,
                class_names=classes.names,
                source=f"file:{request.origin or portable(listing.root)}",
                form=listing.form,
                verified=location.verified,
                progress=request.progress,
            )
    request.skipped.extend(damaged)
    return location.open()


def _decoded(
    listing: folders.Listing, images: Sequence[ImageEntry], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (uint8 [B, s, s, 3], int64 labels [B]), B at most READ_BATCH.

    Raises:
        UserError: names the image that is damaged or of another size.
    """
    for part, decoded in _decode(listing, images, size):
        for image, pixels in zip(part, decoded, strict=True):
            if isinstance(pixels, str):
                raise UserError(
                    f"{listing.root / image.in_words} {pixels}: all images must have {size} x "
                    f"{size} pixels; get the file again"
                )
        labels = np.array([image.label for image in part], np.int64)
        yield np.stack([pixels for pixels in decoded if not isinstance(pixels, str)]), labels


def _decode(
    listing: folders.Listing, images: Sequence[ImageEntry], size: int
) -> Iterator[tuple[list[ImageEntry], list[np.ndarray | str]]]:
    """Yields some images, and for each its pixels or what is wrong with it, as a clause."""
    contents: Iterator[bytes | None]  # None for images that are read where they lie
    contents = listing.read(images) if listing.read else itertools.repeat(None)
    waiting = iter(images)

    def decode(image: ImageEntry, content: bytes | None) -> np.ndarray | str:
        try:
            if content is None:
                with report_unreadable(listing.root / image.name):
                    [content] = read_in_place(listing.root, [image])
            return decode_exactly(content, size)
        except FileNotFoundError:
            return "is missing"
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while part := list(itertools.islice(waiting, READ_BATCH)):
            yield part, list(pool.map(decode, part, itertools.islice(contents, len(part))))


def _leave_out_damaged(
    listing: folders.Listing, size: int, progress: PackProgress | None
) -> list[finding.Faulty]:
    """Leaves the damaged images out of the listing. Returns (name, what is wrong) of each.

    Raises:
        UserError: a class loses all its images in a split.
    """
    damaged: list[finding.Faulty] = []
    for split, images in listing.splits.items():
        whole: list[ImageEntry] = []
        done = 0
        for part, decoded in _decode(listing, images, size):
            for image, pixels in zip(part, decoded, strict=True):
                if isinstance(pixels, str):
                    damaged.append((image.in_words, pixels))
                else:
                    whole.append(image)
            done += len(part)
            if progress:
                progress(f"checking {split}", done, len(images))
        lost = {image.label for image in images} - {image.label for image in whole}
        if lost:
            raise UserError(
                f"{listing.root} has no whole image of {listing.wnids[min(lost)]} in {split}, "
                "even with --skip-corrupt: get the files again"
            )
        listing.splits[split] = whole
    return damaged


# ------------------------------------------------------------------------------------ class folders


def from_small_folders(request: Request) -> dict[str, Store]:
    """Packs images of one size from the folders train and val of class folders."""
    assert request.source is not None
    dataset = request.verified.dataset
    listing = imagenet2012.list_images(request.source, request.progress)
    where = listing.source or listing.root
    refuse_or_skip(listing.faulty, sum(listing.counts().values()), where, request)
    fixed = dataset.labels()[0] if dataset.labels else []
    classes = arrange(listing.wnids, str(where), dataset.name, fixed)
    listing.wnids = classes.ids
    for images in listing.splits.values():
        images[:] = [replace(each, label=int(classes.positions[each.label])) for each in images]
    return _pack_listing(request, listing, classes, _mismatch(dataset, listing))


def from_tfrecords(request: Request) -> dict[str, Store]:
    """Indexes ImageNet-1K in the records of a folder that TFDS has built."""
    assert request.source is not None
    folder = Path(os.path.abspath(expand(request.source)))
    listing = imagenet2012.list_tfrecords(folder, request.progress)
    return index_listing(request, listing, imagenet2012.mismatch(listing))


# ---------------------------------------------------------------------------------------- the table


def _named(*names: str) -> Callable[[SourceFiles], bool]:
    return lambda files: not files.names.isdisjoint(names)


def _is_folder(files: SourceFiles) -> bool:
    return files.path.is_dir()


def _has_split_folders(files: SourceFiles) -> bool:
    """Returns whether there is a folder train of folders, also within single folders."""
    if not files.path.is_dir():
        return False
    root = layout.enter_single_folders(files.path, layout.split_of)
    named = layout.named_splits(finding.list_folder(root)[0])
    train = [name for name, split in named.items() if split == layout.TRAIN]
    return any(finding.list_folder(root / name)[0] for name in train)


FORMS = (  # the first that matches counts
    Form(
        "zip archives",
        "`Imagenet64_train_part1_npz.zip` and the others of image-net.org",
        (RESIZED,),
        lambda files: any(re.fullmatch(r"Imagenet\d+_.*_npz\.zip", name) for name in files.names),
        through_tfds,
        can_skip=False,
    ),
    Form(
        "npz batches",
        "`train_data_batch_1.npz` ... and `val_data.npz`, the same unpacked",
        (RESIZED,),
        lambda files: batches.holds_batches(files.names, is_npz=True),
        partial(from_batches, is_npz=True),
        can_skip=False,
    ),
    Form(
        "pickle batches",
        "`train_data_batch_1` ... and `val_data`, the older edition",
        (RESIZED,),
        lambda files: batches.holds_batches(files.names, is_npz=False),
        partial(from_batches, is_npz=False),
        can_skip=False,
    ),
    Form(
        "Tiny ImageNet's files",
        "`tiny-imagenet-200.zip`, or its folder with `wnids.txt`",
        (TINY,),
        _named("wnids.txt", tiny_imagenet.ZIP),
        from_image_files,
    ),
    Form(
        "tar archives",
        f"`{imagenet2012.TRAIN_TAR}` and `{imagenet2012.VALIDATION_TAR}`",
        (FULL,),
        _named(imagenet2012.TRAIN_TAR),
        from_imagenet2012,
    ),
    Form(
        "TFRecords",
        "`imagenet2012-train.tfrecord-00000-of-01024` ..., which TFDS has built",
        (FULL,),
        lambda files: any(name.startswith("imagenet2012-train.tfrecord") for name in files.names),
        from_tfrecords,
    ),
    Form(
        "Parquet",
        "`train-00000-of-00040.parquet` ..., as the Hugging Face Hub has them",
        ANY,
        lambda files: shards.holds_shards(files, parquet.SUFFIX),
        partial(from_listed, parquet.list_parquet),
    ),
    Form(
        "WebDataset",
        "`train-000000.tar` ..., of `.jpg` files with `.cls` or `.json`",
        ANY,
        lambda files: (
            shards.holds_shards(files, webdataset.SUFFIX) and webdataset.is_webdataset(files.path)
        ),
        partial(from_listed, webdataset.list_webdataset),
    ),
    Form(
        "CSV",
        "`labels.csv`, or `train.csv` and `val.csv`, with columns `path` and `label`",
        ANY,
        lambda files: csv_labels.is_csv(files.path),
        partial(from_listed, csv_labels.list_csv),
    ),
    Form(
        "class folders",
        "`train/n01440764/...` and `val/n01440764/...`, of images of the data set's size",
        (RESIZED, TINY),
        _has_split_folders,
        from_small_folders,
    ),
    Form(
        "class folders", "`train/CLASS/...` and `val/...`", (FULL,), _is_folder, from_imagenet2012
    ),
    Form("class folders", "`CLASS/...`", (FULL_21K,), _is_folder, from_imagenet21k),
    Form(
        "class folders",
        "`CLASS/...`, or `train/CLASS/...` and `val/CLASS/...`",
        (OWN,),
        _is_folder,
        from_image_folder,
    ),
)
