"""Compares forward passes, `predict` and `evaluate` with PyTorch's forward passes, in turns.

    python benchmarks/scoring.py wrn36_2 --set model.depth=12 --batch-size 256
    python benchmarks/scoring.py wrn36_2 --task predict --task evaluate --data-dir DIR

Sides, each a process of its own that waits while another works:

    tensorflow, jax            what `predict` computes with: folded, one compiled forward pass
    tensorflow-file, jax-file  what `predict(fold=False)` computes with: the layers of the file
    torch                      benchmarks/torch_peer.py, in evaluation mode, channels_last, compiled
                               with frozen weights, which folds batch normalisation there too
    torch-tuned                the same, with an allocator that keeps freed memory

Ours take uint8 pixels from NumPy and return logits to NumPy; PyTorch's batch lies in its memory.
Vectors of weights are drawn, since a graph without a bias or a mean would drop the sums with them.
A round times each side once, in changing order: as many passes as take half a second or more if
each takes as long as the fastest of three before. Each side has one device, the first.

The tasks "predict" and "evaluate" are whole calls: `evaluate` of a model file for the 10,000
validation images of tiny_imagenet, and `predict` of it for as many JPEG files of them, with
`fold=False` for the sides `-file`; `evaluate` never folds. Loading the model, compiling, reading
and decoding are included, and JAX keeps no compiled programs on disk. PyTorch still makes forward
passes alone, over as many images.

For each side the median over rounds is printed in images per second, with the smallest and largest
in brackets, and its ratio to the faster one of PyTorch's sides that were measured.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from mistakes import one_sentence

from keras_imnet64.bench.rounds import Conversation, Side
from keras_imnet64.bench.sides import ENVIRONMENT
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.loading import load_recipe

if TYPE_CHECKING:
    import keras

    from keras_imnet64.backend.devices import Devices

PEERS = {"torch": "compile", "torch-tuned": "tuned"}  # side: mode of the peer
SIDES = ("tensorflow", "tensorflow-file", "jax", "jax-file", *PEERS)
SIDES_OF_CALLS = ("tensorflow", "jax", *PEERS)
TASKS = ("forward", "predict", "evaluate")
NUM_IMAGES = 10_000  # of the validation split of tiny_imagenet
MIN_SECONDS = 0.5  # of a timing of forward passes

Work = Callable[[int], object]  # does a task so many times


@dataclass(frozen=True)
class Subject:
    """What all sides compute: the network of a recipe's TOML file, and their batches."""

    recipe: str
    batch_size: int
    image_size: int
    num_classes: int
    data_dir: str | None


@click.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, help="A setting of the recipe, KEY=VALUE.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--image-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--num-classes", type=click.IntRange(2), default=200, show_default=True)
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS), default=["forward"])
@click.option("--side", "sides", multiple=True, type=click.Choice(SIDES), help="Default: all.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--data-dir", help="Where tiny_imagenet is prepared, for whole calls.")
def main(
    recipe: str,
    settings: tuple[str, ...],
    tasks: tuple[str, ...],
    sides: tuple[str, ...],
    rounds: int,
    **subject: int | str | None,
) -> None:
    with one_sentence():
        compare(recipe, settings, tasks, sides, rounds, subject)


def compare(
    recipe: str,
    settings: tuple[str, ...],
    tasks: tuple[str, ...],
    sides: tuple[str, ...],
    rounds: int,
    subject: dict[str, int | str | None],
) -> None:
    sides = sides or (SIDES if tasks == ("forward",) else SIDES_OF_CALLS)
    if set(sides) & set(PEERS) and find_spec("torch") is None:
        raise UserError(
            "PyTorch is not installed: `pip install torch torchvision timm`, or choose --side "
            f"{' or '.join(side for side in SIDES if side not in PEERS)}"
        )
    if tasks != ("forward",) and not subject["data_dir"]:
        raise UserError("whole calls need the images of tiny_imagenet: give their --data-dir")
    with tempfile.TemporaryDirectory(prefix="scoring-") as folder, ExitStack() as stack:
        file = Path(folder) / "recipe.toml"
        file.write_text(load_recipe(recipe, settings).to_toml(), "utf-8")
        request = asdict(Subject(str(file), **subject))  # type: ignore[arg-type]  # click's
        workers = {}
        for name in sides:
            with Activity(f"starting {name}", at_once=True):
                workers[name] = stack.enter_context(Conversation(side_of(name, folder)))
                workers[name].ask(json.dumps({"side": name, **request}))  # it has made its network
        for task in tasks:
            report(task, measure(workers, task, rounds, request["batch_size"]))


def side_of(name: str, folder: str) -> Side:
    """Returns how to start the worker of a side, whose temporary files lie in a folder."""
    # The peer imports this package, which asks for a backend.
    backend = "tensorflow" if name in PEERS else name.partition("-")[0]
    environment = ENVIRONMENT | {"KERAS_BACKEND": backend, "TMPDIR": folder}
    command = [sys.executable, __file__, "--worker"]
    return Side(name, "float32", command, environment=environment, is_peer=name in PEERS)


# ------------------------------------------------------------------------------------- comparing


