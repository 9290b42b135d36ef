"""Measures how long a run takes to its first step: begun, and resumed after a kill.

python benchmarks/start_time.py wrn36_5 --backend jax --data-dir DIR --set data.batch_size=8

Each row is a process that is killed after its first step; the second of a pair resumes the run of
the first. Compiled programs are kept in a folder of the benchmark's own, or not at all ("off").
"""

import os
import signal
import subprocess
import sys
import tempfile
import time

import click

OFF = "off"


@click.command()
@click.argument("recipe")
@click.option("--backend", default="jax", show_default=True)
@click.option("--data-dir")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--rounds", default=1, show_default=True)
@click.option("--child", hidden=True)
def main(recipe, backend, data_dir, overrides, rounds, child):
    if child:
        until_first_step(recipe, overrides, data_dir, child)
    print(f"{'programs':<10} {'start':<8} seconds to the end of the first step")
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            for programs in (OFF, f"{scratch}/programs"):
                out = f"{scratch}/{'off' if programs == OFF else 'kept'}"
                arguments = [recipe, "--child", out, *(f"--set={text}" for text in overrides)]
                arguments += ["--data-dir", data_dir] if data_dir else []
                for start in ("begun", "resumed"):
                    seconds = run_child(arguments, backend, programs)
                    shown = "off" if programs == OFF else "kept"
                    print(f"{shown:<10} {start:<8} {seconds:.1f}", flush=True)


def run_child(arguments, backend, programs):
    """Returns the seconds from the start of a process to the end of its first step."""
    environment = os.environ | {"KERAS_BACKEND": backend, "KERAS_IMNET64_PROGRAMS_DIR": programs}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, __file__, *arguments]
    begin = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    lines = iter(child.stdout.readline, "")
    if not any(line == "first step\n" for line in lines):
        raise SystemExit(f"the run failed with status {child.wait()}")
    seconds = time.perf_counter() - begin
    child.wait()
    return seconds


def until_first_step(name, overrides, data_dir, out):
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices()
    import keras

    from keras_imnet64 import fit, load_recipe

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):  # the step's loss is known
            print("first step", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    fit(load_recipe(name, overrides), out, data_dir=data_dir, devices=devices, callbacks=[Kill()])


if __name__ == "__main__":
    main()
