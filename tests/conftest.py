"""The suite runs under TensorFlow; test_backends.py runs those marked `backend` under JAX too."""

import gc
import importlib
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What costs most under JAX is compiling, so XLA gives machine code less thought: the programs are
# the same, and what a user's XLA makes of them is asked where programs are kept (test_programs).
# Each program is kept in a folder of this run's own, as the product keeps them: the workers and
# the children share the folder of the process that began the run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:
    PROGRAMS = tempfile.TemporaryDirectory(prefix="programs-")
    os.environ["KERAS_IMNET64_PROGRAMS_DIR"] = PROGRAMS.name

gc.set_threshold(50_000, 10, 10)  # TensorFlow's million objects cost time at each look for cycles

sys.argv[0] = "cli.py"  # messages name the program as its users have started it

import numpy as np
import pytest

from keras_imnet64.backend.programs import keep_jax_programs
from keras_imnet64.cli import main
from keras_imnet64.data.sources import shapes
from keras_imnet64.data.stores.packing import write_store
from keras_imnet64.recipe.loading import check_recipe

if os.environ["KERAS_BACKEND"] == "jax":
    keep_jax_programs()  # for tests that take no devices, as commands do

ON_MACOS = sys.platform == "darwin"  # whose file system takes names in UTF-8 only
WNIDS = [f"n{number:08}" for number in range(30, 20, -1)]  # as in ImageNet64, not in sorted order

SPECTRAL = {  # a model for `small_recipe`
    "name": "spectral",
    "factor": 2,
    "band": "all",
    "normalization": "dataset",
    "base": {"name": "wide_resnet", "depth": 6, "width": 0.5},
}


def learnable_images(count, size, seed):
    """Images of 10 classes told apart by the brightness of their halves, with noise."""
    labels = np.arange(count) % 10
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, size, size, 3))
    images[:, : size // 2] += (labels * 20)[:, None, None, None]
    return images.astype("uint8"), labels


def write_images(data_dir, size=16, train=96, validation=40, wnids=WNIDS):
    """Stand-in stores for imagenet_resized, in the place of unverified data."""
    for seed, (split, count) in enumerate({"train": train, "validation": validation}.items()):
        folder = data_dir / "packed" / f"imagenet_resized_{size}x{size}-unverified" / split
        write_store(
            folder,
            [learnable_images(count, size, seed)],
            dataset=f"imagenet_resized/{size}x{size}",
            split=split,
            count=count,
            image_size=size,
            wnids=wnids,
            class_names=[f"class {wnid[-2:]}" for wnid in wnids],
            source="drawn by the tests",
            verified=False,
        )
    return data_dir


def png_that_claims(width, height):
    """A PNG of a few bytes whose header states a size."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def child_under(backend, *arguments):
    """(exit status, the end of what it printed) of a child pytest under another backend."""
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider"]
        + [str(argument) for argument in arguments],
        env=os.environ | {"KERAS_BACKEND": backend},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return child.returncode, child.stdout[-20_000:]


# Files in which the tests take longest begin first, so that none is left for a worker at the end.
FIRST = (
    "test_backends.py",
    "test_first_steps.py",
    "test_interruption.py",
    "test_shipped_recipes.py",
    "test_ensemble.py",
    "test_parallel.py",
    "test_branches.py",
    "test_machines.py",
    "test_compare.py",
)


def pytest_collection_modifyitems(items):
    """The order in which workers take files, which xdist hands out as they come."""
    ranks = {name: rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder with 96 + 40 images of 16 pixels in 10 classes."""
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory):
    """A data folder with the drawn shapes, 4,000 + 1,000 images of 64 pixels.

    They are drawn into stores; `data prepare` writes archives and TFRecords before.
    """
    folder = tmp_path_factory.mktemp("shapes")
    for split in ("train", "validation"):
        images, labels = shapes.draw(split)
        write_store(
            folder / "packed" / "shapes" / split,
            [(images, labels)],
            dataset="shapes",
            split=split,
            count=len(labels),
            image_size=shapes.IMAGE_SIZE,
            wnids=shapes.CLASSES,
            class_names=shapes.CLASSES,
            source="drawn by the tests",
            verified=True,
        )
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """run("data", "info", "shapes") -> (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cli.py", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


@pytest.fixture
def slim(monkeypatch):
    """Networks of few blocks and narrow dense layers, so that a step compiles in seconds."""
    from keras_imnet64.models import alexnet, davit, resnet, vgg

    monkeypatch.setitem(davit.VARIANTS, "davit_tiny", davit.Variant(32, (1, 1, 1, 1)))
    for name, variant in resnet.VARIANTS.items():
        monkeypatch.setitem(resnet.VARIANTS, name, replace(variant, blocks=(1, 1, 1, 1), width=1))
    for family in (alexnet, vgg):
        monkeypatch.setattr(family, "DENSE_WIDTH", 64)


@pytest.fixture
def undrawn(monkeypatch):
    """Keras draws no initial weights: a run has its own, and JAX is slow at it."""
    from keras import initializers, ops

    for kind in (
        initializers.VarianceScaling,
        initializers.RandomNormal,
        initializers.RandomUniform,
    ):
        monkeypatch.setattr(
            kind, "__call__", lambda self, shape, dtype=None, **_: ops.zeros(shape, dtype)
        )


@pytest.fixture
def slimmer(slim, undrawn, monkeypatch):
    """Of two stages or five convolutions, with few channels, and Keras draws no initial weights.

    XLA computes convolutions slowly where it compiles without its optimisations.
    """
    from keras_imnet64.models import davit, resnet, tiny_cnn, vgg

    convolve = tiny_cnn.conv_bn_relu
    monkeypatch.setattr(
        tiny_cnn, "conv_bn_relu", lambda x, n, *rest, **size: convolve(x, n // 8, *rest, **size)
    )
    monkeypatch.setattr(resnet, "CHANNELS", 16)
    monkeypatch.setattr(vgg, "STAGES", tuple((filters, 1) for filters in (16, 16, 24, 24, 32)))
    monkeypatch.setitem(davit.VARIANTS, "davit_tiny", davit.Variant(32, (1, 1)))
    for name, variant in resnet.VARIANTS.items():
        monkeypatch.setitem(resnet.VARIANTS, name, replace(variant, blocks=(1, 1)))


@pytest.fixture(scope="session")
def small_recipe():
    """A recipe of 3 epochs of 6 steps at 16 pixels; sections are merged into its own.

    Its network has a single block, so that a step compiles fast: most questions are about runs.
    """

    def make(**sections):
        content = {
            "name": "small",
            "model": {
                "name": "wide_resnet",
                "depth": 6,
                "stages": 1,
                "width": 0.5,
                "normalization": "dataset",
            },
            "data": {"dataset": "imagenet_resized/16x16", "batch_size": 16},
            "augment": [{"op": "pad_crop", "padding": 2, "fill": "mean"}],
            "loss": {"l2": 1e-4},
            "optimizer": {"name": "sgd", "learning_rate": 0.05},
            "schedule": {"name": "cosine"},
            "train": {"epochs": 3},
        }
        for name, values in sections.items():
            other = name == "model" and "name" in values  # whose options are its own
            merged = isinstance(values, dict) and not other
            content[name] = content.get(name, {}) | values if merged else values
        return check_recipe(content)

    return make


@pytest.fixture(scope="session")
def peer_torch():
    """The module torch, ready for timm; skips the test where it is not installed."""
    torch = pytest.importorskip("torch")
    library = None
    try:
        importlib.import_module("torchvision")  # which timm imports
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:  # a build without its compiled operators
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield torch
    del library
