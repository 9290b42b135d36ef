"""Where a data set lives on this machine, how far it is made there, and who is making it.

Which data sets there are is told in `datasets`, how one is made in `prepare`.
"""

import contextlib
import shutil
from pathlib import Path

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.library_logs import import_tensorflow
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.data.stores import packing
from keras_imnet64.data.stores import store as stores

SUFFIX = "-unverified"


class DatasetLocation:
    """Where one data set lives, either the one its name promises or the unverified stand-in.

    Args:
        dataset: a row of `datasets.DATASETS`.
        data_dir: what TFDS builds lies here.
        cache_dir: packed stores lie here, in the folder `packed`.
        verified: whether it is the place of what the name promises.
    """

    def __init__(self, dataset, data_dir, cache_dir, verified):
        self.dataset, self.data_dir, self.verified = dataset, data_dir, verified
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

    def packed_bytes(self):
        return _folder_bytes(self.packed_dir)

    def tfds_bytes(self):
        return _folder_bytes(self.tfds_dir) if self.tfds_dir else 0

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
        with packing.working_folder(self.packed_dir) as incoming:
            self.refuse_if_being_packed()
            yield incoming
            self.take_in(incoming)

    def take_in(self, incoming):
        """Let a finished folder of all splits take the place of what was there."""
        try:
            incoming.chmod(0o755)
            for split in self.dataset.splits:
                packing.remove_store(self.folder(split))
            shutil.rmtree(self.packed_dir, ignore_errors=True)
            incoming.rename(self.packed_dir)
        except OSError as error:
            raise RunFailed(
                f"{self.dataset.name} is packed but cannot take its place {self.packed_dir} "
                f"({os_error_text(error, self.packed_dir)}); mend that and run the same "
                "command again"
            ) from error

    def refuse_if_being_packed(self):
        """Two processes that pack the same set would only take its place from one another."""
        for path in (self.packed_dir, *map(self.folder, self.dataset.splits)):
            if pid := packing.other_writer(path):
                raise UserError(
                    f"process {pid} is packing {self.dataset.name} into {self.packed_dir}: wait "
                    "until it is done, then run the same command again"
                )

    def built(self):
        """Whether TFDS has it; TensorFlow is loaded only where there is something to look at."""
        return bool(self.tfds_dir and self.tfds_dir.is_dir() and self.builder().is_prepared())

    def builder(self):
        import_tensorflow()
        from keras_imnet64.data.sources import imagenet_resized

        return imagenet_resized.builder_of(
            self.builder_name, self.dataset.image_size, self.data_dir
        )


def _folder_bytes(folder):
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
