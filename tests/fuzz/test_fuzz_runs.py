"""Run folders whose files are damaged: each works or is refused in one line."""

import json

import numpy as np
import pytest
from fuzzing import damage, fuzz, works_or_is_refused
from hypothesis import given

from keras_imnet64.core.validation import to_json
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.records import (
    Environment,
    FileScore,
    Metrics,
    PerSplit,
    ProcessEntry,
    RunState,
)
from keras_imnet64.runs import open_run
from keras_imnet64.training.state import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    state = {"model/kernel": np.arange(6, dtype="float32").reshape(2, 3), "step": np.int64(7)}
    return save_checkpoint(tmp_path_factory.mktemp("run"), state, RunState(epoch=1, step=0))


def test_damaged_checkpoints(checkpoint, tmp_path):
    """Not one bit may differ: weights that are nearly right would train on."""
    path, whole = tmp_path / checkpoint.name, checkpoint.read_bytes()

    @fuzz(300)
    @given(damage(whole))
    def try_one(content):
        path.write_bytes(content)
        loaded = works_or_is_refused(load_checkpoint, path)
        if loaded is not None:
            assert loaded.run_state == RunState(epoch=1, step=0) and loaded.arrays["step"] == 7
            assert loaded.arrays["model/kernel"].ravel().tolist() == [0, 1, 2, 3, 4, 5]

    try_one()


@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "recipe.toml", "history.csv"])
def test_damaged_files_of_a_run(name, tmp_path):
    score = FileScore(top1=1.0, top5=5.0, loss=4.6, count=100)
    metrics = Metrics(dataset="toy", split="validation", verified=True, model=score, best=score)
    environment = Environment(
        dataset="toy",
        verified=PerSplit(True, True),
        digest=PerSplit("a", "b"),
        processes=(ProcessEntry(0, 0, "jax", ("cpu:0",), "3.11", {"keras": "3.15"}),),
    )
    contents = {
        "metrics.json": json.dumps(to_json(metrics)).encode(),
        "environment.json": json.dumps(to_json(environment)).encode(),
        "recipe.toml": load_recipe("demo").to_toml().encode(),
        "history.csv": b"epoch,loss\n1,0.5\n",
    }
    read = {
        "metrics.json": lambda run: run.metrics["model.keras"],
        "environment.json": lambda run: run.environment["digest"]["train"],
        "recipe.toml": lambda run: load_recipe(run.recipe_file),
        "history.csv": lambda run: run.history,
    }[name]
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)

    @fuzz(80)
    @given(damage(contents[name]))
    def try_one(content):
        (tmp_path / name).write_bytes(content)
        works_or_is_refused(read, open_run(tmp_path))

    assert read(open_run(tmp_path))
    try_one()
