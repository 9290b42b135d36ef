"""Run folders that an earlier version wrote, see golden/make.py: they resume, and are read."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from same_end import weights

from keras_imnet64.evaluation.evaluate import evaluate
from keras_imnet64.models.info import model_info
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.records import BestEpoch, Plateau
from keras_imnet64.runs import Run
from keras_imnet64.training.fit import fit
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

GOLDEN = Path(__file__).parent / "golden"
STOPPED, FINISHED = Run(GOLDEN / "stopped"), Run(GOLDEN / "finished")


@pytest.mark.backend
def test_a_run_of_an_earlier_version_resumes(data_dir, tmp_path, capsys):
    """From step 3 of epoch 2 it comes to the end of its twin, but for another machine's bits.

    TensorFlow wrote both. JAX goes on from TensorFlow's checkpoint, and what it writes has the same
    layout, so that TensorFlow can go on again.
    """
    shutil.copytree(STOPPED.path, tmp_path / "run")
    run = fit(load_recipe(STOPPED.recipe_file), tmp_path / "run", data_dir=data_dir)
    assert "resuming from" in capsys.readouterr().err
    for row, expected in zip(run.history, FINISHED.history, strict=True):
        assert row.keys() == expected.keys() | {"training_seconds", "size"}
        assert row["training_seconds"] == ""  # nobody counted those of the first process
        for name in ("epoch", "step", "learning_rate", "loss", "val_loss"):
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-3)
    assert run.history[0] == STOPPED.history[0] | {"training_seconds": "", "size": ""}
    assert [row["size"] for row in run.history[1:]] == ["16", "16"]
    first, second = run.environment["processes"]
    assert first == STOPPED.environment["processes"][0] | {"num_processes": 1}
    assert (second["from_epoch"], second["from_step"]) == (1, 3)
    assert run.environment.keys() == FINISHED.environment.keys()
    assert run.metrics.keys() == FINISHED.metrics.keys() | {"training_seconds", "views"}
    assert run.metrics["training_seconds"] is None
    assert run.metrics["best.keras"].keys() == FINISHED.metrics["best.keras"].keys()
    layouts = [
        {path: (array.shape, array.dtype.kind) for path, array in arrays_of(each).items()}
        for each in (STOPPED, run)
    ]
    assert layouts[0] == layouts[1]  # integers have 32 bits under JAX
    for ours, theirs in zip(weights(run.model), weights(FINISHED.model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def arrays_of(run):
    return load_checkpoint(list_checkpoints(run.checkpoints)[-1]).arrays


def test_the_state_of_an_earlier_version_is_read():
    checkpoint = load_checkpoint(list_checkpoints(STOPPED.checkpoints)[-1])
    state = checkpoint.run_state
    assert (state.epoch, state.step, len(state.history)) == (1, 3, 1)
    assert state.best == BestEpoch(epoch=1, val_top1=12.5)
    assert state.plateau == Plateau(best=state.history[0].val_loss, wait=0, scale=1.0)
    assert state.recipe["optimizer.learning_rate"] == 0.05
    assert state.rollbacks == () and not state.stopped_early
    assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())


def test_a_finished_run_of_an_earlier_version_is_read(data_dir):
    metrics = FINISHED.read_metrics()
    assert metrics.model.top1 == FINISHED.metrics["model.keras"]["top1"] == 17.5
    assert (metrics.best.epoch, metrics.best.val_top1) == (3, 25.0)
    assert FINISHED.read_environment().processes[0].backend == "tensorflow"
    assert [row["epoch"] for row in FINISHED.history] == ["1", "2", "3"]
    assert model_info(FINISHED.model)["epoch"] == 3


@pytest.mark.backend
def test_a_model_of_an_earlier_version_has_its_scores(data_dir):
    scored = evaluate(FINISHED.path, data_dir=data_dir)
    expected = FINISHED.metrics["model.keras"]
    assert {name: scored[name] for name in expected} == pytest.approx(expected, rel=1e-4)
