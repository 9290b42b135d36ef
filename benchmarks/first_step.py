"""Compares the loss of a recipe's first step under TensorFlow and JAX, from the same seed.

python benchmarks/first_step.py wrn36_2 --data-dir DIR
"""

import json
import os
import subprocess
import sys

import click


@click.command()
@click.argument("recipe")
@click.option("--data-dir")
@click.option("--child", is_flag=True, hidden=True)
def main(recipe, data_dir, child):
    if child:
        print(json.dumps(first_loss(recipe, data_dir)))
        return
    losses = {}
    for backend in ("tensorflow", "jax"):
        command = [sys.executable, __file__, recipe, "--child"]
        command += ["--data-dir", data_dir] if data_dir else []
        environment = os.environ | {"KERAS_BACKEND": backend}
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        losses[backend] = json.loads(output.splitlines()[-1])
        print(f"{backend:<12} {losses[backend]!r}")
    first, second = losses.values()
    print(f"{'relative':<12} {abs(first - second) / abs(first):.2e}")


def first_loss(name, data_dir):
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    from keras_imnet64 import load_recipe, training_setup

    recipe = load_recipe(name, ["data.steps_per_epoch=1"])  # for small data sets
    setup = training_setup(recipe, data_dir=data_dir, devices=devices)
    images, labels = setup.stream.batch(epoch=0, step=0)
    return float(setup.model.train_on_batch(images, labels)[0])


if __name__ == "__main__":
    main()
