"""Compares TensorFlow's training step through our kernels with the one through Keras' layers.

    python benchmarks/training_kernels.py wrn36_2 --set model.depth=12 --batch-size 64

Both sides train a network of the recipe on one batch of random images in memory, with the recipe's
loss, L2, optimizer and metrics, as `fit` compiles them, on one device. Blocks of steps alternate in
one process; each side comes first in every second round. The result is the ratio of the medians.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import click
import numpy as np
from mistakes import one_sentence

from keras_imnet64.bench import subject_of
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe

if TYPE_CHECKING:
    from keras_imnet64.backend.devices import Devices
    from keras_imnet64.core.types import Tensor

Step: TypeAlias = "Callable[[], Mapping[str, Tensor]]"  # makes one, and returns its metrics
DTYPES = ("float32", "mixed_bfloat16")


@click.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, help="A setting of the recipe, KEY=VALUE.")
@click.option("--batch-size", type=click.IntRange(1), required=True)
@click.option(
    "--steps", type=click.IntRange(1), default=3, show_default=True, help="Steps of a block."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Blocks of each side."
)
def main(recipe: str, settings: tuple[str, ...], batch_size: int, steps: int, rounds: int) -> None:
    with one_sentence():
        compare(recipe, settings, batch_size, steps, rounds)


def compare(name: str, settings: tuple[str, ...], batch_size: int, steps: int, rounds: int) -> None:
    recipes = {dtype: recipe_of(name, settings, batch_size, dtype) for dtype in DTYPES}
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend("tensorflow")
    devices = take_devices(1)
    for dtype, recipe in recipes.items():
        sides = {"Keras' layers": False, "kernels": True}
        steppers = {name: make_step(recipe, devices, fast) for name, fast in sides.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in list(sides) if number % 2 else reversed(sides):
                seconds[name].append(seconds_per_step(steppers[name], steps))
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        for name, each in seconds.items():
            blocks = " ".join(f"{batch_size / value:.1f}" for value in each)
            print(f"{dtype:14} {name:13} {batch_size / medians[name]:8.1f} images/s  [{blocks}]")
        keras_layers, kernels = medians.values()
        print(f"{dtype:14} ratio         {keras_layers / kernels:8.2f}")


def recipe_of(name: str, settings: tuple[str, ...], batch_size: int, dtype: str) -> Recipe:
    """Returns a recipe whose network can be trained on random images."""
    stated = [*settings, f"data.batch_size={batch_size}", f'train.dtype="{dtype}"']
    recipe = load_recipe(name, stated)
    subject_of(recipe, recipe.num_classes)  # refuses a data set whose classes are not known
    return recipe


def make_step(recipe: Recipe, devices: "Devices", fast: bool) -> Step:
    """Returns training steps, two of which are made.

    Args:
        fast: whether they call our kernels.
    """
    import tensorflow as tf

    from keras_imnet64.bench.stand_in import random_data, stream_on
    from keras_imnet64.training.build import compile_for_training, training_model
    from keras_imnet64.training.model import make_model

    data = random_data(recipe)
    network = make_model(recipe, data, load_initial_weights=False)
    model = training_model(network) if fast else network
    compile_for_training(model, recipe, 1000, devices)
    batch = stream_on(data, recipe).batch(epoch=0, step=0)
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    model.make_train_function()
    step = model.train_function
    for _ in range(2):
        step(batches)
    return lambda: step(batches)


def seconds_per_step(step: Step, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        metrics = step()
    for value in metrics.values():
        np.asarray(value)  # waits for the device
    return (time.perf_counter() - begin) / count


if __name__ == "__main__":
    main()
