"""Builds and reads downsampled ImageNet, and other images in its layout, with TFDS' builder.

Three builders share the code that reads archives: TFDS' `imagenet_resized` accepts only the
published archives, `imagenet_resized_unverified` others in the same layout, and `shapes` the drawn
images. Their names differ because every program on the machine relies on the name
`imagenet_resized` for ImageNet. Importing this module imports TensorFlow Datasets.
"""

import contextlib
import errno
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.data.sources import shapes, tfds_private
from keras_imnet64.data.sources.downloads import limit_downloads, unavailable_reason

PAGE = "https://image-net.org/download-images"
READ_BATCH = 512  # images
Official: Any = tfds.builder_cls("imagenet_resized")  # TFDS ships no types
Config: Any = type(Official.BUILDER_CONFIGS[0])  # likewise


class Unverified(Official, skip_registration=True):  # type: ignore[call-arg]  # untyped base
    """Images in the layout of `imagenet_resized` that are not known to be ImageNet."""

    name = "imagenet_resized_unverified"


class Shapes(Official, skip_registration=True):  # type: ignore[call-arg]  # untyped base
    """The drawn images of `sources.shapes`, in archives with the layout of `imagenet_resized`."""

    name = "shapes"
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS' own convention)
        Config(name=f"{shapes.IMAGE_SIZE}x{shapes.IMAGE_SIZE}", size=shapes.IMAGE_SIZE)
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        features = {
            "image": tfds.features.Image(shape=(size, size, 3)),
            "label": tfds.features.ClassLabel(names=shapes.CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=shapes.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[object]]:
        train, validation = dl_manager.download(list(shapes.ARCHIVES))
        return {
            "train": self._generate_examples(dl_manager.iter_archive(train)),
            "validation": self._generate_examples(dl_manager.iter_archive(validation)),
        }


BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
    cls.name: cls for cls in (Official, Unverified, Shapes)
}


class LocalArchives(tfds.download.DownloadManager):
    """A download manager that returns, for each URL, the local file of the same name."""

    def __init__(self, paths: Mapping[str, StrPath], download_dir: StrPath) -> None:
        super().__init__(download_dir=download_dir)
        self._paths = paths

    @property
    def downloaded_size(self) -> int:
        """The bytes of the archives, which TFDS records as the download size."""
        return sum(Path(path).stat().st_size for path in self._paths.values())

    def download(self, urls: list[str]) -> list[Path]:
        """Returns the local path for each URL; the builders here always pass a list."""
        return [Path(self._paths[Path(urlsplit(url).path).name]) for url in urls]


def builder_of(name: str, image_size: int, data_dir: StrPath) -> tfds.core.GeneratorBasedBuilder:
    """Returns the builder `name` (a key of BUILDERS) for one image size, prepared or not."""
    return BUILDERS[name](config=f"{image_size}x{image_size}", data_dir=str(data_dir))


def build(
    builder: tfds.core.GeneratorBasedBuilder,
    paths: Mapping[str, StrPath] | None = None,
    *,
    total: int | None = None,
    overwrite: bool = False,
    progress: PackProgress | None = None,
) -> None:
    """Lets `builder` write its TFRecords, from local or downloaded archives.

    An interrupted build does not count as prepared; the next call starts it again.

    Args:
        builder: from `builder_of`.
        paths: {file name: local path} of the archives; None lets TFDS download them.
        total: number of images in all splits together, for `progress`.
        overwrite: whether to build a prepared data set again.
        progress: called as `progress(description, done, total)`, in images, if `paths` is given;
            TFDS shows its own progress bars for downloads.

    Raises:
        UserError: the download failed, or an archive could not be read.
        RunFailed: the disk is full.
    """
    if paths is None:
        _check_downloads(builder)
    else:
        _use_archives(builder, paths)
        if progress:
            _report_progress(builder, total or 0, progress)
    modes = tfds.GenerateMode
    config = tfds.download.DownloadConfig(
        try_download_gcs=False,  # a ready-made copy would come without the archives' checksums
        download_mode=modes.REUSE_CACHE_IF_EXISTS if overwrite else modes.REUSE_DATASET_IF_EXISTS,
    )
    hide_bars = progress is not None and paths is not None
    try:
        with (
            tfds_private.progress_bars_off(hide_bars),
            contextlib.redirect_stdout(io.StringIO()),  # TFDS prints messages
            limit_downloads(),
        ):
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS passes on the errors of many libraries
        cause = f"{type(error).__name__}: {reason(error)}"
        if os.strerror(errno.ENOSPC) in str(error):
            raise RunFailed(
                f"building {builder.name} in {builder.data_path} failed ({cause}); free some "
                "space and run the same command again"
            ) from error
        if paths is not None:
            files = ", ".join(map(str, paths.values()))
            raise UserError(f"building {builder.name} from {files} failed: {cause}") from error
        raise _download_error(builder, cause) from error


