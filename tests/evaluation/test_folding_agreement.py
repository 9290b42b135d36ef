"""`benchmarks/folding_agreement.py` on a small model: what it counts, and what it refuses."""

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from toy_store import in_memory

from keras_imnet64 import build_model
from keras_imnet64.models.ship import write_model_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = 16


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """compare(changed=2) -> what the script does where folding changes the class of two images."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    folding_agreement = import_module("folding_agreement")
    images = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE, 3), "uint8")
    store = in_memory(images, np.arange(7) % 3, dataset="tiny_imagenet")
    monkeypatch.setattr("keras_imnet64.data.datasets.open_dataset", lambda *_, **__: store)
    path = tmp_path / "model.keras"

    def run(image_size=SIZE, depth=8, changed=0):
        model = build_model(
            "wide_resnet", depth=depth, width=0.5, image_size=image_size, num_classes=10
        )
        write_model_file(model, path, {"image_size": image_size})
        if changed:
            from keras_imnet64.evaluation import forward

            right = forward.compile_forward
            wrong = changing(right, images[:changed])
            monkeypatch.setattr(forward, "compile_forward", wrong)
        return CliRunner().invoke(folding_agreement.main, [str(path), "--batch-size", "3"])

    return run


def changing(compile_forward, images):
    """Compiled passes that take the least likely class of some images for the likeliest."""

    def compiled(model, devices):
        right = compile_forward(model, devices)

        def forward(pixels):
            logits = right(pixels).copy()
            for row, image in zip(logits, pixels, strict=True):
                if any(np.array_equal(image, other) for other in images):
                    row[row.argmin()] = row.max() + 100
            return logits

        return forward

    return compiled


@pytest.mark.parametrize("changed", [0, 2])
def test_images_whose_classes_differ_are_counted(compare, changed):
    done = compare(changed=changed)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("7 images, ")
    words = r"likeliest class differs for (\d), the five likeliest or their order for (\d);"
    assert re.search(words, done.stdout).groups() == (str(changed),) * 2
    largest = float(re.search(r"differ by at most (\S+)", done.stdout)[1])
    assert largest > 50 if changed else largest < 1e-4


def test_a_model_of_another_size_is_refused_in_one_sentence(compare):
    done = compare(image_size=2 * SIZE, depth=10)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and line.endswith(
        "takes images of 32 x 32: give a model for the 16 x 16 of tiny_imagenet"
    )
