"""Measures the cost of checking the state of training for non-finite numbers.

    KERAS_BACKEND=jax python benchmarks/finite_cost.py wrn36_2

The recipe's network and optimizer for 1,000 classes of 64 px images train on one batch in memory.
Blocks of steps without a check alternate in one process with blocks that check before each step;
each kind comes first in every second round. The cost of a check is the difference of the medians;
its share is computed for the interval at which `fit` checks. Processor time varies less than wall
time on a shared machine. The standard error comes from bootstrap samples of the rounds.
"""

import time

import click
import numpy as np


@click.command()
@click.argument("recipe", default="wrn36_2")
@click.option("--batch-size", default=8, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Steps of a block.")
@click.option("--rounds", default=20, show_default=True, help="Blocks of each side.")
def main(recipe, batch_size, steps, rounds):
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    model, check = prepare(recipe, devices)
    batch = repeated_batch(batch_size)
    times = {side: [] for side in ("plain", "checking")}
    for number in range(1 + rounds):  # the first round compiles and is not counted
        for side in list(times) if number % 2 else reversed(times):
            called = [check] if side == "checking" else []
            times[side].append(seconds_per_step(model, batch, steps, called))
    print(f"{recipe} on {devices.backend}, {batch_size} images per step")
    plain, checking = (1000 * np.array(times[side][1:]) for side in times)
    for column, kind in enumerate(("wall", "processor")):
        print(f"{kind:9} {summary(plain[:, column], checking[:, column])}")


def summary(plain, checking):
    """Describes the costs of a step and of a check, from milliseconds per step of each round."""
    from keras_imnet64.training.callbacks.finiteness import STEPS_BETWEEN_CHECKS

    def cost(rounds):
        return np.median(checking[rounds]) - np.median(plain[rounds])

    step, check = np.median(plain), cost(slice(None))
    error = np.std([cost(rounds) for rounds in bootstrap_samples(len(plain))])
    return (
        f"{step:8.2f} ms per step, {check:.2f} +- {error:.2f} ms per check: "
        f"{100 * check / STEPS_BETWEEN_CHECKS / step:.3f} % at one in {STEPS_BETWEEN_CHECKS} steps"
    )


def prepare(name, devices):
    """Returns the recipe's network as `fit` compiles it, and a callback that checks its state."""
    import keras

    from keras_imnet64 import build_model, load_recipe
    from keras_imnet64.training.build import compile_for_training, training_model
    from keras_imnet64.training.finite import FiniteCheck
    from keras_imnet64.training.state import variables_by_path

    recipe = load_recipe(name)
    network = build_model(
        recipe.model.name, image_size=64, num_classes=1000, **recipe.model.options
    )
    model = training_model(network)
    metrics = compile_for_training(model, recipe, 1000, devices)
    check = FiniteCheck(model, variables_by_path(model, metrics))
    return model, keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: check())


def repeated_batch(size):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 64, 64, 3)).astype("uint8")
    labels = rng.integers(0, 1000, size).astype("int32")
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


def seconds_per_step(model, batch, steps, callbacks):
    """Returns (wall time, processor time) per step, from the second half of 2 * steps steps."""
    import keras

    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append((time.perf_counter(), time.process_time()))
    )
    options = {"steps_per_epoch": steps, "epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(batch, callbacks=[*callbacks, clock], **options)
    return np.subtract(ends[1], ends[0]) / steps


def bootstrap_samples(num_rounds, num_samples=2000):
    """Returns samples of the rounds with replacement, integers [num_samples, num_rounds]."""
    return np.random.default_rng(0).integers(0, num_rounds, (num_samples, num_rounds))


if __name__ == "__main__":
    main()
