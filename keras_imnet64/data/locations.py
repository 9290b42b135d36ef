"""Describes a data set, finds its files on this machine, and says which of them exist.

`datasets` holds the table of data sets; `prepare` makes their stores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.backend.loading import import_tensorflow
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.turns import one_at_a_time
from keras_imnet64.core.work_folders import publish
from keras_imnet64.data.stores import packing
from keras_imnet64.data.stores.base import PACKED
from keras_imnet64.data.stores.opening import Store, is_store, open_store

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SUFFIX = "-unverified"
FETCHED = "fetched"  # in the names of folders with files of remote sources


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A row of the table `datasets.DATASETS`.

    Attributes:
        name: what recipes and commands call it.
        image_size: pixels per side; None for images of any size, which recipes resize.
        num_classes: K; None if it depends on the user's images.
        splits: images in "train" and "validation", as the name promises them, or None.
        description: one sentence.
        made_from: where its images come from and which sources `prepare` takes, in a sentence.
        make: the function of `prepare` that makes its stores from a `prepare.Request`.
        labels: returns (class ids, class names), in label order; None if the source lists them.
        builder: the name of TFDS' builder; empty if the images do not come through TFDS.
        unverified_builder: the same for unverified archives.
        resize_filter: how `predict` resizes images for a model of this set: with the filter of the
            set itself, if it is known.
        embedded: whether this package draws the images, with nothing to download.
        source_hint: an example of --source, for messages.
        promises_images: whether the name stands for certain images. Under another name, such as
            `image_folder`, any images count as verified.
    """

    name: str
    image_size: int | None
    num_classes: int | None
    splits: dict[str, int | None]
    description: str
    made_from: str
    make: Callable[..., dict[str, Store]]
    labels: Callable[[], tuple[list[str], list[str]]] | None = None
    builder: str = ""
    unverified_builder: str = ""
    resize_filter: str = "box"
    embedded: bool = False
    source_hint: str = "DIR"
    promises_images: bool = True


class DatasetLocation:
    """Where one data set lies: either what its name promises, or an unverified substitute.

    Args:
        data_dir: the folder in which TFDS builds data sets.
        cache_dir: its folder `packed` holds the packed stores.
        verified: whether this is the location of what the name promises.
    """

    def __init__(self, dataset: Dataset, data_dir: Path, cache_dir: Path, verified: bool) -> None:
        self.dataset, self.data_dir, self.verified = dataset, data_dir, verified
        folder = dataset.name.replace("/", "_") + ("" if verified else SUFFIX)
        self.packed_dir = cache_dir / PACKED / folder
        self.builder_name = dataset.builder if verified else dataset.unverified_builder

    @property
    def tfds_dir(self) -> Path | None:
        """The folder of all TFDS versions of this image size; None if TFDS is not involved."""
        if not self.builder_name:
            return None
        size = self.dataset.image_size
        return self.data_dir / self.builder_name / f"{size}x{size}"

    @property
    def fetch_dir(self) -> Path:
        """Where files of a remote source are kept until they are in the store."""
        return self.packed_dir.with_name(f".{self.packed_dir.name}.{FETCHED}")

    @property
    def lock_file(self) -> Path:
        """Exists while a process prepares the data set.

        It is not in the folder of the stores, which would appear in a source that is the data dir.
        """
        return self.packed_dir.parents[1] / f".{self.packed_dir.name}.lock"

    @contextlib.contextmanager
    def preparing(self, work: str = "") -> Iterator[bool]:
        """Waits until no other process prepares the data set, then keeps others from doing so.

        Args:
            work: the request, in one line.

        Yields:
            Whether another process has finished the same request meanwhile.
        """
        doing = f"preparing {self.dataset.name}"
        with one_at_a_time(self.lock_file, doing, work) as is_done:
            yield is_done

    def packed_bytes(self) -> int:
        return _folder_bytes(self.packed_dir)

    def tfds_bytes(self) -> int:
        return _folder_bytes(self.tfds_dir) if self.tfds_dir else 0

    def folder(self, split: str) -> Path:
        return self.packed_dir / split

    def is_packed(self) -> bool:
        """Returns whether all splits are packed."""
        return all(is_store(self.folder(split)) for split in self.dataset.splits)

    def is_ready(self) -> bool:
        """Returns whether all splits are packed, or can be packed from what TFDS has built."""
        return self.is_packed() or self.is_built()

    def open(self) -> dict[str, Store]:
        """Opens the stores by split, memory-mapped."""
        return {split: open_store(self.folder(split), "never") for split in self.dataset.splits}

    @contextlib.contextmanager
    def replaced(self) -> Iterator[Path]:
        """Yields a folder to pack all splits into, which replaces the old splits at the end.

        If packing fails, the old splits stay, so that splits of two origins are never mixed.
        """
        with packing.store_work_folder(self.packed_dir) as incoming:
            self.refuse_if_being_packed()
            yield incoming
            self.publish(incoming)

    def publish(self, incoming: Path) -> None:
        """Replaces the splits with those in a finished folder."""
        try:
            incoming.chmod(0o755)
            publish(incoming, self.packed_dir, replace=True)
        except OSError as error:
            raise RunFailed(
                f"{self.dataset.name} is packed but cannot be moved to {self.packed_dir} "
                f"({os_error_text(error, self.packed_dir)}); fix that and run the same "
                "command again"
            ) from error

    def refuse_if_being_packed(self) -> None:
        """Refuses to pack while another process does: they would replace each other's result."""
        for path in (self.packed_dir, *map(self.folder, self.dataset.splits)):
            if pid := packing.other_writer(path):
                raise UserError(
                    f"process {pid} is packing {self.dataset.name} into {self.packed_dir}: wait "
                    "until it is done, then run the same command again"
                )

    def is_built(self) -> bool:
        """Returns whether TFDS has built the data; loads TensorFlow only if the folder exists."""
        return bool(self.tfds_dir and self.tfds_dir.is_dir() and self.builder().is_prepared())

    def builder(self) -> tfds.core.DatasetBuilder:
        import_tensorflow()
        from keras_imnet64.data.sources import imagenet_resized

        size = self.dataset.image_size
        assert size is not None  # images that come through TFDS have one size
        return imagenet_resized.builder_of(self.builder_name, size, self.data_dir)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
