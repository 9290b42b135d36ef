"""No module but `tfds_private` uses private parts of TFDS, and these still do what it promises."""

import ast
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.utils import tqdm_utils

import keras_imnet64
from keras_imnet64.data.sources import tfds_private

PACKAGE = Path(keras_imnet64.__file__).parent
PRIVATE = PACKAGE / "data" / "sources" / "tfds_private.py"
TFDS = "tensorflow_datasets"


def private_uses(source):
    """Private parts of TFDS that a module uses: modules below TFDS, and names with an underscore.

    Names of `self`, `cls` and `super()` are those of a subclass, which TFDS documents.
    """
    tree = ast.parse(source)
    modules, names = [], []
    uses_tfds = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            imported = []
        of_tfds = [name for name in imported if name.split(".")[0] == TFDS]
        uses_tfds = uses_tfds or bool(of_tfds)
        modules += [name for name in of_tfds if name != TFDS]
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            owner = ast.unparse(node.value)
            if not node.attr.startswith("__") and owner not in ("self", "cls", "super()"):
                names.append(f"{owner}.{node.attr}")
    return sorted({*modules, *(names if uses_tfds else [])})


def test_private_parts_are_used_in_one_module():
    uses = {
        file.relative_to(PACKAGE).as_posix(): private_uses(file.read_text())
        for file in sorted(PACKAGE.rglob("*.py"))
        if file != PRIVATE
    }
    assert len(uses) > 50
    assert {file: names for file, names in uses.items() if names} == {}


def test_the_one_module_uses_these():
    """A new name needs a reason in `tfds_private`, and what would replace it."""
    assert private_uses(PRIVATE.read_text()) == [
        "builder._generate_examples",
        "builder._make_download_manager",
        "downloader._open_with_requests",
        "tensorflow_datasets.core.download.downloader",
        "tensorflow_datasets.core.download.resource.get_dl_fname",
        "tensorflow_datasets.core.utils.tqdm_utils",
        "tqdm_utils._active",
    ]


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("import tensorflow_datasets as tfds\ntfds.load('mnist')", []),
        ("import tensorflow_datasets as tfds\nbuilder._info()", ["builder._info"]),
        ("def f():\n    from tensorflow_datasets.core import load", [f"{TFDS}.core.load"]),
        ("import tensorflow_datasets as tfds\nself._info(), cls._x, super()._info()", []),
        ("import pathlib\npathlib._os", []),
    ],
)
def test_a_private_use_is_found(source, uses):
    assert private_uses(source) == uses


def test_settings_are_restored_after_an_error():
    before = tqdm_utils._active, downloader._open_with_requests, downloader.MAX_RETRIES
    with (
        pytest.raises(KeyError),
        tfds_private.progress_bars_off(enabled=True),
        tfds_private.download_limits(timeout_seconds=1, max_retries=3),
    ):
        assert not tqdm_utils._active and downloader.MAX_RETRIES == 3
        raise KeyError
    assert (tqdm_utils._active, downloader._open_with_requests, downloader.MAX_RETRIES) == before


@pytest.mark.parametrize("active", [True, False])
def test_progress_bars_stay_as_the_process_had_them(active):
    tfds.display_progress_bar(active)
    try:
        with tfds_private.progress_bars_off(enabled=False):
            assert tqdm_utils._active == active
        assert tqdm_utils._active == active
    finally:
        tfds.enable_progress_bar()


def test_package_files_are_found():
    file = tfds_private.package_file("datasets/imagenet_resized/checksums.tsv")
    assert "Imagenet64_train_part1_npz.zip" in file.read_text()
