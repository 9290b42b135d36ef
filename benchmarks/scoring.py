"""Compares forward passes, `predict` and `evaluate` with PyTorch, alternating in one process tree.

    python benchmarks/scoring.py wrn36_2 --batch-size 256
    python benchmarks/scoring.py wrn36_2 --whole-calls --data-dir DIR

Sides, each a process of its own that waits while another works:

    tensorflow, jax            what `predict` computes with: folded, one compiled forward pass
    tensorflow-file, jax-file  what `predict(fold=False)` computes with: the layers of the file
    torch                      benchmarks/torch_peer.py, in evaluation mode, channels_last, compiled
                               with frozen weights, which folds batch normalisation there too

Ours take pixels from NumPy and return logits to NumPy; PyTorch's batch lies on the device. Vectors
of weights are drawn, since a graph without a bias or a mean would drop the sums with them. A round
times each side once, in changing order; the ratio is that of the medians over rounds.

With --whole-calls, ours are whole calls of `evaluate` for the 10,000 validation images of
tiny_imagenet and of `predict` for as many JPEG files of them: loading the model, compiling, reading
and decoding included. PyTorch still makes forward passes alone, over as many images.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

OURS = ("tensorflow", "tensorflow-file", "jax", "jax-file")
SIDES = (*OURS, "torch")
PEER = Path(__file__).with_name("torch_peer.py")
NUM_IMAGES = 10_000  # of the validation split of tiny_imagenet
MIN_SECONDS = 0.5  # of a timing: passes are repeated until they last as long


@click.command()
@click.argument("recipe")
@click.option("--batch-size", default=256, show_default=True)
@click.option("--image-size", default=64, show_default=True)
@click.option("--num-classes", default=200, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--side", "sides", multiple=True, type=click.Choice(SIDES), help="Default: all.")
@click.option(
    "--mode", default="compile", type=click.Choice(["compile", "eager", "tuned"]), help="torch's."
)
@click.option("--whole-calls", is_flag=True, help="Time predict and evaluate.")
@click.option("--data-dir")
@click.option("--child", hidden=True)
def main(recipe: str, child: str | None, **options: object) -> None:
    if child:
        answer_lines(make_work(recipe, child, **options))
        return
    compare(recipe, **options)


# ------------------------------------------------------------------------------------- comparing


def compare(recipe, *, sides, rounds, batch_size, whole_calls, **options):
    sides = sides or (("tensorflow", "jax", "torch") if whole_calls else SIDES)
    workers = {
        side: Worker(side, command(side, recipe, batch_size, whole_calls, **options))
        for side in sides
    }
    kinds = ("predict", "evaluate") if whole_calls else ("forward",)
    for kind in kinds:
        seconds = {side: [] for side in workers}
        counts = {side: workers[side].calibrate(kind, batch_size) for side in workers}
        for number in range(rounds):
            for side in list(workers) if number % 2 else reversed(workers):
                seconds[side].append(workers[side].time(kind, counts[side]))
        report(kind, seconds, NUM_IMAGES if whole_calls else batch_size)
    for worker in workers.values():
        worker.end()


def report(kind, seconds, count):
    """Prints images per second of each side: median, smallest and largest, ratio to PyTorch."""
    for side, values in seconds.items():
        rates = count / np.array(values)
        ratio = np.median(seconds["torch"]) / np.median(values) if "torch" in seconds else np.nan
        print(
            f"{kind:9} {side:16} {np.median(rates):9.1f} images/s "
            f"({rates.min():.1f} to {rates.max():.1f})  ratio {ratio:5.2f}",
            flush=True,
        )


def command(side, recipe, batch_size, whole_calls, *, image_size, num_classes, mode, data_dir, **_):
    shared = ["--batch-size", batch_size, "--image-size", image_size, "--num-classes", num_classes]
    if side == "torch":
        # The peer's interface is fixed: float32, a recipe's file.
        extra = ["--recipe", recipe, "--dtype", "float32", "--mode", mode]
        return [sys.executable, PEER, *extra, *shared]
    extra = ["--whole-calls"] if whole_calls else []
    extra += ["--data-dir", data_dir] if data_dir else []
    return [sys.executable, __file__, recipe, "--child", side, *extra, *shared]


class Worker:
    """A side's process: one JSON line for each line that it is sent."""

    def __init__(self, side, words):
        environment = {**os.environ, "KERAS_BACKEND": side.partition("-")[0]}
        if side == "torch":
            environment["KERAS_BACKEND"] = "tensorflow"  # its imports of this package need one
        self.side = side
        self.process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise click.ClickException(f"the worker {self.side} ended; its message is above")
        answer = json.loads(line)
        if "error" in answer:
            raise click.ClickException(f"{self.side}: {answer['error']}")
        return answer

    def seconds(self, kind, count):
        print(kind, count, file=self.process.stdin, flush=True)
        return self.read()["seconds"]

    def calibrate(self, kind, batch_size):
        """Returns how many calls a timing takes, after one that compiles."""
        if kind != "forward":
            return -(-NUM_IMAGES // batch_size) if self.side == "torch" else 1
        self.seconds(kind, 1)
        return max(1, round(MIN_SECONDS / self.seconds(kind, 1)))

    def time(self, kind, count):
        """Returns the seconds of one forward pass, or of a whole call and as many images."""
        if kind == "forward":
            return self.seconds(kind, count) / count
        return self.seconds("forward" if self.side == "torch" else kind, count)

    def end(self):
        self.process.communicate("quit\n", timeout=60)


# ---------------------------------------------------------------------------------- our workers


def answer_lines(work: dict[str, Callable[[], object]]) -> None:
    print(json.dumps({"name": "keras_imnet64"}), flush=True)
    for line in sys.stdin:
        kind, _, count = line.strip().partition(" ")
        if kind == "quit":
            return
        start = time.perf_counter()
        for _ in range(int(count)):
            work[kind]()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def make_work(recipe, side, *, batch_size, image_size, num_classes, whole_calls, data_dir, **_):
    """Returns {kind: function} of a side."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    from keras_imnet64.evaluation.forward import compile_forward, keras_forward
    from keras_imnet64.models.fold import fold_batch_norm

    model = build(recipe, image_size, num_classes)
    if whole_calls:
        return calls_of_file(model, devices, data_dir)
    shape = (batch_size, image_size, image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    folded = not side.endswith("-file")
    forward = compile_forward(fold_batch_norm(model), devices) if folded else keras_forward(model)
    return {"forward": lambda: forward(pixels)}


def build(recipe, image_size, num_classes):
    """Returns the network of a recipe, its vectors drawn; normalisation is ImageNet's."""
    from keras_imnet64 import build_model, load_recipe

    network = load_recipe(recipe).model
    model = build_model(
        network.name, image_size=image_size, num_classes=num_classes, **network.options
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1 and variable.dtype == "float32":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def calls_of_file(model, devices, data_dir):
    """Returns `predict` and `evaluate` of a model file; JPEG files are copies of stored images."""
    from PIL import Image

    from keras_imnet64 import evaluate, predict
    from keras_imnet64.data.datasets import open_dataset
    from keras_imnet64.models.ship import write_model_file

    store = open_dataset("tiny_imagenet", "validation", data_dir=data_dir)
    folder = tempfile.TemporaryDirectory(prefix="scoring-")
    path, files = Path(folder.name) / "model.keras", Path(folder.name) / "images"
    info = {"dataset": "tiny_imagenet", "wnids": list(store.wnids), "image_size": store.image_size}
    write_model_file(model, path, info)
    files.mkdir()
    for number, pixels in enumerate(store.images):
        Image.fromarray(pixels).save(files / f"{number:06}.jpg", quality=90)
    return {
        "predict": lambda: predict(path, files, devices=devices),
        "evaluate": lambda: evaluate(path, data_dir=data_dir, devices=devices),
        "keeps": lambda: folder,  # until the worker ends
    }


if __name__ == "__main__":
    main()
