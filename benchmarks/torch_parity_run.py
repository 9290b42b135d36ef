"""Trains a recipe step by step beside the same network in plain PyTorch, and compares the losses.

    python benchmarks/torch_parity_run.py tiny_resnet18 --out parity --minutes 30
    python benchmarks/torch_parity_run.py tiny_resnet18 --out parity --steps 5 --batch-size 16

Needs torch and torchvision. Both sides have the same initial weights, drawn by us; take the same
batches, pixel by pixel, from our stream; and follow the same schedule, L2 and dtype. The network is
torchvision's with our stem, the optimizer torch.optim.SGD or AdamW, on one device each, in turns.

Writes into the folder --out, which must not exist:

    losses.csv   a row for each step, written as the step is done: step, learning_rate, then for our
                 side and for PyTorch's (torch_...) loss, which is what is minimised with its L2,
                 cross_entropy, the loss without it, and seconds
    losses.png   the cross-entropies of both sides against steps, drawn anew after each 25 steps
    recipe.toml  the recipe with every value filled in

Both are losses of the training batch, in training mode, before the update of the step. A run that
is stopped keeps what is written; it cannot go on from there.

Keras multiplies a gradient by the learning rate as it enters the velocity, PyTorch as it leaves it,
so that the two differ for some ten steps after each change of the rate, and during a warm-up in
each. --momentum torch, the default, leaves torch.optim.SGD as it is. --momentum keras scales its
momentum buffers by (previous rate / rate) before each step, which makes both the same algorithm:
what differs then is rounding, which grows from step to step, since training is chaotic.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from mistakes import one_sentence
from torch_peer import IMAGENET_MEAN, IMAGENET_STD, Update, check_step, configure

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_atomic
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe

if TYPE_CHECKING:
    import torch

    from keras_imnet64.training.setup import TrainingSetup

STEPS_PER_PICTURE = 25


@dataclass(frozen=True)
class Side:
    """What a side reports of a step."""

    loss: float  # with the L2 penalty
    cross_entropy: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """A row of losses.csv."""

    step: int  # counted from 1
    learning_rate: float
    loss: float
    torch_loss: float
    cross_entropy: float
    torch_cross_entropy: float
    seconds: float
    torch_seconds: float


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--steps", type=click.IntRange(1), help="Number of steps.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Time for both sides.")
@click.option("--batch-size", type=click.IntRange(2), help="Default: the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for fit.")
@click.option("--momentum", type=click.Choice(["torch", "keras"]), default="torch")
@click.option("--backend", help="tensorflow or jax; default: as for fit.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="As for fit.")
def main(
    recipe: str,
    out: Path,
    steps: int | None,
    minutes: float | None,
    batch_size: int | None,
    overrides: tuple[str, ...],
    momentum: str,
    backend: str | None,
    data_dir: Path | None,
) -> None:
    """Compares the losses of a recipe with those of plain PyTorch."""
    with one_sentence():
        if steps is None and minutes is None:
            raise UserError("say how long: --steps N or --minutes N")
        if batch_size:
            overrides = (*overrides, f"data.batch_size={batch_size}")
        loaded = load_recipe(recipe, overrides)
        check_recipe(loaded)
        if out.exists():
            raise UserError(f"{out} exists and is never overwritten: choose another --out")
        if importlib.util.find_spec("torch") is None:
            raise UserError(
                "the PyTorch side needs torch, which is not installed: pip install torch"
            )
        rows = compare(*both_sides(loaded, momentum, backend, data_dir))
        write_rows(loaded, rows, out, steps or math.inf, 60 * (minutes or math.inf))


def check_recipe(recipe: Recipe) -> None:
    """Refuses a recipe that the PyTorch side does not train in the same way."""
    if recipe.train.sizes:
        raise UserError("the PyTorch side has no train.sizes: remove it")
    if any(getattr(step, "mixes", False) for step in recipe.augment):
        raise UserError("images that are mixed have two labels, which the PyTorch side lacks")
    if recipe.train.accumulate_steps > 1:
        raise UserError("the PyTorch side has no train.accumulate_steps; it must be 1")
    for option in ("dropout", "drop_path_rate"):
        if getattr(recipe.model, option, 0):
            raise UserError(
                f"the two sides would drop other paths or numbers: set model.{option}=0"
            )
    if recipe.schedule.name == "plateau":
        raise UserError('the "plateau" schedule decides by epochs, of which there are none here')
    check_step(recipe)


def both_sides(
    recipe: Recipe, momentum: str, backend: str | None, data_dir: Path | None
) -> tuple[TrainingSetup, TorchSide]:
    """Returns what `fit` trains, and the same in PyTorch, before the first step."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend(backend)
    devices = take_devices("1")
    from keras_imnet64.training.setup import training_setup

    setup = training_setup(recipe, data_dir=data_dir, devices=devices)
    return setup, TorchSide(setup, momentum)


