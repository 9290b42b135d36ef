"""What it costs to look at the state of training for numbers that are not finite.

    KERAS_BACKEND=jax python benchmarks/finite_cost.py wrn36_2

The recipe's network and optimizer for 1,000 classes of 64 px train on one batch that is there.
Blocks of steps without a look alternate in one process with blocks that look before each step,
each kind the first in every second round. The difference of the medians is the cost of a look, and
the share that of one look in as many steps as `fit` makes between two. Wall time and processor time
are given: beside other work the second is the steadier. The standard error is that of the rounds
drawn again, with replacement.
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
    model, look = prepare(recipe, devices)
    batch = a_batch(batch_size)
    times = {side: [] for side in ("plain", "looking")}
    for number in range(1 + rounds):  # the first compiles and is not counted
        for side in list(times) if number % 2 else reversed(times):
            called = [look] if side == "looking" else []
            times[side].append(seconds_per_step(model, batch, steps, called))
    print(f"{recipe} on {devices.backend}, {batch_size} images per step")
    plain, looking = (1000 * np.array(times[side][1:]) for side in times)
    for column, kind in enumerate(("wall", "processor")):
        print(f"{kind:9} {sentence(plain[:, column], looking[:, column])}")


def sentence(plain, looking):
    """The step, the look and the share of the look, from milliseconds per step of each round."""
    from keras_imnet64.training.callbacks import LOOK_EVERY

    def cost(rounds):
        return np.median(looking[rounds]) - np.median(plain[rounds])

    step, look = np.median(plain), cost(slice(None))
    error = np.std([cost(rounds) for rounds in samples(len(plain))])
    return (
        f"{step:8.2f} ms per step, {look:.2f} +- {error:.2f} ms per look: "
        f"{100 * look / LOOK_EVERY / step:.3f} % at one in {LOOK_EVERY} steps"
    )


def samples(rounds, number=2000):
    """The rounds drawn again so often, with replacement."""
    return np.random.default_rng(0).integers(0, rounds, (number, rounds))


def prepare(name, devices):
    """The recipe's network, compiled as `fit` does, and a callback that looks at its state."""
    import keras

    from keras_imnet64.evaluation.metrics import accuracy_metrics
    from keras_imnet64.models import build_model
    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.training.build import make_optimizer_of
    from keras_imnet64.training.finite import FiniteCheck
    from keras_imnet64.training.loss import CrossEntropy
    from keras_imnet64.training.parallel import jit_compile
    from keras_imnet64.training.state import variables_by_path

    recipe = load_recipe(name)
    model = build_model(recipe.model.name, image_size=64, num_classes=1000, **recipe.model.options)
    model.compile(
        make_optimizer_of(recipe, 1000),
        CrossEntropy(0.0),
        metrics=accuracy_metrics(),
        jit_compile=jit_compile(recipe.train.xla, devices),
    )
    model.optimizer.build(model.trainable_variables)
    check = FiniteCheck(model, variables_by_path(model, []))
    look = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: check())
    return model, look


def a_batch(size):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 64, 64, 3)).astype("uint8")
    labels = rng.integers(0, 1000, size).astype("int32")
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


def seconds_per_step(model, batch, steps, callbacks):
    """(of wall time, of processor time) of the second half of twice so many steps."""
    import keras

    ends = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append((time.perf_counter(), time.process_time()))
    )
    options = {"steps_per_epoch": steps, "epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(batch, callbacks=[*callbacks, note], **options)
    return np.subtract(ends[1], ends[0]) / steps


if __name__ == "__main__":
    main()
