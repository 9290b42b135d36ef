"""The only module that uses private parts of TensorFlow Datasets (TFDS), with a reason for each.

A new version of TFDS may change these parts without notice. `test_tfds_private.py` keeps the rest
of the package free of them. TFDS is imported late, because its import takes seconds and
`package_file` serves commands that never load it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def package_file(relative: str) -> Path:
    """Returns the path of a file in the TFDS package.

    Needed to read TFDS' tables of checksums, labels and class names without importing TFDS. A
    public function that finds these files, or copies of them in this package, would replace this.
    """
    spec = importlib.util.find_spec("tensorflow_datasets")
    assert spec is not None and spec.submodule_search_locations is not None  # a dependency
    return Path(spec.submodule_search_locations[0]) / relative


def cached_file_name(url: str, checksum: str) -> str:
    """Returns the name that TFDS gives a downloaded file.

    Needed to know which archives TFDS has downloaded already, before a request to a server. A
    public query of TFDS' download cache would replace this.
    """
    from tensorflow_datasets.core.download.resource import get_dl_fname

    return get_dl_fname(url, checksum)


def set_download_manager(
    builder: tfds.core.GeneratorBasedBuilder,
    make: Callable[[str | None], tfds.download.DownloadManager],
) -> None:
    """Makes a builder use the download manager `make(download_dir)`.

    Needed to build from local archives, unverified ones included: TFDS' own `manual_dir` accepts
    only files with the published checksums. A `download_manager` argument of
    `download_and_prepare` would replace it.
    """
    builder._make_download_manager = lambda download_dir, **_: make(download_dir)


def count_examples(
    builder: tfds.core.GeneratorBasedBuilder, on_count: Callable[[int], None]
) -> None:
    """Makes a builder call `on_count(examples so far)` before each example, over all splits.

    Needed because TFDS shows the progress of a build only in its own bars. A progress callback of
    `download_and_prepare` would replace it.
    """
    generate, count = builder._generate_examples, 0

    def generate_and_count(archive: object) -> Iterator[object]:
        nonlocal count
        for example in generate(archive):
            count += 1
            on_count(count)
            yield example

    builder._generate_examples = generate_and_count


@contextlib.contextmanager
def progress_bars_off(enabled: bool) -> Iterator[None]:
    """Hides TFDS' progress bars if `enabled`, and restores the previous setting at the end.

    TFDS has a public setter but no public getter, which would replace the private variable.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import tqdm_utils

    before = tqdm_utils._active
    tfds.display_progress_bar(before and not enabled)
    try:
        yield
    finally:
        tfds.display_progress_bar(before)


@contextlib.contextmanager
def download_limits(*, timeout_seconds: float, max_retries: int) -> Iterator[None]:
    """Makes TFDS' downloads fail after `timeout_seconds` without data and `max_retries` retries.

    Needed because TFDS waits without limit for a silent server and retries ten times. A timeout
    and a number of retries in `tfds.download.DownloadConfig` would replace it.
    """
    from tensorflow_datasets.core.download import downloader

    before = downloader._open_with_requests, downloader.MAX_RETRIES
    downloader._open_with_requests = functools.partial(before[0], timeout=timeout_seconds)
    downloader.MAX_RETRIES = max_retries
    try:
        yield
    finally:
        downloader._open_with_requests, downloader.MAX_RETRIES = before
