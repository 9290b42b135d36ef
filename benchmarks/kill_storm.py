"""Tests that runs which are killed repeatedly end with the same bits as uninterrupted runs.

    python benchmarks/kill_storm.py --kills 9 --data-dir DIR demo tiny20_wrn tiny20_tiny_cnn1
    python benchmarks/kill_storm.py --processes 2 --processes 4 --kills 10 --data-dir DIR demo

`fit` trains each recipe for a few short epochs: once uninterrupted, and once with --kills SIGKILLs
at random times, after which it is started again until it is complete. A run of one process is tried
under both backends; one of several, with a device each on the loopback interface, under JAX. There
a random process is killed, and the others must end by themselves, with a sentence and status 1.

The kills come after the first step of a process, whose compilation takes longer than all other
steps, and so hit steps, checkpoints and ends of epochs. A callback records each step, so that
repeated steps are counted. Every weight of the final model is compared, all state of the last
checkpoint (optimizer, averages, metrics, seed generators), and the history except for times. Prints
a row of a table for each run.
"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

NUM_STEPS = 30  # per epoch
SETTINGS = (
    "data.batch_size=16",
    f"data.steps_per_epoch={NUM_STEPS}",
    "train.epochs=3",
    "train.ema=0.9",
    'train.checkpoint_every="7 steps"',
)
LONGEST_SECONDS = 60  # from a kill until the other processes must have ended
COLUMNS = (
    "recipe",
    "backend",
    "processes",
    "kills",
    "of process 0",
    "steps repeated",
    "longest end",
    "same bits",
)


@click.command()
@click.argument("recipes", nargs=-1, required=True)
@click.option("--kills", default=9, show_default=True, help="Kills of each run.")
@click.option("--processes", "counts", type=int, multiple=True, default=(1,), show_default=True)
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--set", "settings", multiple=True, help="As for `fit`, added to the settings of this script."
)
@click.option("--place", nargs=3, hidden=True, help="Of a child: coordinator, processes, number.")
@click.option("--out", type=click.Path(path_type=Path), hidden=True)
def main(recipes, kills, counts, data_dir, seed, settings, place, out):
    if place:
        train(recipes[0], settings, data_dir, place, out)
        return
    random.seed(seed)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    equal = []
    for recipe in recipes:
        for count in counts:
            for backend in ("tensorflow", "jax") if count == 1 else ("jax",):
                with tempfile.TemporaryDirectory() as folder:
                    storm = Storm(recipe, backend, count, Path(folder), data_dir, settings)
                    storm.straight()
                    storm.killed(kills)
                    equal.append(storm.is_same())
                    cells = (recipe, backend, count, *storm.counts(), "yes" if equal[-1] else "NO")
                    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    sys.exit(not all(equal))


def train(recipe, settings, data_dir, place, out):
    """Trains as one process of several; records in <out>.step the step that begins."""
    import keras

    from keras_imnet64.backend.devices import take_devices
    from keras_imnet64.backend.launchers import find_place
    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.training.fit import fit

    class StepRecorder(keras.callbacks.Callback):
        """Counts steps over all epochs."""

        compiled = False

        def on_epoch_begin(self, epoch, logs=None):
            done = int(keras.ops.convert_to_numpy(self.model.optimizer._iterations))
            self.step = max(done, epoch * NUM_STEPS)

        def on_train_batch_begin(self, batch, logs=None):
            self.step += 1
            if self.compiled:
                Path(f"{out}.step").write_text(str(self.step))
            self.compiled = True

    coordinator, count, number = place
    devices = take_devices(place=find_place(coordinator, int(count), int(number)))
    with devices.cluster:
        fit(
            load_recipe(recipe, (*SETTINGS, *settings)),
            out,
            data_dir=data_dir,
            devices=devices,
            callbacks=[StepRecorder()] if devices.cluster.is_writer else [],
        )


class Storm:
    """One run of a number of processes.

    Attributes:
        num_kills: kills before the end of the run, `num_first` of them of process 0, through which
            the others are connected.
        num_repeated: steps that were done again after the kills.
        longest: seconds until all other processes had ended after a kill.
    """

    def __init__(self, recipe, backend, count, folder, data_dir, settings):
        self.backend, self.count, self.folder = backend, count, folder
        self.command = [sys.executable, __file__, recipe]
        self.command += ["--data-dir", data_dir] if data_dir else []
        for setting in settings:
            self.command += ["--set", setting]
        self.num_kills = self.num_first = self.num_repeated = 0
        self.longest = 0.0

    def counts(self):
        longest = f"{self.longest:.0f} s" if self.count > 1 else "-"
        return self.num_kills, self.num_first, self.num_repeated, longest

    def begin(self, name):
        """Starts all processes; each writes to a log of its own."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        processes = []
        for number in range(self.count):
            place = ["--place", address, self.count, number, "--out", self.folder / name]
            with open(self.log(name, number), "w") as log:
                processes.append(
                    subprocess.Popen(
                        list(map(str, [*self.command, *place])),
                        env=os.environ | {"KERAS_BACKEND": self.backend},
                        stderr=log,
                    )
                )
        return processes

    def log(self, name, number):
        return self.folder / f"{name}-{number}.log"

    def fail(self, name):
        """Ends the storm with what the processes have written."""
        sys.exit("\n".join(self.log(name, number).read_text() for number in range(self.count)))

    def straight(self):
        """Trains to the end; notes the seconds from the second step on."""
        processes = self.begin("straight")
        begun = self.wait_for_training("straight", processes)
        if any([process.wait() for process in processes]):
            self.fail("straight")
        self.seconds = time.monotonic() - begun

    def wait_for_training(self, name, processes):
        """Waits until the second step has begun; returns that time."""
        step_file = self.folder / f"{name}.step"
        step_file.unlink(missing_ok=True)
        while not step_file.exists() and all(process.poll() is None for process in processes):
            time.sleep(0.01)
        return time.monotonic()

    def killed(self, kills):
        """Trains until no process is killed any more."""
        while True:
            processes = self.begin("killed")
            self.wait_for_training("killed", processes)
            if self.num_kills == kills:
                break
            time.sleep(random.uniform(0, self.seconds / kills))
            if any(process.poll() is not None for process in processes):
                break  # the run came to its end first
            self.kill_one(processes)
        if any([process.wait() for process in processes]):
            self.fail("killed")

    def kill_one(self, processes):
        """Kills a random process, and waits for the others, each of which must say why it ends."""
        victim = random.randrange(self.count)
        processes[victim].kill()
        killed = time.monotonic()
        for number, process in enumerate(processes):
            try:
                status = process.wait(LONGEST_SECONDS)
            except subprocess.TimeoutExpired:
                self.fail("killed")
            said = re.search(r"Error: |was lost", self.log("killed", number).read_text())
            expected = -signal.SIGKILL if number == victim else 1
            if status != expected or (number != victim and not said):
                self.fail("killed")
        self.longest = max(self.longest, time.monotonic() - killed)
        self.num_kills += 1
        self.num_first += victim == 0
        begun = int((self.folder / "killed.step").read_text() or 1)
        self.num_repeated += max(0, begun - 1 - self.newest_checkpoint())

    def newest_checkpoint(self):
        """Returns the step of the killed run's newest checkpoint, counted over all epochs."""
        found = (self.folder / "killed" / "checkpoints").glob("epoch-*.safetensors")
        places = [list(map(int, re.findall(r"\d+", path.stem))) for path in found]
        return max((epoch * NUM_STEPS + step for epoch, step in places), default=0)

    def is_same(self):
        """Returns whether both runs ended with the same bits; a child process loads Keras."""
        script = (
            "import sys; from pathlib import Path; from same_end import same_end;"
            "from keras_imnet64.runs import Run; same_end(*(Run(Path(p)) for p in sys.argv[1:]))"
        )
        child = subprocess.run(
            [sys.executable, "-c", script, self.folder / "straight", self.folder / "killed"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(("tests", "."))},
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        if child.returncode:
            print(child.stderr)
        return child.returncode == 0


if __name__ == "__main__":
    main()
