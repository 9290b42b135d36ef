"""Trains in forked processes that kill themselves, one after the other, until one is left to end.

    python killed.py OUT DATA_DIR RECIPE KILL...

A KILL is "step N" (at the beginning of the N-th step of a process), "during step N" (while it is
computed), or "before|after FUNCTION N" (around the N-th call of os.replace, os.fsync or os.unlink).
Nothing of TensorFlow or JAX has been started when a process is forked. Prints as JSON how each
process ended. A davit_tiny has four blocks here.
"""

import json
import os
import signal
import sys
import threading

import keras

from keras_imnet64.models.davit import VARIANTS, Variant
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.training.fit import fit

FOUR_BLOCKS = Variant(32, (1, 1))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt(keras.callbacks.Callback):
    def __init__(self, step, during):
        super().__init__()
        self.left, self.during = step, during

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0 and self.during:
            threading.Timer(0.002, die).start()
        elif self.left == 0:
            die()


def around(name, when, number):
    """Let the N-th call of a function of `os` be the last thing that this process does."""
    function, calls = getattr(os, name), 0

    def counted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            die()
        result = function(*arguments, **options)
        if calls == number:
            die()
        return result

    setattr(os, name, counted)


def train(out, data_dir, recipe, kill):
    callbacks = []
    *what, number = (kill or "never 0").split()
    if what[-1] == "step":
        callbacks = [KillAt(int(number), what[0] == "during")]
    elif kill:
        around(what[1], what[0], int(number))
    fit(load_recipe(recipe), out, data_dir=data_dir, callbacks=callbacks)


def main(out, data_dir, recipe, *kills):
    VARIANTS["davit_tiny"] = FOUR_BLOCKS
    ends = []
    for kill in (*kills, None):
        child = os.fork()
        if child == 0:
            try:
                train(out, data_dir, recipe, kill)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                os._exit(1)
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
