"""Peak memory of a training step of one recipe beside another's, and their largest batches.

    python benchmarks/training_memory.py resnet34 spectral_resnet34_sub4 --batch-size 16

Of a spectral recipe one branch is trained. Each side makes a few steps, as `fit` compiles them, on
drawn images in a process of its own, in turn with the other side. Its memory is what no file
backs (RssAnon of /proc/PID/status, so Linux only) at its peak, less what the process held once the
framework had trained another, very small network: weights, gradients, optimizer and what the
backward pass keeps, as a GPU would hold them. The ratio of the medians is the figure.

The largest batch is the one whose steps still end when the process may not hold more data
(RLIMIT_DATA) than it did before and the limit, to an eighth.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

STEPS = 3


@click.command()
@click.argument("recipes", nargs=-1, required=True)
@click.option("--batch-size", type=int, help="In place of the recipes'.")
@click.option("--rounds", default=3, show_default=True, help="Processes of each side.")
@click.option("--limit-mb", default=2000, show_default=True, help="0 searches no largest batch.")
@click.option("--child", type=int, help="A limit in bytes, 0 for none.", hidden=True)
def main(recipes, batch_size, rounds, limit_mb, child):
    if child is not None:
        print(json.dumps(train(recipes[0], batch_size, child)))
        return
    found = {name: [] for name in recipes}
    for _ in range(rounds):
        for name in recipes:
            found[name].append(run(name, batch_size))
    medians = {name: statistics.median(f["peak"] for f in each) for name, each in found.items()}
    print(f"{found[recipes[0]][0]['backend']}, {STEPS} steps, medians of {rounds} processes")
    for name, each in found.items():
        peaks = " ".join(f"{f['peak'] / 1e6:.0f}" for f in each)
        print(
            f"{name}: {medians[name] / 1e6:,.0f} MB at {each[0]['batch_size']} images per step "
            f"[{peaks}], beside {each[0]['before'] / 1e6:,.0f} MB of the framework"
        )
    for name in recipes[1:]:
        print(f"{recipes[0]} / {name}: {medians[recipes[0]] / medians[name]:.2f} times")
    for name in recipes if limit_mb else ():
        print(f"{name}: largest batch within {limit_mb:,} MB {largest(name, limit_mb * 10**6)}")


def largest(name, limit):
    """The largest batch whose steps end within a limit of bytes, to an eighth; 0 for none."""
    fits, too_many = 0, 1
    while run(name, too_many, limit):
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > max(1, fits // 8):
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if run(name, middle, limit) else (fits, middle)
    return fits


def run(name, batch_size, limit=0):
    """What a process of its own found out; None where the limit ended it."""
    command = [sys.executable, __file__, name, "--child", str(limit)]
    command += ["--batch-size", str(batch_size)] if batch_size else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not limit:
        raise SystemExit(done.stderr)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def train(name, batch_size, limit):
    """Steps of a recipe in this process, after a very small network's."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.training.memory import PeakMemory, anonymous_bytes

    recipe = load_recipe(name)
    batch_size = batch_size or recipe.data.batch_size
    make_steps(load_recipe("demo"), 8, devices)
    before = anonymous_bytes() if devices.kind == "cpu" else 0
    if limit:
        most = data_bytes() + limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with PeakMemory(devices) as memory:
        make_steps(recipe, batch_size, devices)
    return {
        "backend": f"{devices.backend} on {', '.join(devices.names)}",
        "batch_size": batch_size,
        "before": before,
        "peak": 1e6 * memory.megabytes - before,
    }


def make_steps(recipe, batch_size, devices):
    """Build, compile and train a recipe's network, or the first of its branches, a few steps."""
    import keras
    import tensorflow as tf

    from keras_imnet64.models import build_model
    from keras_imnet64.spectral.branches import bands_of, branch_recipe
    from keras_imnet64.training.build import compile_for_training

    recipe = branch_recipe(recipe, 0) if bands_of(recipe) else recipe
    size, num_classes = recipe.image_size, recipe.num_classes or 1000
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, size, size, 3), "uint8")
    labels = rng.integers(0, num_classes, batch_size).astype("int32")
    dataset = tf.data.Dataset.from_tensors((images, labels)).repeat()
    with devices.scope():
        model = build_model(
            recipe.model.name,
            image_size=size,
            num_classes=num_classes,
            dtype=recipe.train.dtype,
            **recipe.model.options,
        )
        compile_for_training(model, recipe, 1000, devices)
    model.fit(dataset, steps_per_epoch=STEPS, epochs=1, shuffle=False, verbose=0)
    keras.utils.clear_session()


def data_bytes():
    """What RLIMIT_DATA counts of this process."""
    found = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
