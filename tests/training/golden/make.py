"""Makes the run folders beside this file: one that was stopped in an epoch, and its finished twin.

    git worktree add ../before cf31b5e
    PYTHONPATH=../before:../before/tests python tests/training/golden/make.py

They were written by the version of commit cf31b5e, under TensorFlow, and show that later versions
resume and read the runs of earlier ones. The images are those of `conftest.write_images`. The
imports are by the names of that version.
"""

import os
import shutil
import signal
import sys
import tempfile
import zipfile
from pathlib import Path

import keras
from conftest import write_pictures  # the name that `write_images` had
from keras_imnet64.errors import Stopped

from keras_imnet64.recipe import check_recipe
from keras_imnet64.training.fit import fit

HERE = Path(__file__).parent
RECIPE = {
    "name": "before",
    "model": {"name": "wide_resnet", "depth": 8, "width": 0.25, "normalization": "dataset"},
    "data": {"dataset": "imagenet_resized/16x16", "batch_size": 16, "holdout": 16},
    "augment": [{"op": "pad_crop", "padding": 2, "fill": "mean"}],
    "loss": {"l2": 1e-4},
    "optimizer": {"name": "sgd", "learning_rate": 0.05},
    "schedule": {"name": "plateau", "patience": 1, "factor": 0.5, "min_delta": 0.5},
    "train": {"epochs": 3, "ema": 0.9, "early_stopping": 3},
}


class StopAt(keras.callbacks.Callback):
    """Sends this process SIGTERM in a step of an epoch, both counted from 0."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at = epoch, step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def main():
    recipe = check_recipe(RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = write_pictures(Path(folder) / "data")
        try:
            fit(recipe, Path(folder) / "stopped", data_dir=data_dir, callbacks=[StopAt(1, 2)])
            sys.exit("the run was not stopped")
        except Stopped as stopped:
            print(stopped)
        fit(recipe, Path(folder) / "finished", data_dir=data_dir)
        keep(Path(folder))


def keep(folder):
    """Copies both runs beside this file, without logs and all checkpoints but the newest."""
    for name in ("stopped", "finished"):
        run = folder / name
        *older, newest = sorted((run / "checkpoints").iterdir())
        for path in older if name == "stopped" else [*older, newest]:
            path.unlink()
        shutil.rmtree(run / "logs")
        (run / ".lock").unlink()
        for path in run.glob("*.keras"):
            compress(path)
        shutil.rmtree(HERE / name, ignore_errors=True)
        shutil.copytree(run, HERE / name)


def compress(path):
    """Compresses the members of a model file, which are stored as they are, to a tenth."""
    with zipfile.ZipFile(path) as source:
        members = {member.filename: source.read(member) for member in source.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)


if __name__ == "__main__":
    main()
