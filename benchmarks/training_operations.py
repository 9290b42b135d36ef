"""Measures the operations of a TensorFlow training step, and compares the step with their limit.

    python benchmarks/training_operations.py wrn36_2 --batch-size 32

Two processes train the recipe's network on one batch in memory, in turns. The one trains as `fit`
does, and its steps are timed. The other runs one operation at a time, and its operations are timed
by TensorFlow's profiler: the sum of its convolutions and matrix products is the limit that the step
is compared with. Gradients of biases are matrix products in our kernels, and not counted as such.
It measures CPUs, since the profiler's operations on a GPU are not its kernels.
"""

import json
import re
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import click
from mistakes import one_sentence
from training_kernels import DTYPES, Step, make_step, recipe_of, seconds_per_step

from keras_imnet64.bench.rounds import Conversation, Side
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.recipe.schema import Recipe

OPERATION = re.compile(r"^([^:]+):([A-Z_]\w*)$")  # "name:type" of the profiler's events
PRODUCTS = re.compile("Conv|MatMul|Einsum")
MIN_SHARE = 0.005  # of the operations that are printed


@click.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, help="A setting of the recipe, KEY=VALUE.")
@click.option("--batch-size", type=click.IntRange(1), required=True)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), default=DTYPES)
@click.option(
    "--steps", type=click.IntRange(1), default=3, show_default=True, help="Steps of a block."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Blocks of each process."
)
@click.option("--worker", type=click.Choice(["step", "operations"]), hidden=True)
def main(
    recipe: str,
    settings: tuple[str, ...],
    batch_size: int,
    dtypes: tuple[str, ...],
    steps: int,
    rounds: int,
    worker: str | None,
) -> None:
    with one_sentence():
        recipes = {dtype: recipe_of(recipe, settings, batch_size, dtype) for dtype in dtypes}
        if worker:
            answer_lines(recipes[dtypes[0]], steps, worker)
            return
        for dtype in recipes:
            arguments = [recipe, f"--batch-size={batch_size}", f"--steps={steps}"]
            arguments += [f"--set={setting}" for setting in settings]
            show(dtype, batch_size, *measure(arguments, dtype, rounds))


def measure(arguments: list[str], dtype: str, rounds: int) -> tuple[float, dict[str, float]]:
    """Returns the milliseconds of a step, and {type of an operation: milliseconds}, as medians."""
    command = [sys.executable, __file__, *arguments, f"--dtype={dtype}"]
    with ExitStack() as running:
        workers = {}
        for kind in ("step", "operations"):
            side = Side(kind, dtype, [*command, f"--worker={kind}"])
            with Activity(f"starting {side.label}", at_once=True):
                workers[kind] = running.enter_context(Conversation(side))
                workers[kind].answer()
        with Activity(f"measuring {dtype}", at_once=True):
            blocks = []
            for number in range(rounds):
                order = list(workers)[:: -1 if number % 2 else 1]
                blocks.append({kind: workers[kind].ask("go") for kind in order})
    types = {name for block in blocks for name in block["operations"]}
    operations = {
        name: median(block["operations"].get(name, 0.0) for block in blocks) for name in types
    }
    return median(block["step"]["all"] for block in blocks), operations


def show(dtype: str, batch_size: int, step: float, operations: dict[str, float]) -> None:
    total = sum(operations.values())
    products = sum(value for name, value in operations.items() if PRODUCTS.search(name))
    if not products:
        raise RunFailed(
            "the profiler has seen no convolution or matrix product, as where XLA compiles the "
            'step: compare with --set train.xla="off"'
        )
    for name, value in sorted(operations.items(), key=lambda item: -item[1]):
        if value > MIN_SHARE * total:
            print(f"{dtype:14} {value:8.1f} ms {100 * value / total:5.1f} %  {name}")
    print(f"{dtype:14} {products:8.1f} ms of convolutions and matrix products, one at a time")
    print(f"{dtype:14} {step:8.1f} ms of a step, {1000 * batch_size / step:.1f} images/s")
    print(f"{dtype:14} {step / products:8.2f} times the limit", flush=True)


# ---------------------------------------------------------------------------------------- workers


def answer_lines(recipe: Recipe, steps: int, worker: str) -> None:
    """Prints a JSON line when the first steps are made, and one of milliseconds for each line."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend("tensorflow")
    import tensorflow as tf

    if worker == "operations":
        tf.config.threading.set_inter_op_parallelism_threads(1)
    devices = take_devices(1)
    if devices.kind != "cpu":
        raise UserError(
            f"operations are measured on a CPU alone; received {devices.names[0]}: set "
            "CUDA_VISIBLE_DEVICES=-1"
        )
    step = make_step(recipe, devices, fast=True)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        milliseconds = milliseconds_of_steps if worker == "step" else milliseconds_of_operations
        print(json.dumps(milliseconds(step, steps)), flush=True)


def milliseconds_of_steps(step: Step, count: int) -> dict[str, float]:
    return {"all": 1000 * seconds_per_step(step, count)}


def milliseconds_of_operations(step: Step, count: int) -> dict[str, float]:
    """Returns {type of an operation: milliseconds in one step}, as TensorFlow's profiler says."""
    from tensorflow.profiler.experimental import ProfilerOptions, start, stop
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    with tempfile.TemporaryDirectory(prefix="operations-") as folder:
        start(folder, ProfilerOptions(host_tracer_level=2, python_tracer_level=0))
        seconds_per_step(step, count)
        stop()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = XSpace.FromString(file.read_bytes())
    found: Counter[str] = Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            match = OPERATION.match(plane.event_metadata[event.metadata_id].name)
            if match:
                kind = "bias gradient" if "bias_gradient" in match[1] else match[2].lstrip("_")
                found[kind] += event.duration_ps / 1e9 / count
    return dict(found)


if __name__ == "__main__":
    main()
