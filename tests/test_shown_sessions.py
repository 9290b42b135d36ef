"""The sessions that guides show have the keys that the commands print, as the first steps have.

`SITUATIONS` makes the one of each page: its files, and a network that is soon trained.
"""

import contextlib
import io
import os
import shutil
import signal
import sys

import documents
import first_steps as steps
import numpy as np
import pytest
from class_folders import drawn
from PIL import Image

from keras_imnet64.cli import main
from keras_imnet64.models import build_model
from keras_imnet64.models.ship import ship
from keras_imnet64.recipe import loading
from keras_imnet64.records import ModelInfo
from keras_imnet64.training.callbacks.progress_bar import ProgressBar

SESSIONS = {
    block.page: steps.session(block.text)
    for block in documents.blocks(documents.WRITTEN, "console")
    if block.page != str(steps.PAGE.relative_to(documents.ROOT))
}


def printed_by(command):
    """What a command of ours prints in this process, both streams in their order."""
    (arguments,) = filter(None, map(documents.our_arguments, documents.programs(command)))
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        contextlib.suppress(SystemExit),
    ):
        patch.setattr(sys, "argv", ["cli.py", *arguments])
        main()
    return printed.getvalue()


def images_of_two_classes(tmp_path, monkeypatch, request):
    """One file is cut short; the validation images are training images too."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    train, val = tmp_path / "PETS" / "train", tmp_path / "PETS" / "val"
    for label, name in enumerate(("block", "disc")):
        (train / name).mkdir(parents=True)
        (val / name).mkdir(parents=True)
        for number in range(6):
            drawn(40, 50, 10 * label + number).save(train / name / f"{number}.jpg")
        for number in range(4):
            shutil.copy(train / name / f"{number}.jpg", val / name)
    whole = (train / "disc" / "5.jpg").read_bytes()
    (train / "disc" / "bad.jpg").write_bytes(whole[: 2 * len(whole) // 3])
    (train / "disc" / "notes.txt").write_text("round")


def a_run_that_is_stopped(tmp_path, monkeypatch, request):
    """By SIGTERM in the first step of the second epoch; its network has a single block."""
    data_dir = request.getfixturevalue("shapes_dir")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    small = request.getfixturevalue("small_recipe")(
        name="demo", data={"dataset": "shapes", "steps_per_epoch": 3}
    )
    recipe = tmp_path / "demo.toml"
    recipe.write_text(small.to_toml())
    find = loading.find_recipe
    monkeypatch.setattr(
        loading, "find_recipe", lambda name: recipe if name == "demo" else find(name)
    )
    begin = ProgressBar.begin

    def begin_and_stop(bar, epoch, step):
        begin(bar, epoch, step)
        if (epoch, step) == (1, 0):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ProgressBar, "begin", begin_and_stop)


def a_model_of_three_classes(tmp_path, monkeypatch, request):
    """With the file that the page names, in the place of the data set's."""
    network = build_model("wide_resnet", image_size=16, num_classes=3, depth=6, width=0.5, stages=1)
    info = ModelInfo(("n1", "n2", "n3"), ("one", "two", "three"), dataset="tiny_imagenet")
    model = tmp_path / "saved_models" / "tiny20_wrn-tensorflow" / "model.keras"
    model.parent.mkdir(parents=True)
    (model.parent / "recipe.toml").touch()  # so that it is a run folder
    ship(network, model, info)
    image = tmp_path / "tiny-imagenet-200" / "val" / "images" / "val_1230.JPEG"
    image.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64, 3), "uint8")).save(image)


SITUATIONS = {
    "docs/guides/own-images.md": images_of_two_classes,
    "docs/guides/resume.md": a_run_that_is_stopped,
    "docs/guides/serving.md": a_model_of_three_classes,
}


@pytest.mark.parametrize("page", SESSIONS)
def test_sessions_have_the_keys_that_are_printed(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    SITUATIONS[page](tmp_path, monkeypatch, request)
    for command, shown in SESSIONS[page]:
        printed = printed_by(command)
        assert steps.shows(shown, printed), f"{command}\n{shown}\nis printed as\n{printed}"


def test_every_session_is_compared():
    assert SESSIONS.keys() == SITUATIONS.keys()
    consoles = documents.blocks(documents.WRITTEN, "console")
    assert len(consoles) == len(SESSIONS) + 1  # a page has one
