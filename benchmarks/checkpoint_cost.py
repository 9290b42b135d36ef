"""Measures the cost of a checkpoint: its bytes, the time to copy the state and the time to write.

    KERAS_BACKEND=jax python benchmarks/checkpoint_cost.py wrn36_5

The recipe's network and optimizer, untrained, for 1,000 classes of 64 px images, are written to
several checkpoints in a temporary folder (--folder selects the disk). The figures are medians.
Training steps wait while the state is copied; it is written at the same time as the next steps. The
share is that of both times in the time between two checkpoints, `train.checkpoint_every`.
"""

import statistics
import tempfile
import time
from pathlib import Path

import click


@click.command()
@click.argument("recipe", default="wrn36_5")
@click.option("--folder", type=click.Path(exists=True, path_type=Path))
@click.option("--times", default=7, show_default=True)
def main(recipe, folder, times):
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    model, variables, minutes = prepare(recipe, devices)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        costs = [cost(model, variables, Path(place), number) for number in range(1 + times)]
    copying, writing, size = (statistics.median(values) for values in zip(*costs[1:], strict=True))
    share = (copying + writing) / (60 * minutes)
    print(
        f"{recipe} on {devices.backend}: {size / 1e6:.1f} MB, copied in {1000 * copying:.0f} ms, "
        f"written in {1000 * writing:.0f} ms: {100 * share:.2f} % of {minutes} minutes"
    )


def prepare(name, devices):
    """Returns the compiled model, its variables by path, and minutes between checkpoints."""
    from keras_imnet64 import build_model, load_recipe
    from keras_imnet64.training.build import compile_for_training, training_model
    from keras_imnet64.training.state import variables_by_path

    recipe = load_recipe(name)
    network = build_model(
        recipe.model.name, image_size=64, num_classes=1000, **recipe.model.options
    )
    model = training_model(network)
    metrics = compile_for_training(model, recipe, 1000, devices)
    every = recipe.train.checkpoint_every
    return model, variables_by_path(model, metrics), int(every.removesuffix(" min"))


def cost(model, variables, folder, number):
    """Returns the seconds of copying, the seconds of checking and writing, and the bytes."""
    from keras_imnet64.records import RunState
    from keras_imnet64.training.finite import find_not_finite
    from keras_imnet64.training.state import read_variables, save_checkpoint

    begin = time.perf_counter()
    arrays = read_variables(model, variables)
    copied = time.perf_counter()
    find_not_finite(arrays)
    path = save_checkpoint(folder, arrays, RunState(epoch=number, step=0))
    return copied - begin, time.perf_counter() - copied, path.stat().st_size


if __name__ == "__main__":
    main()
