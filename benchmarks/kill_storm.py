"""Tests that runs which are killed repeatedly end with the same bits as uninterrupted runs.

    python benchmarks/kill_storm.py --kills 9 --data-dir DIR demo tiny20_wrn tiny20_tiny_cnn1

`fit` trains each recipe for a few short epochs under both backends, once uninterrupted, and once
killed with SIGKILL at random times, --kills times, until it is complete. The kills come after the
first step of a process, whose compilation takes longer than all other steps, and so hit steps,
checkpoints and ends of epochs. A callback records each step, so that repeated steps are counted.
Every weight of the final model is compared, all state of the last checkpoint (optimizer, averages,
metrics, seed generators), and the history except for times.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

BACKENDS = ("tensorflow", "jax")
NUM_STEPS = 30  # per epoch
SETTINGS = (
    "data.batch_size=16",
    f"data.steps_per_epoch={NUM_STEPS}",
    "train.epochs=3",
    "train.ema=0.9",
    'train.checkpoint_every="7 steps"',
)


@click.command()
@click.argument("recipes", nargs=-1, required=True)
@click.option(
    "--kills", default=9, show_default=True, help="Kills of each recipe under each backend."
)
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--set", "settings", multiple=True, help="As for `fit`, added to the settings of this script."
)
@click.option("--child", type=click.Path(), hidden=True)
@click.option("--out", hidden=True)
def main(recipes, kills, data_dir, seed, settings, child, out):
    if child:
        train(recipes[0], settings, data_dir, child, out)
        return
    random.seed(seed)
    total, equal = 0, []
    for recipe in recipes:
        for backend in BACKENDS:
            with tempfile.TemporaryDirectory() as folder:
                storm = Storm(recipe, backend, Path(folder), data_dir, settings)
                seconds = storm.straight()
                count, num_repeated = storm.killed(kills, seconds)
                total += count
                equal.append(storm.is_same())
                print(
                    f"{recipe} under {backend}: {count} kills, {num_repeated} steps repeated, "
                    f"{'equal' if equal[-1] else 'DIFFERENT'}",
                    flush=True,
                )
    print(f"{total} kills in {len(equal)} runs, {sum(equal)} of which ended with the same bits")
    sys.exit(not all(equal))


def train(recipe, settings, data_dir, step_file, out):
    """Calls `fit`; records in `step_file` the step that begins, counted over all epochs."""
    import keras

    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.training.fit import fit

    class StepRecorder(keras.callbacks.Callback):
        compiled = False

        def on_epoch_begin(self, epoch, logs=None):
            done = int(keras.ops.convert_to_numpy(self.model.optimizer._iterations))
            self.step = max(done, epoch * NUM_STEPS)

        def on_train_batch_begin(self, batch, logs=None):
            self.step += 1
            if self.compiled:
                with open(step_file, "w") as file:
                    file.write(str(self.step))
            self.compiled = True

    fit(load_recipe(recipe, settings), out, data_dir=data_dir, callbacks=[StepRecorder()])


class Storm:
    def __init__(self, recipe, backend, folder, data_dir, settings):
        self.folder, self.backend = folder, backend
        self.command = [sys.executable, __file__, recipe, "--child", folder / "step"]
        self.command += ["--data-dir", data_dir] if data_dir else []
        for setting in (*SETTINGS, *settings):
            self.command += ["--set", setting]

    def begin(self, name, log):
        return subprocess.Popen(
            [*self.command, "--out", self.folder / name],
            env=os.environ | {"KERAS_BACKEND": self.backend},
            stderr=log,
        )

    def straight(self):
        """Trains to the end; returns the seconds from the second step on."""
        with open(self.folder / "straight.log", "w") as log:
            child = self.begin("straight", log)
            begun = self.wait_for_training(child)
            if child.wait() != 0:
                sys.exit((self.folder / "straight.log").read_text())
        return time.monotonic() - begun

    def wait_for_training(self, child):
        """Waits until the second step has begun; returns that time."""
        step_file = self.folder / "step"
        step_file.unlink(missing_ok=True)
        while child.poll() is None and not step_file.exists():
            time.sleep(0.01)
        return time.monotonic()

    def newest_checkpoint(self):
        """Returns the step of the killed run's newest checkpoint, counted over all epochs."""
        found = (self.folder / "killed" / "checkpoints").glob("epoch-*.safetensors")
        places = [list(map(int, re.findall(r"\d+", path.stem))) for path in found]
        return max(epoch * NUM_STEPS + step for epoch, step in places)

    def killed(self, kills, seconds):
        """Returns (kills before the end of the run, steps that were repeated after them)."""
        num_kills, num_repeated, log_file = 0, 0, self.folder / "killed.log"
        while True:
            with open(log_file, "w") as log:
                child = self.begin("killed", log)
                self.wait_for_training(child)
                if num_kills < kills:
                    time.sleep(random.uniform(0, 1.5 * seconds / kills))
                    child.kill()
                status = child.wait()
            if status == 0:
                return num_kills, num_repeated
            if status != -signal.SIGKILL:
                sys.exit(log_file.read_text())
            num_kills += 1
            begun = int((self.folder / "step").read_text() or 1)
            num_repeated += max(0, begun - 1 - self.newest_checkpoint())

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
