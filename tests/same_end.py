"""Whether two runs ended with the same bits."""

import keras
import numpy as np

from keras_imnet64.models.load import load_model
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

MEASURED = {"images_per_second", "seconds", "training_seconds"}


def weights(path):
    return [keras.ops.convert_to_numpy(v) for v in load_model(path).weights]


def same_end(straight, run):
    """Weights, all state (optimizer, averages, metrics, seeds), and history but for times."""
    for a, b in zip(weights(straight.model), weights(run.model), strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(straight.history, run.history, strict=True):
        assert {k: a[k] for k in a if k not in MEASURED} == {
            k: b[k] for k in b if k not in MEASURED
        }
    ends = [load_checkpoint(list_checkpoints(r.checkpoints)[-1]) for r in (straight, run)]
    first, second = (end.arrays for end in ends)
    assert all(np.array_equal(first[key], second[key]) for key in first | second)
    for name in ("best", "plateau", "epoch", "step"):
        assert getattr(ends[0].run_state, name) == getattr(ends[1].run_state, name)
