"""A training step fed by the real pipeline, beside the same step on one batch that is there.

    KERAS_BACKEND=jax python benchmarks/step_time.py wrn36_2 --data-dir DIR

`Model.fit` with the recipe's model, loss, optimizer and augmentation on its own data set (the
stand-in of `tiny_as_imagenet64.py` will do); the other side repeats the first batch. Blocks of
steps of the two alternate in one process, each side the first in every second round. Each begins
anew, and only its second half is timed, when the pipeline runs as it does within an epoch. The
ratio of the medians is the figure: 1.00 if feeding the network costs nothing. Its standard error is
that of the rounds drawn again, with replacement. The copy to the device is in both.
"""

import time

import click
import numpy as np

AHEAD = 64  # batches, more than a pipeline makes ahead: an epoch's end would leave it less to do


@click.command()
@click.argument("recipe", default="wrn36_2")
@click.option("--data-dir")
@click.option("--batch-size", type=int, help="In place of the recipe's.")
@click.option("--steps", default=5, show_default=True, help="Timed steps of a block.")
@click.option("--rounds", default=10, show_default=True, help="Blocks of each side.")
def main(recipe, data_dir, batch_size, steps, rounds):
    settings = [f"data.steps_per_epoch={2 * steps + AHEAD}"]
    settings += [f"data.batch_size={batch_size}"] if batch_size else []
    setup = prepare(recipe, settings, data_dir)
    devices, model, stream = setup.devices, setup.model, setup.stream
    import tensorflow as tf

    datasets = {
        "pipeline": stream.dataset(),
        "resident": tf.data.Dataset.from_tensors(stream.batch(epoch=0, step=0)).repeat(),
    }
    seconds = {side: [] for side in datasets}
    for epoch in range(1 + rounds):  # the first compiles and is not counted
        stream.begin(epoch)
        for side in list(datasets) if epoch % 2 else reversed(datasets):
            seconds[side].append(seconds_per_step(model, datasets[side], steps))
    seconds = {side: np.array(values[1:]) for side, values in seconds.items()}
    print(f"{devices.backend} on {', '.join(devices.names)}, {stream.batch_size} images per step")
    for side, values in seconds.items():
        blocks = " ".join(f"{1000 * value:.1f}" for value in values)
        print(f"{side:9} {1000 * np.median(values):9.1f} ms per step  [{blocks}]")
    error = np.std([ratio(seconds, sample) for sample in samples(rounds)])
    print(f"ratio     {ratio(seconds, slice(None)):9.3f} +- {error:.3f}")


def ratio(seconds, rounds):
    """Of the medians over these rounds, pipeline to resident."""
    return np.median(seconds["pipeline"][rounds]) / np.median(seconds["resident"][rounds])


def samples(rounds, number=2000):
    """The rounds drawn again so often, with replacement."""
    return np.random.default_rng(0).integers(0, rounds, (number, rounds))


def prepare(name, settings, data_dir):
    """Returns the `TrainingSetup` of a recipe: model, stream and devices, as `fit` makes them."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    from keras_imnet64 import load_recipe, training_setup

    return training_setup(load_recipe(name, settings), data_dir=data_dir, devices=devices)


def seconds_per_step(model, dataset, steps):
    """Of the second half of twice so many steps; at the end of a half Keras waits for the loss."""
    import keras

    ends = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
    )
    model.fit(dataset, steps_per_epoch=steps, epochs=2, callbacks=[note], shuffle=False, verbose=0)
    return (ends[1] - ends[0]) / steps


if __name__ == "__main__":
    main()
