"""Compares the peak memory of training steps of recipes, their largest batches and their times.

    python benchmarks/training_memory.py resnet34 spectral_resnet34_sub4 --batch-size 16
    python benchmarks/training_memory.py wrn36_2 --batch-size 32 --beside train.remat=true \\
        --timed-steps 5

A spectral recipe trains one branch. The recipes alternate; each makes a few steps, as `fit`
compiles them, on random images in a new process. `bench.memory` says what is counted (Linux only).
The result is the ratio of the medians; of times, the median of the rounds' ratios. The command
`bench` measures one recipe beside its speed.

The largest batch is searched to within an eighth: its steps complete although RLIMIT_DATA allows
the process only the limit beyond what it held before.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

NUM_STEPS = 3


@click.command()
@click.argument("recipes", nargs=-1, required=True)
@click.option("--batch-size", type=int, help="Replaces the batch sizes of the recipes.")
@click.option("--set", "settings", multiple=True, help="A setting of all recipes, KEY=VALUE.")
@click.option(
    "--beside", multiple=True, help="A setting with which each recipe is measured once more."
)
@click.option("--rounds", default=3, show_default=True, help="Processes of each recipe.")
@click.option(
    "--timed-steps", default=0, help="Steps after the first, whose time is measured in each round."
)
@click.option(
    "--limit-mb", default=2000, show_default=True, help="0 skips the search for the largest batch."
)
@click.option("--child", type=int, help="A limit in bytes, 0 for none.", hidden=True)
def main(recipes, batch_size, settings, beside, rounds, timed_steps, limit_mb, child):
    if child is not None:
        print(json.dumps(train(recipes[0], settings, batch_size, timed_steps, child)))
        return
    cases = [Case(name, settings) for name in recipes]
    cases += [Case(name, settings + beside, " ".join(beside)) for name in recipes if beside]
    found = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case].append(run_in_process(case, batch_size, timed_steps))
    medians = {case: statistics.median(f["peak"] for f in each) for case, each in found.items()}
    print(f"{found[cases[0]][0]['backend']}, {NUM_STEPS} steps, medians of {rounds} processes")
    for case, each in found.items():
        peaks = " ".join(f"{f['peak'] / 1e6:.0f}" for f in each)
        print(
            f"{case}: {medians[case] / 1e6:,.0f} MB at {each[0]['batch_size']} images per step "
            f"[{peaks}], beside {each[0]['before'] / 1e6:,.0f} MB of the framework"
        )
    for case in cases[1:]:
        print(f"{cases[0]} / {case}: {medians[cases[0]] / medians[case]:.2f} times the memory")
    if timed_steps:
        print_times(found, cases, timed_steps)
    for case in cases if limit_mb else ():
        print(
            f"{case}: largest batch within {limit_mb:,} MB {largest_batch(case, limit_mb * 10**6)}"
        )


@dataclass(frozen=True)
class Case:
    """A recipe with settings; `label` names those in which it differs from the others."""

    name: str
    settings: tuple
    label: str = ""

    def __str__(self):
        return f"{self.name} {self.label}".strip()


def print_times(found, cases, timed_steps):
    """Prints milliseconds per step, and the median over rounds of ratios to the first case."""
    for case, each in found.items():
        times = sorted(1000 * f["seconds"] for f in each)
        print(
            f"{case}: {statistics.median(times):,.0f} ms per step, medians of {timed_steps} steps "
            f"[{' '.join(f'{t:.0f}' for t in times)}]"
        )
    for case in cases[1:]:
        pairs = zip(found[case], found[cases[0]], strict=True)
        ratios = [other["seconds"] / first["seconds"] for other, first in pairs]
        print(
            f"{case} / {cases[0]}: {statistics.median(ratios):.2f} times the time "
            f"[{' '.join(f'{r:.2f}' for r in ratios)}]"
        )


def largest_batch(case, limit):
    """Returns the largest batch within a limit of bytes, to within an eighth; 0 for none."""
    fits, too_many = 0, 1
    while run_in_process(case, too_many, limit=limit):
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > max(1, fits // 8):
        middle = (fits + too_many) // 2
        fits, too_many = (
            (middle, too_many) if run_in_process(case, middle, limit=limit) else (fits, middle)
        )
    return fits


def run_in_process(case, batch_size, timed_steps=0, limit=0):
    """Returns what `train` measures in a new process; None if the limit ended it."""
    command = [sys.executable, __file__, case.name, "--child", str(limit)]
    command += [f"--set={setting}" for setting in case.settings]
    command += [f"--timed-steps={timed_steps}"]
    command += ["--batch-size", str(batch_size)] if batch_size else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not limit:
        raise SystemExit(done.stderr)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def train(name, settings, batch_size, timed_steps, limit):
    """Trains a recipe, or its first branch, a few steps; returns its memory before and its peak."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    from keras_imnet64.bench.memory import StepMemory
    from keras_imnet64.bench.stand_in import random_data, stream_on
    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.spectral.branches import bands_of, branch_recipe

    settings = [*settings, *([f"data.batch_size={batch_size}"] if batch_size else [])]
    recipe = load_recipe(name, settings)
    recipe = branch_recipe(recipe, 0) if bands_of(recipe) else recipe
    data = random_data(recipe)
    stream = stream_on(data, recipe)
    memory = StepMemory(devices)
    if limit:
        most = data_bytes() + limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with memory:
        seconds = make_steps(recipe, devices, data, stream, timed_steps)
    return {
        "backend": f"{devices.backend} on {', '.join(devices.names)}",
        "batch_size": recipe.data.batch_size,
        "before": memory.before,
        "peak": 1e6 * memory.step_megabytes,
        "seconds": seconds,
    }


def make_steps(recipe, devices, data, stream, timed_steps=0):
    """Compiles the network as `fit` does, and makes a few steps on one batch.

    Returns:
        The median seconds of the timed steps that follow, or None for none.
    """
    import tensorflow as tf

    from keras_imnet64.training.setup import setup_on

    setup = setup_on(data, stream, recipe, devices, load_initial_weights=False)
    images, labels = stream.batch(epoch=0, step=0)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    setup.model.fit(batches, steps_per_epoch=NUM_STEPS, epochs=1, shuffle=False, verbose=0)
    seconds = []
    for _ in range(timed_steps):
        start = time.perf_counter()
        setup.model.train_on_batch(images, labels)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) if seconds else None


def data_bytes():
    """Returns the bytes of this process that RLIMIT_DATA counts."""
    found = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
