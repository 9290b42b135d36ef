"""One step on drawn images, a model file, and the same logits from it, in whatever runs this.

Usage: python one_step.py FOLDER ; data lie in FOLDER/data, and the run in FOLDER/<backend>. Prints
the versions of this package's requirements as JSON. See test_versions.
"""

import json
import sys
from importlib.metadata import requires, version
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RECIPE = {
    "name": "one_step",
    "model": {"name": "wide_resnet", "depth": 6, "stages": 1, "width": 0.5, "dropout": 0.1},
    "data": {"dataset": "shapes", "batch_size": 8, "steps_per_epoch": 1, "mirror": "random"},
    "augment": [{"op": "pad_crop", "padding": 4}, {"op": "trivial_augment"}],
    "optimizer": {"name": "muon", "learning_rate": 0.01, "weight_decay": 0.1},
    "train": {"epochs": 1, "ema": 0.9, "dtype": "mixed_bfloat16"},
}


def main(folder):
    from keras_imnet64.backend.devices import choose_backend

    choose_backend()
    import keras

    from keras_imnet64 import evaluate, fit
    from keras_imnet64.data.datasets import open_dataset
    from keras_imnet64.models.load import load_model
    from keras_imnet64.recipe.loading import check_recipe

    run = fit(check_recipe(RECIPE), folder / keras.config.backend(), data_dir=folder / "data")
    assert np.isfinite(float(run.history[0]["loss"]))
    scored = evaluate(run.path, data_dir=folder / "data")
    assert scored["loss"] == run.metrics["model.keras"]["loss"]
    images = open_dataset("shapes", "validation", data_dir=folder / "data").images[:8]
    ours, plain = load_model(run.model), keras.saving.load_model(run.model)
    logits = ours.predict(images, verbose=0)
    assert logits.shape == (8, 10) and np.ptp(logits) > 0
    np.testing.assert_array_equal(plain.predict(images, verbose=0), logits)
    ours.save(folder / "again.keras")
    again = load_model(folder / "again.keras").predict(images, verbose=0)
    np.testing.assert_array_equal(again, logits)


def versions():
    needed = [Requirement(line) for line in requires("keras-imnet64")]
    named = [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return {canonicalize_name(name): version(name) for name in named}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print(json.dumps(versions()))