def compare(setup: TrainingSetup, theirs: TorchSide) -> Iterator[Row]:
    """Makes the steps of a run on both sides, and yields a row for each."""
    from keras_imnet64.models.keras_private import learning_rates_at

    for step in range(setup.recipe.train.epochs * setup.stream.steps_per_epoch):
        images, labels = setup.stream.batch(*divmod(step, setup.stream.steps_per_epoch))
        rate = float(learning_rates_at(setup.model.optimizer, np.array([step]))[0])
        ours, other = our_step(setup, images, labels), theirs.step(images, labels, rate)
        yield Row(
            step + 1,
            rate,
            ours.loss,
            other.loss,
            ours.cross_entropy,
            other.cross_entropy,
            ours.seconds,
            other.seconds,
        )


# ------------------------------------------------------------------------------------- both sides


def our_step(setup: TrainingSetup, images: np.ndarray, labels: np.ndarray) -> Side:
    """Makes one step of the compiled model that `fit` trains."""
    penalty = our_penalty(setup)
    setup.model.reset_metrics()  # the loss is a mean over the steps since then
    start = time.perf_counter()
    loss = float(setup.model.train_on_batch(images, labels, return_dict=True)["loss"])
    return Side(loss, loss - penalty, time.perf_counter() - start)


def our_penalty(setup: TrainingSetup) -> float:
    """Returns the L2 term of the loss, summed in float64."""
    import keras

    if keras.backend.backend() == "jax":
        setup.model.jax_state_sync()
    penalty = 0.0
    for variable in setup.model.trainable_variables:
        if variable.regularizer is not None:
            squares = np.square(keras.ops.convert_to_numpy(variable))
            penalty += variable.regularizer.l2 * float(np.sum(squares, dtype="float64"))
    return penalty


class TorchSide:
    """The network of a recipe in PyTorch, with our initial weights and its own optimizer."""

    def __init__(self, setup: TrainingSetup, momentum: str) -> None:
        import torch
        from torch_networks import Normalized, build_network

        recipe = setup.recipe
        configure("tuned")  # keeps freed memory, which changes no number
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_float32_matmul_precision("highest")  # the comparison is of numbers, not of speed
        size, num_classes = setup.data.image_size, setup.data.num_classes
        network = build_network(recipe.model, size, num_classes)
        fit = network.load_state_dict(our_weights(setup), strict=False)
        unfilled = [key for key in fit.missing_keys if not key.endswith("num_batches_tracked")]
        if wrong := [*fit.unexpected_keys, *unfilled]:
            raise UserError(
                f"the PyTorch side's network is another one: {wrong[0]} is in one of them only"
            )
        network = Normalized(network, *mean_and_std(setup))
        self.network = network.to(self.device, memory_format=torch.channels_last).train()
        self.update = Update(self.network, recipe)
        if self.update.shrink:
            raise UserError("the PyTorch side has no decoupled decay with SGD: use loss.l2")
        self.recipe, self.scales_momentum = recipe, momentum == "keras"
        self.last_rate: float | None = None

    def step(self, images: np.ndarray, labels: np.ndarray, rate: float) -> Side:
        """Makes one step at a learning rate."""
        import torch
        from torch.nn import functional

        start = time.perf_counter()
        pixels, targets = (torch.from_numpy(array).to(self.device) for array in (images, labels))
        bfloat16 = self.recipe.train.dtype == "mixed_bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            logits = self.network(pixels)
        smoothing = self.recipe.loss.label_smoothing
        loss = functional.cross_entropy(logits.float(), targets.long(), label_smoothing=smoothing)
        with torch.no_grad():
            squares = sum(p.double().square().sum() for p in self.update.penalized)
        loss.backward()
        self._set_rate(rate)
        self.update()
        cross_entropy = loss.item()
        seconds = time.perf_counter() - start
        return Side(cross_entropy + self.recipe.loss.l2 * float(squares), cross_entropy, seconds)

    def _set_rate(self, rate: float) -> None:
        """Sets the rate of the next update; see `--momentum`."""
        optimizer = self.update.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self.scales_momentum and self.last_rate:
            for state in optimizer.state.values():
                if (buffer := state.get("momentum_buffer")) is not None:
                    buffer.mul_(self.last_rate / rate)
        self.last_rate = rate


