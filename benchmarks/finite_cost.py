"""What it costs to look, in each training step, whether every number of the state is finite.

    KERAS_BACKEND=jax python benchmarks/finite_cost.py wrn36_2

Two compiled copies of the recipe's network and optimizer for 1,000 classes of 64 px train on one
batch that is there, the one looking as `fit` does and the other not. Blocks of steps of the two
alternate in one process, each side the first in every second round. The figures are the medians
over the rounds of the wall time and of the processor time of a step; beside other work the second
is the steadier. Its standard error is that of the rounds drawn again, with replacement.
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
    from keras_imnet64.backend import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    models = {side: prepare(recipe, devices, side == "looking") for side in ("plain", "looking")}
    batch = a_batch(batch_size)
    times = {side: [] for side in models}
    for number in range(1 + rounds):  # the first compiles and is not counted
        for side in list(models) if number % 2 else reversed(models):
            times[side].append(seconds_per_step(models[side], batch, steps))
    print(f"{recipe} on {devices.backend}, {batch_size} images per step")
    times = {side: 1000 * np.array(values[1:]) for side, values in times.items()}
    for column, kind in enumerate(("wall", "processor")):
        plain, looking = (times[side][:, column] for side in ("plain", "looking"))
        shares = [share(plain[i], looking[i]) for i in samples(rounds)]
        print(
            f"{kind:9} {np.median(plain):8.2f} ms plain {np.median(looking):8.2f} ms looking: "
            f"{share(plain, looking):+.2f} +- {np.std(shares):.2f} %"
        )


def share(plain, looking):
    """Percent that looking adds, from the medians over paired blocks."""
    return 100 * (np.median(looking) / np.median(plain) - 1)


def samples(rounds, number=2000):
    """The rounds drawn again so often, with replacement."""
    return np.random.default_rng(0).integers(0, rounds, (number, rounds))


def prepare(name, devices, looking):
    """The recipe's network, compiled as `fit` does, with or without the look at its state."""
    from keras_imnet64.evaluation.metrics import accuracy_metrics
    from keras_imnet64.models import build_model
    from keras_imnet64.recipe import load_recipe
    from keras_imnet64.training.build import make_optimizer_of
    from keras_imnet64.training.finite import report_states_that_are_not_finite
    from keras_imnet64.training.loss import CrossEntropy
    from keras_imnet64.training.parallel import jit_compile

    recipe = load_recipe(name)
    model = build_model(recipe.model.name, image_size=64, num_classes=1000, **recipe.model.options)
    model.compile(
        make_optimizer_of(recipe, 1000),
        CrossEntropy(0.0),
        metrics=accuracy_metrics(),
        jit_compile=jit_compile(recipe.train.xla, devices),
    )
    model.optimizer.build(model.trainable_variables)
    if looking:
        report_states_that_are_not_finite(model)
    return model


def a_batch(size):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 64, 64, 3)).astype("uint8")
    labels = rng.integers(0, 1000, size).astype("int32")
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


def seconds_per_step(model, batch, steps):
    """(of wall time, of processor time) of the second half of twice so many steps."""
    import keras

    ends = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append((time.perf_counter(), time.process_time()))
    )
    model.fit(batch, steps_per_epoch=steps, epochs=2, callbacks=[note], shuffle=False, verbose=0)
    return np.subtract(ends[1], ends[0]) / steps


if __name__ == "__main__":
    main()