def _use_archives(builder: tfds.core.GeneratorBasedBuilder, paths: Mapping[str, StrPath]) -> None:
    downloads = builder.data_dir_root / "downloads"
    tfds_private.set_download_manager(
        builder, lambda download_dir: LocalArchives(paths, download_dir or downloads)
    )


def _report_progress(
    builder: tfds.core.GeneratorBasedBuilder, total: int, progress: PackProgress
) -> None:
    """Calls `progress` every READ_BATCH images, and at the end."""

    def report(done: int) -> None:
        if done % READ_BATCH == 0 or done == total:
            progress(f"building {builder.name}", done, total)

    tfds_private.count_examples(builder, report)


@dataclass(frozen=True)
class _RemoteArchive:
    """An archive that TFDS downloads, as its table of checksums describes it."""

    url: str
    file_name: str
    bytes: int
    checksum: str


def _remote_archives(builder: tfds.core.GeneratorBasedBuilder) -> list[_RemoteArchive]:
    """Returns the archives of the builder's image size."""
    prefix = f"Imagenet{builder.builder_config.size}_"
    return [
        _RemoteArchive(url, info.filename, info.size, info.checksum)
        for url, info in Official.url_infos.items()
        if info.filename.startswith(prefix)
    ]


def _check_downloads(builder: tfds.core.GeneratorBasedBuilder) -> None:
    """Refuses a download that the server does not offer; local archives need no request.

    Raises:
        UserError: states the reason, and the archives to download by hand.
    """
    missing = [a for a in _remote_archives(builder) if not _is_present(builder, a)]
    obstacle = unavailable_reason({archive.url: archive.bytes for archive in missing})
    if obstacle:
        raise _download_error(builder, obstacle)


def _is_present(builder: tfds.core.GeneratorBasedBuilder, archive: _RemoteArchive) -> bool:
    """Returns whether TFDS has downloaded an archive, or a user has put it where TFDS looks."""
    downloads = Path(builder.data_dir_root) / "downloads"
    cached = tfds_private.cached_file_name(archive.url, archive.checksum)
    candidates = (
        downloads / "manual" / archive.file_name,
        downloads / cached,
        downloads / builder.name / cached,
    )
    return any(file.exists() for file in candidates)


def _download_error(builder: tfds.core.GeneratorBasedBuilder, cause: str) -> UserError:
    names = ", ".join(archive.file_name for archive in _remote_archives(builder))
    return UserError(
        f"{builder.info.full_name} cannot be downloaded ({cause}): get {names} from {PAGE}, "
        "which needs a login, and pass their folder with --source"
    )


def read(
    builder: tfds.core.GeneratorBasedBuilder, split: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of a prepared split in the order in which TFDS wrote it.

    Yields:
        (uint8 [B, s, s, 3], int64 labels [B] from 0), B at most READ_BATCH.

    Raises:
        UserError: a record is damaged.
    """
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(
        split=split, shuffle_files=False, as_supervised=True, read_config=config
    )
    try:
        yield from tfds.as_numpy(dataset.batch(READ_BATCH, num_parallel_calls=2).prefetch(2))
    except tf.errors.OpError as error:
        raise UserError(
            f"{builder.data_path} is damaged ({type(error).__name__} while reading {split}): "
            "delete that folder and prepare the data again"
        ) from error
