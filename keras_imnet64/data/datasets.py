"""The table of data sets, and the way from a name to a packed store.

To add a data set, add its row to DATASETS; a new kind of source is a module in `sources` and a
class here that turns it into batches. Reading a store is the business of `store`.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunFailed, UserError, nearest
from ..files import denied, expand
from ..quiet import import_tensorflow
from . import store as stores
from .sources import archives, shapes, tiny_imagenet

SUFFIX = "-unverified"


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
        resize_filter: how the pictures were made small, for pictures that join them later.
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
    place = _Place(dataset, data_dir, cache_dir, verified=True)
    if source is None and allow_unverified:
        raise UserError("--allow-unverified needs --source, the pictures to take")
    if source is not None and dataset.embedded:
        raise UserError(f"{name} is drawn on the spot: it takes no --source; received {source}")
    if skip_corrupt and dataset.embedded:
        raise UserError(f"{name} is drawn on the spot: it has nothing for --skip-corrupt to leave")
    if skip_corrupt and dataset.name != "tiny_imagenet":
        raise UserError(
            f"--skip-corrupt works for tiny_imagenet, which has a file for each picture; those of "
            f"{name} hold many, so fetch a damaged one again"
        )
    if source is None and place.packed():
        return place.open()
    if allow_unverified:
        place = _Place(dataset, data_dir, cache_dir, verified=False)
    place.refuse_if_being_packed()
    if dataset.name == "tiny_imagenet":
        where = (dataset, data_dir, cache_dir, source)
        opened, damaged = _prepare_tiny(*where, allow_unverified, skip_corrupt, progress)
        if skipped is not None:
            skipped += damaged
        return opened
    _build(place, source, progress)
    if place.verified and place.packed():  # the same pictures, as their archives have shown
        return place.open()
    with place.replaced() as folder:
        for split in dataset.splits:
            _pack_tfds(place, split, progress, folder / split)
    return place.open()


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
    places = [_Place(dataset, data_dir, cache_dir, verified) for verified in (True, False)]
    if not any(place.ready() for place in places):
        for place in places:
            place.refuse_if_being_packed()
    if dataset.embedded and not places[0].ready():
        prepare(name, data_dir=data_dir, cache_dir=cache_dir, progress=progress)
    for place in places:
        if place.ready():  # both splits of one place: verified and unverified never mix
            if not stores.is_store(place.folder(split)):
                place.refuse_if_being_packed()
                _pack_tfds(place, split, progress, place.folder(split))
            return stores.open_store(place.folder(split), in_memory)
    raise UserError(
        f"{name} is not prepared in {places[0].data_dir}: run "
        f"`python cli.py data prepare {name} --source {dataset.source_hint}`"
    )


def info(name, *, data_dir=None, cache_dir=None):
    """What is known of a data set and of its state on this machine; needs nothing prepared.

    Returns:
        dict, fit for JSON: name, description, image_size, classes, class_ids (the first five),
        class_names (theirs), state ("packed", "built by TFDS, not packed" or "not prepared"),
        verified (None if not prepared), splits and digest by split, store_bytes, tfds_bytes,
        location, source.
    """
    dataset = find_dataset(name)
    places = [_Place(dataset, data_dir, cache_dir, verified) for verified in (True, False)]
    present = [place for place in places if place.ready()]
    place = present[0] if present else places[0]
    opened = place.open() if place.packed() else {}
    state = "packed" if opened else "built by TFDS, not packed" if present else "not prepared"
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
        "verified": place.verified if present else None,
        "splits": {s: len(opened[s]) if opened else n for s, n in dataset.splits.items()},
        "digest": {split: store.digest for split, store in opened.items()},
        "store_bytes": _folder_bytes(place.packed_dir),
        "tfds_bytes": _folder_bytes(place.tfds_dir) if place.tfds_dir else 0,
        "location": str(place.packed_dir) if present else None,
        "source": some.source if some else None,
    }


def _known_labels(dataset):
    return dataset.labels() if dataset.labels else ([], [])


def _folder_bytes(folder):
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


# ------------------------------------------------------------------------------------------ places


class _Place:
    """Where one data set lives, either the one its name promises or the unverified stand-in."""

    def __init__(self, dataset, data_dir, cache_dir, verified):
        self.dataset, self.verified = dataset, verified
        self.data_dir = expand(data_dir) if data_dir else default_data_dir()
        cache_dir = expand(cache_dir) if cache_dir else self.data_dir
        folder = dataset.name.replace("/", "_") + ("" if verified else SUFFIX)
        self.packed_dir = cache_dir / "packed" / folder
        self.builder_name = dataset.builder if verified else dataset.unverified_builder

    @property
    def tfds_dir(self):
        """Where TFDS keeps this size, all versions of it; None if TFDS has no part in it."""
        if not self.builder_name:
            return None
        size = self.dataset.image_size
        return self.data_dir / self.builder_name / f"{size}x{size}"

    def folder(self, split):
        return self.packed_dir / split

    def packed(self):
        return all(stores.is_store(self.folder(split)) for split in self.dataset.splits)

    def ready(self):
        """Whether both splits are packed, or can be from what TFDS has."""
        return self.packed() or self.built()

    def open(self):
        return {s: stores.open_store(self.folder(s), "never") for s in self.dataset.splits}

    @contextlib.contextmanager
    def replaced(self):
        """A folder to pack all splits into, which takes the place of the old ones at the end.

        If packing fails the old ones stay, so that splits of two origins never lie side by side.
        """
        incoming = stores.temporary_sibling(self.packed_dir)
        try:
            self.refuse_if_being_packed()
            yield incoming
            self._take_in(incoming)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _take_in(self, incoming):
        try:
            incoming.chmod(0o755)
            for split in self.dataset.splits:
                stores.remove_store(self.folder(split))
            shutil.rmtree(self.packed_dir, ignore_errors=True)
            incoming.rename(self.packed_dir)
        except OSError as error:
            raise RunFailed(
                f"{self.dataset.name} is packed but cannot take its place {self.packed_dir} "
                f"({denied(error, self.packed_dir)}); mend that and run the same command again"
            ) from error

    def refuse_if_being_packed(self):
        """Two processes that pack the same set would only take its place from one another."""
        for path in (self.packed_dir, *map(self.folder, self.dataset.splits)):
            if pid := stores.other_writer(path):
                raise UserError(
                    f"process {pid} is packing {self.dataset.name} into {self.packed_dir}: wait "
                    "until it is done, then run the same command again"
                )

    def built(self):
        """Whether TFDS has it; TensorFlow is loaded only where there is something to look at."""
        return bool(self.tfds_dir and self.tfds_dir.is_dir() and self.builder().is_prepared())

    def builder(self):
        import_tensorflow()
        from .sources import imagenet_resized

        return imagenet_resized.builder_of(
            self.builder_name, self.dataset.image_size, self.data_dir
        )


# ---------------------------------------------------------------------------------- through TFDS


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
            paths, counts = archives.check_layout(source, wanted, size, classes, progress)
            _require_room(place, counts, download=False)
    if place.verified and place.built():
        return
    from .sources import imagenet_resized

    options = dict(total=sum(counts.values()), overwrite=not place.verified, progress=progress)
    with tempfile.TemporaryDirectory() as scratch:
        if dataset.embedded:
            paths = shapes.write(Path(scratch))
        imagenet_resized.build(place.builder(), paths, **options)


def _require_room(place, counts, download):
    """Room for the packed pictures and for TFDS' copy of them, and for its archives if it fetches.

    Neither the copy nor the archives are larger than the raw pixels.
    """
    pixels = sum(counts.values()) * place.dataset.image_size**2 * 3
    packed = 0 if place.packed() else pixels
    tfds = 0 if place.verified and place.built() else pixels * (2 if download else 1)
    what = f"preparing {place.dataset.name} ({packed:,} bytes packed, {tfds:,} for TFDS)"
    same_disk = place.packed_dir.is_relative_to(place.data_dir)
    stores.require_space(place.packed_dir, packed + tfds if same_disk else packed, what)
    stores.require_space(place.data_dir, tfds, what)


def _pack_tfds(place, split, progress, folder):
    """Pack one split of what TFDS built into `folder`, in TFDS' reading order."""
    from .sources import imagenet_resized

    dataset, builder = place.dataset, place.builder()
    count = builder.info.splits[split].num_examples
    if place.verified and count != dataset.splits[split]:
        raise UserError(
            f"{place.tfds_dir} holds {count:,} pictures of {split} where {dataset.name} has "
            f"{dataset.splits[split]:,}: it is something else, move it away and prepare again"
        )
    wnids, names = dataset.labels()
    return stores.write_store(
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


# ---------------------------------------------------------------------------------- tiny_imagenet


def _prepare_tiny(dataset, data_dir, cache_dir, source, allow_unverified, skip_corrupt, progress):
    """The stores by split, and (name, reason) of each picture that was left out."""
    if source is None:
        raise UserError(
            "tiny_imagenet is read from its zip or folder: pass it with --source, as in "
            "`python cli.py data prepare tiny_imagenet --source tiny-imagenet-200.zip`"
        )
    with tiny_imagenet.open_tree(source) as tree:
        listing = tiny_imagenet.read_listing(tree)
        unexpected = listing.unexpected(archives.imagenet_wnids())
        if unexpected and not allow_unverified:
            raise UserError(
                f"{source} is not Tiny ImageNet: {unexpected}; pass the usual "
                "tiny-imagenet-200.zip, or --allow-unverified to use other pictures in its layout"
            )
        damaged = []
        if skip_corrupt:
            listing, damaged = tiny_imagenet.without_damaged(tree, listing, progress)
        place = _Place(dataset, data_dir, cache_dir, verified=not (unexpected or damaged))
        with place.replaced() as folder:
            for split in dataset.splits:
                stores.write_store(
                    folder / split,
                    tiny_imagenet.read(tree, listing.files[split], listing.labels[split]),
                    dataset=dataset.name,
                    split=split,
                    count=len(listing.files[split]),
                    image_size=dataset.image_size,
                    wnids=listing.wnids,
                    class_names=listing.class_names,
                    source=f"file:{Path(source).name}",
                    verified=place.verified,
                    progress=progress,
                )
    return place.open(), damaged
