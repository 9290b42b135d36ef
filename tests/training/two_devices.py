"""Child of test_parallel.py: ten steps on one or both of two virtual devices, in each of some runs.

Usage: python two_devices.py DATA_DIR OUT RUN... ; a RUN is the number of devices and options, such
as 2-remat, 1-davit or 2-parts-moved, and lies in OUT/RUN. Prints {run: what it found} as JSON.
"""

import contextlib
import json
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np

from keras_imnet64.backend.devices import Devices, choose_backend, take_devices

choose_backend()
BOTH = take_devices(virtual=2)
ONE = Devices(BOTH.backend, BOTH.kind, BOTH.names[:1])

import keras

from keras_imnet64.core.errors import Stopped
from keras_imnet64.models.davit import VARIANTS, Variant
from keras_imnet64.recipe.loading import check_recipe
from keras_imnet64.training import data as feed
from keras_imnet64.training import statistics
from keras_imnet64.training.fit import fit

TWO_BLOCKS = Variant(32, (1,))  # of one stage
RECIPE = {
    "name": "parallel",
    "model": {
        "name": "wide_resnet",
        "depth": 6,
        "stages": 1,
        "width": 0.5,
        "whitening": {"size": 2},
    },
    "data": {"dataset": "imagenet_resized/16x16", "batch_size": 16, "steps_per_epoch": 5},
    "augment": [{"op": "pad_crop", "padding": 2}],
    "loss": {"l2": 5e-3, "label_smoothing": 0.1},
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.05,
        "clip_norm": 1.0,
        "weight_decay": 0.1,  # which takes 2 % of a kernel in ten steps, 8 % of the head's
        "groups": [
            {"variables": "/beta$", "learning_rate_factor": 8.0},
            {"variables": "logits/kernel$", "weight_decay_factor": 4.0},
        ],
        "lookahead": {"steps": 2},
    },
    "train": {
        "epochs": 2,
        "ema": 0.9,
        "sizes": [[0.0, 8], [0.5, 16]],
        "remeasure_statistics": 2,
        "freeze": ["stem"],
    },
}


def recipe_with(options):
    content = deepcopy(RECIPE)
    if "davit" in options:  # of one size: one step is compiled
        content["model"] = {"name": "davit_tiny", "stem": "small"}
        content["optimizer"] |= {"name": "lamb", "learning_rate": 0.002, "weight_decay": 0.02}
        content["train"] = {"epochs": 2, "average_last": 2}
    content["train"]["remat"] = "remat" in options
    content["train"]["accumulate_steps"] = 2 if "parts" in options else 1
    return check_recipe(content)


class Losses(keras.callbacks.Callback):
    """The loss of each step of whole epochs, from Keras' running mean over the epoch."""

    def __init__(self):
        super().__init__()
        self.losses, self.total = [], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.total = 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        self.losses.append(total - self.total)
        self.total = total


class StopAt(keras.callbacks.Callback):
    """Stops after a number of steps of this process."""

    def __init__(self, num_steps):
        super().__init__()
        self.left = num_steps

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.model.stop_training = True


def images_on_each_device(stream, devices, size):
    """What each device receives of the first batch, as sums of pixels of each image."""
    batches = stream.dataset(size)
    if devices.backend == "tensorflow":
        if devices.strategy is None:
            parts = [next(iter(batches))[0]]
        else:
            first = next(iter(devices.strategy.experimental_distribute_dataset(batches)))
            parts = devices.strategy.experimental_local_results(first[0])
    else:
        from keras.src.backend.jax.trainer import _distribute_data

        placed = _distribute_data(next(iter(batches.as_numpy_iterator()))[0])
        parts = [shard.data for shard in placed.addressable_shards]
    return [np.asarray(part).astype(int).sum((1, 2, 3)).tolist() for part in parts]


def count_measured(distribute, measured):
    """Notes how many images of each batch each device measures."""

    def counting(pixels, devices):
        batch = distribute(pixels, devices)
        if devices.backend == "jax":
            parts = [part.data for part in keras.ops.convert_to_tensor(batch).addressable_shards]
        else:
            parts = getattr(batch, "values", [batch])
        measured.append([len(part) for part in parts])
        return batch

    return counting


def found_in(name, data_dir, out):
    """What a run receives, computes and measures."""
    count, *options = name.split("-")
    devices = BOTH if count == "2" else ONE
    recipe, losses, measured = recipe_with(options), Losses(), []
    distribute = statistics.distribute
    statistics.distribute = count_measured(distribute, measured)
    with devices.scope():
        stream = feed.make_stream(recipe, feed.load_data(recipe, data_dir))
        received = images_on_each_device(stream, devices, recipe.size_of_epoch(0))
    # Twice between the two parts of a batch, to the other number of devices.
    for num_steps, at_first in ((3, devices), (4, ONE)) if "moved" in options else ():
        stop = [StopAt(num_steps)]
        with at_first.scope(), contextlib.suppress(Stopped):
            fit(recipe, out / name, data_dir=data_dir, devices=at_first, callbacks=stop)
    run = fit(recipe, out / name, data_dir=data_dir, devices=devices, callbacks=[losses])
    statistics.distribute = distribute
    num_steps = recipe.data.steps_per_epoch * recipe.train.accumulate_steps
    return {
        "devices": list(devices.names),
        "losses": losses.losses,
        "last_losses": losses.losses[-num_steps:],
        "mean_losses": [float(row["loss"]) for row in run.history],
        "devices_before": [len(at.devices) for at in run.read_environment().processes],
        "received": received,
        "measured": measured,
        "metrics": run.metrics["model.keras"],
    }


def main(data_dir, out, *names):
    VARIANTS["davit_tiny"] = TWO_BLOCKS
    print(json.dumps({name: found_in(name, Path(data_dir), Path(out)) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
