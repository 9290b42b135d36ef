"""Compares runs on 1 to 8 virtual devices and in 1 to 4 processes: losses, and seconds per step.

    python benchmarks/processes.py --out losses.png --data-dir DIR

Trains 50 steps of a small WRN on the drawn shapes, with MixUp and CutMix, averages, clipping and a
batch of 24 in two parts, under TensorFlow and JAX on 1, 2, 4 and 8 virtual devices, and under JAX
in 2 and 4 processes on the loopback interface. Two runs move after 25 steps: from 8 devices to 3,
and from 4 processes to 2. A table shows how far each run's losses are from those of JAX on one
device. The line below it says how far runs of JAX on one device that start one last bit apart are
from each other, which is the yardstick of `compare`: a trajectory is chaotic, so up to twice that
counts as the same. The last column is the median of the seconds of a step.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from keras_imnet64.compare.records import NUM_RUNS
from keras_imnet64.compare.verdict import MAX_YARDSTICKS, spread

NUM_STEPS = 50
MOVED_AFTER = 25
RECIPE = {
    "name": "processes",
    "model": {"name": "wide_resnet", "depth": 10, "stages": 1, "width": 1},
    "data": {"dataset": "shapes", "batch_size": 24, "steps_per_epoch": NUM_STEPS},
    "augment": [{"op": "pad_crop", "padding": 4}, {"op": "mixup_or_cutmix"}],
    "loss": {"l2": 1e-4},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "nesterov": True, "clip_norm": 1.0},
    "schedule": {"name": "constant"},
    "train": {"epochs": 1, "ema": 0.9, "validate_every": 0},
}


@dataclass(frozen=True)
class Side:
    """A run, or the part of one that is not moved.

    Attributes:
        devices: of each process, or virtual ones of a single process.
        bits: number of a start that is one last bit apart; 0 for the plain one.
        then: the devices and processes of the rest of the run, after MOVED_AFTER steps.
    """

    label: str
    backend: str = "jax"
    devices: int = 1
    processes: int = 1
    bits: int = 0
    then: tuple[int, int] | None = None


SIDES = (
    Side("JAX, 1 device"),
    *(Side(f"JAX, {n} devices", devices=n) for n in (2, 4, 8)),
    *(Side(f"JAX, {n} processes", processes=n) for n in (2, 4)),
    Side("TensorFlow, 1 device", "tensorflow"),
    *(Side(f"TensorFlow, {n} devices", "tensorflow", n) for n in (2, 4, 8)),
)
MOVED = (
    Side("JAX, 8, then 3 devices", devices=8, then=(3, 1)),
    Side("TensorFlow, 8, then 3 devices", "tensorflow", devices=8, then=(3, 1)),
    Side("JAX, 4, then 2 processes", processes=4, then=(1, 2)),
)
APART = tuple(Side(f"JAX, one bit apart ({n})", bits=n) for n in range(1, NUM_RUNS))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="PNG with the losses.")
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--child", hidden=True, help="JSON of a process: what it trains.")
def main(out, data_dir, child):
    if child:
        train(data_dir=data_dir, **json.loads(child))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for number, side in enumerate((*SIDES, *MOVED, *APART)):
            found[side.label] = run(side, Path(folder) / str(number), data_dir)
            print(f"{side.label}: {found[side.label][0][-1]:.6f}", file=sys.stderr, flush=True)
    reference = SIDES[0].label
    runs = [found[label][0] for label in (reference, *(side.label for side in APART))]
    yardstick = spread(np.array(runs)).max()
    print("| run | largest difference of a loss | seconds per step |\n|---|---|---|")
    for label, (losses, seconds) in found.items():
        distance = spread(np.array([losses, found[reference][0]])).max()
        print(f"| {label} | {distance:.1e} | {np.median(seconds):.3f} |")
    print(f"\nyardstick {yardstick:.1e}, allowed {MAX_YARDSTICKS * yardstick:.1e}")
    if out:
        draw(found, out)


def draw(found, out):
    """Draws the losses of all sides that stay where they are."""
    from keras_imnet64.charts import Curve, draw

    steps = tuple(range(1, NUM_STEPS + 1))
    curves = [Curve(s.label, steps, tuple(found[s.label][0]), dashed=True) for s in SIDES]
    out.write_bytes(draw(curves, "step", "training loss", markers=False))


def run(side, out, data_dir):
    """Returns (losses, seconds of the steps) of a run; its first step is not timed."""
    out.mkdir()
    places = [(side.devices, side.processes), *([side.then] if side.then else [])]
    for number, (devices, processes) in enumerate(places):
        stop = MOVED_AFTER if number + 1 < len(places) else None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        children = []
        for index in range(processes):
            request = {
                "side": asdict(side) | {"devices": devices, "processes": processes},
                "address": address,
                "index": index,
                "out": str(out),
                "stop": stop,
            }
            command = [sys.executable, __file__, "--child", json.dumps(request)]
            command += ["--data-dir", str(data_dir)] if data_dir else []
            environment = os.environ | {"KERAS_BACKEND": side.backend}
            children.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
        ends = [child.communicate()[1] for child in children]
        if any(child.returncode for child in children):
            sys.exit(b"\n".join(ends).decode())
    lines = (out / "losses.jsonl").read_text().splitlines()
    losses, seconds = zip(*map(json.loads, lines), strict=True)
    return losses, [s for s in seconds if s is not None]


def train(side, address, index, out, stop, data_dir):
    """Trains in one process; the first one appends a line for each step to losses.jsonl."""
    from contextlib import suppress

    from keras_imnet64.backend.devices import take_devices
    from keras_imnet64.backend.launchers import find_place
    from keras_imnet64.core.errors import Stopped
    from keras_imnet64.recipe.loading import check_recipe
    from keras_imnet64.training.fit import fit

    side = Side(**side)
    place = find_place(address, side.processes, index, {})
    devices = take_devices(virtual=side.devices if side.devices > 1 else None, place=place)
    with devices.cluster:
        callbacks = [make_callback(Path(out), side.bits, stop, devices.cluster.is_writer)]
        with suppress(Stopped):
            fit(
                check_recipe(RECIPE),
                Path(out) / "run",
                data_dir=data_dir,
                devices=devices,
                callbacks=callbacks,
            )


def make_callback(out, bits, stop, writes):
    import time

    import keras

    from keras_imnet64.compare.worker import one_bit_apart

    class Recorder(keras.callbacks.Callback):
        """Takes the loss of each step out of Keras' running means, in double precision."""

        def on_train_begin(self, logs=None):
            self.done, self.total, self.last = 0, 0.0, None
            if bits:
                weights = {f"model/{v.path}": v for v in self.model.trainable_variables}
                arrays = {path: keras.ops.convert_to_numpy(v) for path, v in weights.items()}
                for path, array in one_bit_apart(arrays, bits).items():
                    weights[path].assign(array)

        def on_epoch_begin(self, epoch, logs=None):
            tracker = self.model._loss_tracker
            self.done = round(float(keras.ops.convert_to_numpy(tracker.count)) / 24)
            self.total = float(tracker.result()) * self.done if self.done else 0.0

        def on_train_batch_begin(self, batch, logs=None):
            if stop and self.done + 1 == stop:
                self.model.stop_training = True

        def on_train_batch_end(self, batch, logs=None):
            now = time.monotonic()
            self.done += 1
            total = float(logs["loss"]) * self.done
            seconds = None if self.last is None else now - self.last
            if writes:
                with open(out / "losses.jsonl", "a") as file:
                    file.write(json.dumps([total - self.total, seconds]) + "\n")
            self.total, self.last = total, now

    return Recorder()


if __name__ == "__main__":
    main()
