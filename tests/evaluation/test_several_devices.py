"""Every command that predicts finds on two devices what it finds on one.

Each way to compute on several devices is asked at every run of the tests: images of a data set,
pictures of any number, and the gradients in a report. The other commands compute in these ways.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SPECTRAL
from on_devices import ask
from PIL import Image
from untrained_run import write_run

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.init import initialize
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.spectral.branches import branch_folder, branch_recipe

pytestmark = pytest.mark.backend
ROOT = Path(__file__).parents[2]
ONE_OF_EACH_WAY = ("evaluate", "predict", "report")
OTHERS = pytest.param(("embed", "compare", "ensemble"), marks=pytest.mark.slow)
CHILD = Path(__file__).with_name("on_devices.py")


def write_inputs(folder, small_recipe, data_dir, names):
    """A run, two model files, branches of an ensemble, and three pictures.

    Two devices do not divide the pictures. Images of the data set are scored in views too.
    """
    run = write_run(folder / "run", small_recipe(data={"holdout": 16}), 0, data_dir)
    model, info = load_model(run / "model.keras"), read_model_info(run / "model.keras")
    ship(model, folder / "model.keras", replace(info, views="shift"))
    (folder / "pictures").mkdir()
    for level in (10, 90, 200):
        Image.new("L", (20, 9), level).save(folder / "pictures" / f"{level}.png")
    (folder / "branches").mkdir()
    if "ensemble" not in names:
        return
    initialize(model, 1)
    ship(model, folder / "other.keras", info)
    spectral = small_recipe(model=SPECTRAL, data={"holdout": 16})
    for band in (0, 1):
        branch = branch_folder(folder / "branches", band)
        write_run(branch, branch_recipe(spectral, band), band, data_dir)


@pytest.fixture(scope="module", params=[ONE_OF_EACH_WAY, OTHERS], ids=["each_way", "others"])
def found(request, small_recipe, data_dir, tmp_path_factory):
    """(what the commands return, the folder of their files) on one device and on two."""
    names = request.param
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, small_recipe, data_dir, names)
    outs = [tmp_path_factory.mktemp(f"on_{count}") for count in (1, 2)]
    for out in outs:
        shutil.copytree(folder / "branches", out / "branches")
    command = [sys.executable, CHILD, "2", folder, data_dir, outs[1], *names]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    one = json.loads(json.dumps(ask(take_devices(), folder, data_dir, outs[0], names)))
    output, _ = child.communicate()
    assert child.returncode == 0
    two = json.loads(output.splitlines()[-1])
    assert len(two.pop("devices")) == 2
    return (one, outs[0]), (two, outs[1])


def alike(one, two):
    """Whether plain values are the same, floats but for rounding; names of folders may differ."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(alike, one, two))
    if isinstance(one, str):
        return one.replace("on_1", "") == two.replace("on_2", "")
    if isinstance(one, float):
        return one == pytest.approx(two, rel=1e-4, abs=1e-4)
    return one == two


def test_two_devices_find_what_one_finds(found):
    (one, _), (two, _) = found
    assert one.keys() == two.keys()
    for command in one.keys() - {"report"}:
        assert alike(one[command], two[command]), (one[command], two[command])


def test_each_image_is_predicted_once(found):
    (one, first), (two, second) = found
    if "predict" in one:
        assert one["evaluate"]["count"] == 40 and len(two["predict"]["images"]) == 3
        tables = ["classes.csv", "predictions.csv"]
    else:
        assert one["compare"]["count"] == 40 and two["embed"]["images"] == 3
        features = [np.load(out / "features.npz")["features"] for out in (first, second)]
        np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)
        tables = ["branches/ensemble.csv"]
    for name in tables:
        rows = [(out / name).read_text().splitlines() for out in (first, second)]
        assert len(rows[0]) == len(rows[1]) and rows[0][0] == rows[1][0]


@pytest.mark.parametrize("found", [ONE_OF_EACH_WAY], indirect=True, ids=["each_way"])
def test_the_pages_have_the_same_figures_and_pictures(found):
    (_, first), (_, second) = found
    pages = [(out / "report.html").read_text() for out in (first, second)]
    figures = [re.findall(r"<div>([^<]*)<b>([^<]*)</b>", page) for page in pages]
    assert figures[0] == figures[1] and "calibration error" in dict(figures[0])
    pictures = [page.count('<img class="pixels"') for page in pages]
    assert pictures[0] == pictures[1] > 12
    assert all("Where it looks" in page and "Logits divided by" in page for page in pages)