def measure(
    workers: dict[str, Conversation], task: str, rounds: int, batch_size: int
) -> dict[str, list[float]]:
    """Returns {side: images per second in each round}."""
    with Activity(f"compiling for {task}", at_once=True):
        plans = {name: plan(worker, task, batch_size) for name, worker in workers.items()}
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds):
        with Activity(f"measuring {task}, round {number + 1} of {rounds}", at_once=True):
            for name in list(workers)[:: -1 if number % 2 else 1]:
                work, count, num_images = plans[name]
                seconds = workers[name].seconds(work, count)
                rates[name].append(num_images / seconds / count)
    return rates


def plan(worker: Conversation, task: str, batch_size: int) -> tuple[str, int, float]:
    """Returns what is timed: a task of the worker, how many times, and the images of all of it.

    Forward passes are made a few times before, which compiles them.
    """
    if task != "forward" and not worker.side.is_peer:
        return task, 1, NUM_IMAGES
    seconds = [worker.seconds("forward", 1) for _ in range(3)]
    count = math.ceil(MIN_SECONDS / min(seconds))
    if task != "forward":
        count = -(-NUM_IMAGES // batch_size)
    return "forward", count, count * batch_size


def report(task: str, rates: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max((medians[name] for name in PEERS if name in medians), default=None)
    for name, values in rates.items():
        ratio = f"  ratio {medians[name] / best:5.2f}" if best else ""
        spread = f"({min(values):.1f} to {max(values):.1f})"
        print(f"{task:8} {name:15} {medians[name]:9.1f} images/s {spread:20}{ratio}", flush=True)


# --------------------------------------------------------------------------------------- workers


def answer_lines() -> None:
    """Reads a request and then lines such as "forward 3", and answers with seconds."""
    request = json.loads(sys.stdin.readline())
    side = request.pop("side")
    subject = Subject(**request)
    tasks = peer_tasks(subject, PEERS[side]) if side in PEERS else our_tasks(subject, side)
    print(json.dumps({"tasks": list(tasks)}), flush=True)
    for line in sys.stdin:
        task, _, count = line.strip().partition(" ")
        begin = time.perf_counter()
        tasks[task](int(count))
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


def repeated(work: Callable[[], object]) -> Work:
    return lambda count: [work() for _ in range(count)]


def peer_tasks(subject: Subject, mode: str) -> dict[str, Work]:
    """PyTorch's forward passes; unlike the peer's own worker this one makes no training steps."""
    from torch_peer import Peer, Settings, configure

    configure(mode)
    settings = Settings(
        subject.batch_size, "float32", mode, subject.image_size, subject.num_classes
    )
    peer = Peer(load_recipe(subject.recipe), settings)
    return {"forward": lambda count: peer.seconds("forward", count)}


def our_tasks(subject: Subject, side: str) -> dict[str, Work]:
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices(1)  # as the peer
    from keras_imnet64.evaluation.forward import compile_forward, keras_forward
    from keras_imnet64.models.fold import fold_batch_norm

    model = build_network(subject)
    shape = (subject.batch_size, subject.image_size, subject.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    folded = not side.endswith("-file")
    forward = compile_forward(fold_batch_norm(model), devices) if folded else keras_forward(model)
    tasks = {"forward": repeated(lambda: forward(pixels))}
    if subject.data_dir:
        tasks |= whole_calls(model, subject.data_dir, devices, folded)
    return tasks


def build_network(subject: Subject) -> "keras.Model":
    """Returns the network of the recipe, its vectors drawn; normalisation is ImageNet's."""
    from keras_imnet64.models import build_model

    network = load_recipe(subject.recipe).model
    model = build_model(
        network.name,
        image_size=subject.image_size,
        num_classes=subject.num_classes,
        **network.options,
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1 and variable.dtype == "float32":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def whole_calls(
    model: "keras.Model", data_dir: str, devices: "Devices", folded: bool
) -> dict[str, Work]:
    """Returns `predict` and `evaluate` of a model file; JPEG files are copies of stored images."""
    from PIL import Image

    from keras_imnet64.data.datasets import open_dataset
    from keras_imnet64.data.stores.raw import RawStore
    from keras_imnet64.evaluation.evaluate import evaluate
    from keras_imnet64.evaluation.predict import predict
    from keras_imnet64.models.ship import write_model_file

    store = open_dataset("tiny_imagenet", "validation", data_dir=data_dir)
    assert isinstance(store, RawStore)  # images of one size are stored as pixels
    if len(store.images) != NUM_IMAGES:
        raise UserError(
            f"whole calls need the {NUM_IMAGES:,} validation images of tiny_imagenet; {data_dir} "
            f"has {len(store.images):,}: prepare it from tiny-imagenet-200.zip"
        )
    folder = Path(tempfile.mkdtemp())  # in the folder that the comparison removes
    path, files = folder / "model.keras", folder / "images"
    info = {"dataset": "tiny_imagenet", "wnids": list(store.wnids), "image_size": store.image_size}
    write_model_file(model, path, info)
    files.mkdir()
    for number, pixels in enumerate(store.images):
        Image.fromarray(pixels).save(files / f"{number:06}.jpg", quality=90)
    return {
        "predict": repeated(lambda: predict(path, files, devices=devices, fold=folded)),
        "evaluate": repeated(lambda: evaluate(path, data_dir=data_dir, devices=devices)),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        with one_sentence():
            answer_lines()
    else:
        main()
