"""Compares a training step fed by the data pipeline with the same step on one batch in memory.

    KERAS_BACKEND=jax python benchmarks/step_time.py wrn36_2 --data-dir DIR

One side calls `Model.fit` with the recipe's model, loss, optimizer, augmentation and data set (or
the substitute of `tiny_as_imagenet64.py`); the other repeats the first batch. Blocks of steps of
both sides alternate in one process; each side comes first in every second round. Only the second
half of a block is timed, when the pipeline runs as it does within an epoch. The result is the ratio
of the medians: 1.00 if the pipeline costs nothing. Its standard error comes from bootstrap samples
of the rounds. Both sides include the copy to the device.
"""

import time

import click
import numpy as np

MAX_AHEAD = 64  # batches: with more steps left, the pipeline never runs into the end of the epoch


@click.command()
@click.argument("recipe", default="wrn36_2")
@click.option("--data-dir")
@click.option("--batch-size", type=int, help="Replaces the batch size of the recipe.")
@click.option("--steps", default=5, show_default=True, help="Timed steps of a block.")
@click.option("--rounds", default=10, show_default=True, help="Blocks of each side.")
def main(recipe, data_dir, batch_size, steps, rounds):
    settings = [f"data.steps_per_epoch={2 * steps + MAX_AHEAD}"]
    settings += [f"data.batch_size={batch_size}"] if batch_size else []
    setup = prepare(recipe, settings, data_dir)
    devices, model, stream = setup.devices, setup.model, setup.stream
    import tensorflow as tf

    datasets = {
        "pipeline": stream.dataset(),
        "resident": tf.data.Dataset.from_tensors(stream.batch(epoch=0, step=0)).repeat(),
    }
    seconds = {side: [] for side in datasets}
    for epoch in range(1 + rounds):  # the first round compiles and is not counted
        stream.begin(epoch)
        for side in list(datasets) if epoch % 2 else reversed(datasets):
            seconds[side].append(seconds_per_step(model, datasets[side], steps))
    seconds = {side: np.array(values[1:]) for side, values in seconds.items()}
    print(f"{devices.backend} on {', '.join(devices.names)}, {stream.batch_size} images per step")
    for side, values in seconds.items():
        blocks = " ".join(f"{1000 * value:.1f}" for value in values)
        print(f"{side:9} {1000 * np.median(values):9.1f} ms per step  [{blocks}]")
    error = np.std([ratio(seconds, sample) for sample in bootstrap_samples(rounds)])
    print(f"ratio     {ratio(seconds, slice(None)):9.3f} +- {error:.3f}")


def ratio(seconds, rounds):
    """Returns the ratio of the medians over these rounds, pipeline to resident."""
    return np.median(seconds["pipeline"][rounds]) / np.median(seconds["resident"][rounds])


def bootstrap_samples(num_rounds, num_samples=2000):
    """Returns samples of the rounds with replacement, integers [num_samples, num_rounds]."""
    return np.random.default_rng(0).integers(0, num_rounds, (num_samples, num_rounds))


def prepare(name, settings, data_dir):
    """Returns the `TrainingSetup` of a recipe: model, stream and devices, as `fit` makes them."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    from keras_imnet64 import load_recipe, training_setup

    return training_setup(load_recipe(name, settings), data_dir=data_dir, devices=devices)


def seconds_per_step(model, dataset, steps):
    """Returns the time per step of the second half of 2 * steps; Keras waits at the end of each."""
    import keras

    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
    )
    model.fit(dataset, steps_per_epoch=steps, epochs=2, callbacks=[clock], shuffle=False, verbose=0)
    return (ends[1] - ends[0]) / steps


if __name__ == "__main__":
    main()
