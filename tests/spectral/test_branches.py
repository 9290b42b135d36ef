"""All branches of a recipe by one command: apart, some at a time, again where one failed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SPECTRAL
from same_end import weights

from keras_imnet64.errors import UserError
from keras_imnet64.spectral import branches
from keras_imnet64.spectral.branches import folder_of, recipe_of, share_machine
from keras_imnet64.training.fit import fit

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def begin(data_dir, tmp_path):
    """begin(recipe, *options) -> a process of `fit` into tmp_path / "run"."""

    def begin(recipe, *options):
        file = tmp_path / "recipe.toml"
        file.write_text(recipe.to_toml())
        command = ["cli.py", "fit", "--recipe", file, "--data-dir", data_dir, "--json"]
        return subprocess.Popen(
            [sys.executable, *command, "--out", tmp_path / "run", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def test_all_are_trained_and_one_that_failed_again(small_recipe, data_dir, tmp_path, begin):
    recipe = small_recipe(model=SPECTRAL, train={"epochs": 1})
    (tmp_path / "run").mkdir()
    in_the_way = folder_of(tmp_path / "run", 2)
    in_the_way.touch()
    child = begin(recipe, "--jobs", "2")
    _, text = child.communicate()
    assert child.returncode == 1
    assert "1 of 4 branches failed (branch-02), the first of them so: the run folder" in text
    assert text.count(" started, process ") == 4 and text.count("  finished\n") == 3
    assert "branch-03  epoch 1  loss " in text
    alone = fit(recipe_of(recipe, 1), tmp_path / "alone", data_dir=data_dir)
    for a, b in zip(  # on one core each there, so not to the bit
        weights(alone.model), weights(folder_of(tmp_path / "run", 1) / "model.keras"), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)

    in_the_way.unlink()
    child = begin(recipe, "--jobs", "2")
    out, text = child.communicate()
    assert child.returncode == 0, text
    assert text.count("finished before") == 3 and text.count(" started, process ") == 1
    scores = json.loads(out)
    assert list(scores) == ["run", *(f"branch-{band:02}" for band in range(4))]

    other = small_recipe(model=SPECTRAL, train={"epochs": 2})
    child = begin(other)
    _, text = child.communicate()
    assert child.returncode == 2
    assert "branch-00 is a branch of another recipe (train.epochs: 1 -> 2)" in text


def test_a_signal_ends_all_with_their_states_saved(small_recipe, tmp_path, begin):
    recipe = small_recipe(model=SPECTRAL, train={"epochs": 10**6})
    child = begin(recipe, "--jobs", "2")
    folders = [folder_of(tmp_path / "run", band) for band in (0, 1)]
    while not all((folder / "history.csv").exists() for folder in folders):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, text = child.communicate(timeout=60)
    assert child.returncode == 75, text
    assert "the branches' states are saved" in text
    for number in text.split(" started, process ")[1:]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(number.split()[0]), 0)
    assert not folder_of(tmp_path / "run", 2).exists()


def test_devices_are_shared_out(monkeypatch):
    assert share_machine(1, "0,3").options == [["--devices", "0,3"]]
    assert share_machine(2, "0,1,2,5").options == [["--devices", "0,2,"], ["--devices", "1,5,"]]
    with pytest.raises(UserError, match="--jobs must be at most the 2 devices; received 3"):
        share_machine(3, "0,1")

    monkeypatch.setattr(branches, "which_devices", lambda devices: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4}, raising=False)
    shares = share_machine(2, None)
    assert shares.options == [[], []] and shares.cores == [{0, 2, 4}, {1, 3}]