def our_weights(setup: TrainingSetup) -> dict[str, torch.Tensor]:
    """Returns our present weights by their PyTorch names, in PyTorch's layout."""
    import keras
    import torch

    from keras_imnet64.convert.namings import find_namings, tensors_of

    if keras.backend.backend() == "jax":
        setup.model.jax_state_sync()
    weights = {}
    for tensor in tensors_of(setup.network, find_namings(setup.recipe.model.name)[0]):
        ours = keras.ops.convert_to_numpy(tensor.variable)
        # Converting the places of PyTorch's numbers tells where each of them is in ours.
        places = tensor.to_keras(np.arange(ours.size).reshape(tensor.shape))
        theirs = np.empty(ours.size, ours.dtype)
        theirs[places.ravel()] = ours.ravel()
        weights[tensor.name] = torch.from_numpy(theirs.reshape(tensor.shape))
    return weights


def mean_and_std(setup: TrainingSetup) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of our normalisation, on the 0..1 scale."""
    from keras_imnet64.training.model import resolve_normalization

    resolved = resolve_normalization(setup.recipe.model, setup.data)
    if isinstance(resolved, str):  # "imagenet"
        return np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    std = np.broadcast_to(np.asarray(resolved["std"], "float64"), 3)
    return np.asarray(resolved["mean"]), std


# ---------------------------------------------------------------------------------------- results


def write_rows(
    recipe: Recipe, rows: Iterator[Row], out: Path, max_steps: float, max_seconds: float
) -> None:
    """Writes the rows as they come, and the picture now and then, until the end of either limit.

    The time begins before the first step, and includes compilation.
    """
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror}): choose a new --out") from error
    write_atomic(out / "recipe.toml", recipe.to_toml())
    done: list[Row] = []
    start = time.monotonic()
    with open(out / "losses.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for row in rows:
            done.append(row)
            writer.writerow(asdict(row))
            file.flush()
            over = len(done) >= max_steps or time.monotonic() - start >= max_seconds
            if over or len(done) % STEPS_PER_PICTURE == 0:
                write_atomic(out / "losses.png", picture(done, recipe))
                say(summary(done))
            if over:
                break


def picture(rows: list[Row], recipe: Recipe) -> bytes:
    """Returns a PNG of both cross-entropies against steps."""
    import keras

    from keras_imnet64.charts import Curve, draw

    names = {"tensorflow": "TensorFlow", "jax": "JAX"}
    backend = keras.backend.backend()
    steps = tuple(float(row.step) for row in rows)
    curves = [
        Curve(
            f"{recipe.name}, {names.get(backend, backend)}",
            steps,
            tuple(row.cross_entropy for row in rows),
        ),
        Curve(
            "the same in PyTorch",
            steps,
            tuple(row.torch_cross_entropy for row in rows),
            dashed=True,
        ),
    ]
    return draw(curves, "steps", "cross-entropy of the training batch", markers=False)


def summary(rows: list[Row]) -> str:
    """Returns the means of the last steps, and the largest difference so far, as a line."""
    last = rows[-STEPS_PER_PICTURE:]
    ours = float(np.mean([row.cross_entropy for row in last]))
    theirs = float(np.mean([row.torch_cross_entropy for row in last]))
    largest = max(abs(row.cross_entropy - row.torch_cross_entropy) for row in rows)
    return (
        f"step {rows[-1].step}: mean cross-entropy of the last {len(last)} steps {ours:.4f}, "
        f"PyTorch {theirs:.4f}; largest difference of a step so far {largest:.2g}"
    )


if __name__ == "__main__":
    main()
