"""Downsampled ImageNet through TFDS' own builder, and what else is read by the same code.

Three builders share one `_generate_examples`: TFDS' `imagenet_resized`, which reads the published
archives and nothing else; `imagenet_resized_unverified` for other archives in that layout; `shapes`
for the drawn images. What TFDS writes under the first name is ImageNet to every program on the
machine, hence the names. Importing this module imports TensorFlow Datasets.
"""

import contextlib
import errno
import io
import os
from pathlib import Path
from urllib.parse import urlsplit

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.resource import get_dl_fname
from tensorflow_datasets.core.utils import tqdm_utils
from tensorflow_datasets.datasets.imagenet_resized import imagenet_resized_dataset_builder

from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.data.sources import shapes
from keras_imnet64.data.sources.downloads import impatient_downloads, why_not_offered

PAGE = "https://image-net.org/download-images"
READ_BATCH = 512  # images
Official = imagenet_resized_dataset_builder.Builder
Config = imagenet_resized_dataset_builder.ImagenetResizedConfig


class Unverified(Official, skip_registration=True):
    """Images in the layout of `imagenet_resized` that are not known to be ImageNet."""

    name = "imagenet_resized_unverified"


class Shapes(Official, skip_registration=True):
    """The drawn images of `sources.shapes`, as archives in the layout of `imagenet_resized`."""

    name = "shapes"
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS' own convention)
        Config(name=f"{shapes.IMAGE_SIZE}x{shapes.IMAGE_SIZE}", size=shapes.IMAGE_SIZE)
    ]

    def _info(self):
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

    def _split_generators(self, dl_manager):
        train, validation = dl_manager.download(list(shapes.ARCHIVES))
        return {
            "train": self._generate_examples(dl_manager.iter_archive(train)),
            "validation": self._generate_examples(dl_manager.iter_archive(validation)),
        }


BUILDERS = {cls.name: cls for cls in (Official, Unverified, Shapes)}


class LocalArchives(tfds.download.DownloadManager):
    """A download manager that answers each URL with the local file of that name."""

    def __init__(self, paths, download_dir):
        super().__init__(download_dir=download_dir)
        self._paths = paths

    @property
    def downloaded_size(self):
        """What TFDS notes as the download size: the archives' bytes."""
        return sum(Path(path).stat().st_size for path in self._paths.values())

    def download(self, urls):
        """The local path for each URL of a list, which is what these builders pass."""
        return [Path(self._paths[Path(urlsplit(url).path).name]) for url in urls]


def builder_of(name, image_size, data_dir):
    """The builder `name` (a key of BUILDERS) at one image size, prepared or not."""
    return BUILDERS[name](config=f"{image_size}x{image_size}", data_dir=str(data_dir))


def build(builder, paths=None, *, total=None, overwrite=False, progress=None):
    """Let `builder` write its TFRecords, from local archives or by downloading them.

    A build that was interrupted leaves nothing that counts as prepared, and is simply done again.

    Args:
        builder: from `builder_of`.
        paths: file name -> local path of each archive; None lets TFDS download.
        total: images of all splits together, for the progress.
        overwrite: build anew what is prepared already.
        progress: called as `progress(description, done, total)`.

    Raises:
        UserError: the download failed, or an archive could not be read.
        RunFailed: the disk is full.
    """
    if paths is not None:
        builder._make_download_manager = lambda download_dir, **_: LocalArchives(
            paths, download_dir or builder.data_dir_root / "downloads"
        )
    ours = progress is not None and paths is not None  # a download shows TFDS' own bars
    if ours:
        builder._generate_examples = _counted(builder, total, progress)
    if paths is None:
        _check_downloads(builder)
    modes = tfds.GenerateMode
    config = tfds.download.DownloadConfig(
        try_download_gcs=False,  # a ready-made copy would come without the archives' checksums
        download_mode=modes.REUSE_CACHE_IF_EXISTS if overwrite else modes.REUSE_DATASET_IF_EXISTS,
    )
    try:
        with _quiet(enabled=ours), impatient_downloads():
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS raises what its many parts raise
        why = f"{type(error).__name__}: {reason(error)}"
        if os.strerror(errno.ENOSPC) in str(error):
            raise RunFailed(
                f"building {builder.name} in {builder.data_path} broke off ({why}); free some "
                "space and run the same command again"
            ) from error
        if paths is not None:
            files = ", ".join(map(str, paths.values()))
            raise UserError(f"building {builder.name} from {files} failed: {why}") from error
        raise _no_download(builder, why) from error


def _check_downloads(builder):
    """Refuse a download that the server does not offer; what is here already is not asked for."""
    archives = _archives(builder).items()
    missing = {url: archive.size for url, archive in archives if not _is_here(builder, url)}
    why = why_not_offered(missing)
    if why:
        raise _no_download(builder, why)


def _is_here(builder, url):
    """Whether TFDS has downloaded an archive before, or somebody has put it where TFDS looks."""
    archive, downloads = Official.url_infos[url], Path(builder.data_dir_root) / "downloads"
    cached = get_dl_fname(url, archive.checksum)
    places = (downloads / "manual" / archive.filename, downloads / cached)
    return any(file.exists() for file in (*places, downloads / builder.name / cached))


def _archives(builder):
    """{url: size, checksum and filename} of the archives of the builder's image size."""
    first = f"Imagenet{builder.builder_config.size}_"
    return {u: a for u, a in Official.url_infos.items() if a.filename.startswith(first)}


def _no_download(builder, why):
    names = ", ".join(archive.filename for archive in _archives(builder).values())
    return UserError(
        f"{builder.info.full_name} cannot be downloaded here ({why}): fetch {names} from {PAGE}, "
        "which gives them after a login, and pass their folder with --source"
    )


def _counted(builder, total, progress):
    """`builder._generate_examples` with a progress call every so often, over all its splits."""
    generate, done = builder._generate_examples, 0

    def counted(archive):
        nonlocal done
        for example in generate(archive):
            done += 1
            if done % READ_BATCH == 0 or done == total:
                progress(f"building {builder.name}", done, total)
            yield example

    return counted


@contextlib.contextmanager
def _quiet(enabled):
    """Keep TFDS' messages off the screen, and its bars where our own is drawn."""
    bars = tqdm_utils._active
    tqdm_utils.display_progress_bar(bars and not enabled)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(bars)


def read(builder, split):
    """Batches of a prepared split in the order in which TFDS wrote it.

    Yields:
        (uint8 [B, s, s, 3], int64 labels [B] from 0), B at most 512.

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
