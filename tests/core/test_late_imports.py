"""Imports that are put off: only what is used is imported, and then it is what it always was."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from keras_imnet64.core.late_imports import put_off

NAMES = ("late", "late.part", "late.double")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `late` that nobody has imported."""
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "__init__.py").write_text("def double(x, plus=0): return 2 * x + plus\n")
    (tmp_path / "late" / "part.py").write_text("VALUE = 3\n")
    (tmp_path / "reader.py").write_text(
        "import late.part as part\nfrom late import double\nimport late\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("late", "late.part", "reader"):
        sys.modules.pop(name, None)


def test_what_reads_a_module_later_gets_what_is_in_it(package):
    with put_off(NAMES):
        reader = importlib.import_module("reader")
    assert "late" not in sys.modules and "late.part" not in sys.modules
    assert reader.double(4, plus=1) == 9
    assert reader.part.VALUE == 3 and reader.late.part.VALUE == 3
    assert sys.modules["late"] is not reader.late
    with pytest.raises(AttributeError, match="missing"):
        _ = reader.late.missing


def test_what_is_used_at_once_is_imported_at_once(package):
    with put_off(NAMES):
        import late.part

        assert late.part.VALUE == 3
        real = sys.modules["late.part"]
        assert real.__file__.endswith("part.py")
    assert sys.modules["late.part"] is real


def test_a_package_that_was_imported_already_stays(package):
    imported = importlib.import_module("late")
    with put_off(NAMES):
        assert importlib.import_module("late") is imported
        assert importlib.import_module("late.part").VALUE == 3
    assert sys.modules["late"] is imported


def test_an_error_in_the_block_leaves_nothing_behind(package):
    with pytest.raises(OSError, match="disk"), put_off(NAMES):
        raise OSError("disk")
    assert importlib.import_module("late").double(1) == 2


TENSORFLOW = pytest.param("tensorflow", marks=pytest.mark.slow)  # as without any choice


@pytest.mark.parametrize("backend", [None, TENSORFLOW, "jax"])
def test_tensorflow_comes_without_jax_and_matplotlib_which_work_all_the_same(tmp_path, backend):
    """Unless JAX is the backend, here by keras.json; without any choice it is TensorFlow."""
    code = """
import json, sys
from keras_imnet64.backend.loading import import_tensorflow
import_tensorflow()
loaded = [name for name in ("jax", "matplotlib", "matplotlib.pyplot") if name in sys.modules]
import matplotlib
matplotlib.use("Agg")
import keras, numpy
images = numpy.zeros((4, 8, 8, 3))
keras.visualization.plot_image_gallery(images, rows=2, cols=2, path=sys.argv[1], show=False)
from tensorflow.lite.python import util
print(json.dumps([loaded, float(util._jit(lambda x: x + 1)(2.0))]))
"""
    picture = tmp_path / "gallery.png"
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    if backend:
        (tmp_path / "keras.json").write_text(json.dumps({"backend": backend}))
    done = subprocess.run(
        [sys.executable, "-c", code, picture],
        env=environment | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [["jax"] if backend == "jax" else [], 3.0]
    assert picture.read_bytes().startswith(b"\x89PNG")
