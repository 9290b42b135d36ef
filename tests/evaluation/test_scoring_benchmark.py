"""`benchmarks/scoring.py` on a small network: its line of figures, and mistakes in one sentence."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from toy_store import in_memory, random_images

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ("--set", "model.depth=8", "--image-size", "16", "--batch-size", "2", "--rounds", "2")
CPU = Devices("tensorflow", "cpu", ("CPU:0",))


@pytest.fixture
def scoring(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("scoring")


def call(*arguments):
    command = [sys.executable, str(BENCHMARKS / "scoring.py"), "wrn36_2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_side_gives_its_median_between_smallest_and_largest():
    done = call(*SMALL, "--side", "tensorflow")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = re.fullmatch(r"forward +tensorflow +([\d.]+) images/s \(([\d.]+) to ([\d.]+)\) *", line)
    assert found, line  # and no ratio, since PyTorch was not measured
    median, smallest, largest = map(float, found.groups())
    assert 0 < smallest <= median <= largest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "train.epochs=0", "--side", "jax"), "train.epochs"),
        (("--task", "predict", "--side", "jax"), "--data-dir"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, words):
    done = call(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and words in line


@pytest.mark.slow  # `test_rounds` has workers that end
def test_a_mistake_that_a_worker_finds_is_one_sentence():
    done = call("--set", "model.depth=7", "--side", "jax")  # a network of no such depth
    assert done.returncode == 2
    progress, line = done.stderr.splitlines()
    assert progress.startswith("starting jax ...")
    assert line.startswith("Error: ") and "model.depth" in line


def test_without_pytorch_the_other_sides_are_named(scoring, monkeypatch):
    monkeypatch.setattr(scoring, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        scoring.compare("wrn36_2", (), ("forward",), (), 1, {})
    assert str(error.value).endswith(
        "choose --side tensorflow or tensorflow-file or jax or jax-file"
    )


@pytest.mark.parametrize("side", ["tensorflow", "tensorflow-file"])
def test_predict_folds_as_its_side_says(scoring, monkeypatch, tmp_path, side):
    """The model's file and the images are there, and `predict` is called once for each count."""
    calls = []

    def predict(path, files, *, devices, fold):
        calls.append((path.is_file(), len(list(files.glob("*.jpg"))), devices, fold))

    store = in_memory(*random_images(3), dataset="tiny_imagenet")
    monkeypatch.setattr("keras_imnet64.data.datasets.open_dataset", lambda *_, **__: store)
    monkeypatch.setattr("keras_imnet64.evaluation.predict.predict", predict)
    monkeypatch.setattr(scoring, "NUM_IMAGES", 3)
    monkeypatch.setattr("keras_imnet64.backend.devices.take_devices", lambda count: CPU)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(scoring.load_recipe("wrn36_2", ["model.depth=8"]).to_toml(), "utf-8")
    subject = scoring.Subject(str(recipe), 2, 16, 3, "a data folder")
    scoring.our_tasks(subject, side)["predict"](2)
    assert calls == [(True, 3, CPU, side == "tensorflow")] * 2


def test_images_that_would_be_counted_wrongly_are_refused(scoring, monkeypatch):
    store = in_memory(*random_images(3), dataset="tiny_imagenet")
    monkeypatch.setattr("keras_imnet64.data.datasets.open_dataset", lambda *_, **__: store)
    with pytest.raises(UserError, match=r"need the 10,000 validation images .* has 3: prepare"):
        scoring.whole_calls(None, "a data folder", CPU, True)


def test_programs_of_jax_are_not_kept_between_workers(scoring):
    environment = scoring.side_of("jax-file", "a folder").environment
    assert environment["KERAS_IMNET64_PROGRAMS_DIR"] == "off"
    assert environment["KERAS_BACKEND"] == "jax"
