"""Compares the peak memory of training steps of two recipes, and their largest batches.

    python benchmarks/training_memory.py resnet34 spectral_resnet34_sub4 --batch-size 16

A spectral recipe trains one branch. The recipes alternate; each makes a few steps, as `fit`
compiles them, on random images in a new process. `bench.memory` says what is counted (Linux only).
The result is the ratio of the medians. The command `bench` measures one recipe beside its speed.

The largest batch is searched to within an eighth: its steps complete although RLIMIT_DATA allows
the process only the limit beyond what it held before.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import click

NUM_STEPS = 3


@click.command()
@click.argument("recipes", nargs=-1, required=True)
@click.option("--batch-size", type=int, help="Replaces the batch sizes of the recipes.")
@click.option("--rounds", default=3, show_default=True, help="Processes of each recipe.")
@click.option(
    "--limit-mb", default=2000, show_default=True, help="0 skips the search for the largest batch."
)
@click.option("--child", type=int, help="A limit in bytes, 0 for none.", hidden=True)
def main(recipes, batch_size, rounds, limit_mb, child):
    if child is not None:
        print(json.dumps(train(recipes[0], batch_size, child)))
        return
    found = {name: [] for name in recipes}
    for _ in range(rounds):
        for name in recipes:
            found[name].append(run_in_process(name, batch_size))
    medians = {name: statistics.median(f["peak"] for f in each) for name, each in found.items()}
    print(f"{found[recipes[0]][0]['backend']}, {NUM_STEPS} steps, medians of {rounds} processes")
    for name, each in found.items():
        peaks = " ".join(f"{f['peak'] / 1e6:.0f}" for f in each)
        print(
            f"{name}: {medians[name] / 1e6:,.0f} MB at {each[0]['batch_size']} images per step "
            f"[{peaks}], beside {each[0]['before'] / 1e6:,.0f} MB of the framework"
        )
    for name in recipes[1:]:
        print(f"{recipes[0]} / {name}: {medians[recipes[0]] / medians[name]:.2f} times")
    for name in recipes if limit_mb else ():
        print(
            f"{name}: largest batch within {limit_mb:,} MB {largest_batch(name, limit_mb * 10**6)}"
        )


def largest_batch(name, limit):
    """Returns the largest batch within a limit of bytes, to within an eighth; 0 for none."""
    fits, too_many = 0, 1
    while run_in_process(name, too_many, limit):
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > max(1, fits // 8):
        middle = (fits + too_many) // 2
        fits, too_many = (
            (middle, too_many) if run_in_process(name, middle, limit) else (fits, middle)
        )
    return fits


def run_in_process(name, batch_size, limit=0):
    """Returns what `train` measures in a new process; None if the limit ended it."""
    command = [sys.executable, __file__, name, "--child", str(limit)]
    command += ["--batch-size", str(batch_size)] if batch_size else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not limit:
        raise SystemExit(done.stderr)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def train(name, batch_size, limit):
    """Trains a recipe, or its first branch, a few steps; returns its memory before and its peak."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    from keras_imnet64.bench.memory import StepMemory
    from keras_imnet64.bench.stand_in import random_data, stream_on
    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.spectral.branches import bands_of, branch_recipe

    recipe = load_recipe(name, [f"data.batch_size={batch_size}"] if batch_size else [])
    recipe = branch_recipe(recipe, 0) if bands_of(recipe) else recipe
    data = random_data(recipe)
    stream = stream_on(data, recipe)
    memory = StepMemory(devices)
    if limit:
        most = data_bytes() + limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with memory:
        make_steps(recipe, devices, data, stream)
    return {
        "backend": f"{devices.backend} on {', '.join(devices.names)}",
        "batch_size": recipe.data.batch_size,
        "before": memory.before,
        "peak": 1e6 * memory.step_megabytes,
    }


def make_steps(recipe, devices, data, stream):
    """Compiles the network as `fit` does, and makes a few steps on one batch."""
    import tensorflow as tf

    from keras_imnet64.training.setup import setup_on

    setup = setup_on(data, stream, recipe, devices, load_initial_weights=False)
    batches = tf.data.Dataset.from_tensors(stream.batch(epoch=0, step=0)).repeat()
    setup.model.fit(batches, steps_per_epoch=NUM_STEPS, epochs=1, shuffle=False, verbose=0)


def data_bytes():
    """Returns the bytes of this process that RLIMIT_DATA counts."""
    found = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
