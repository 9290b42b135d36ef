"""Runs that are killed again and again, beside straight ones: do they end with the same bits?

    python benchmarks/kill_storm.py --kills 9 --data-dir DIR demo tiny20_wrn tiny20_tiny_cnn1

Each recipe is trained for a few short epochs under both backends by `fit`, once straight, once
killed with SIGKILL at random moments, so many times, and run to its end. The moments lie behind the
first step of a process, which compiles for longer than all others take: within steps, checkpoints
and epochs' ends. A callback notes each step, so that those done again can be counted.
What is compared: every weight of the shipped model, all state of the last checkpoint (optimizer,
averages, metrics, seed generators), and the history but for times.
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
STEPS = 30  # of an epoch
SETTINGS = (
    "data.batch_size=16",
    f"data.steps_per_epoch={STEPS}",
    "train.epochs=3",
    "train.ema=0.9",
    'train.checkpoint_every="7 steps"',
)


@click.command()
@click.argument("recipes", nargs=-1, required=True)
@click.option("--kills", default=9, show_default=True, help="Of each recipe under each backend.")
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path))
@click.option("--seed", default=0, show_default=True)
@click.option("--set", "settings", multiple=True, help="As of `fit`, beside those here.")
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
                count, redone = storm.killed(kills, seconds)
                total += count
                equal.append(storm.same())
                print(
                    f"{recipe} under {backend}: {count} kills, {redone} steps done again, "
                    f"{'equal' if equal[-1] else 'DIFFERENT'}",
                    flush=True,
                )
    print(f"{total} kills in {len(equal)} runs, {sum(equal)} of which ended with the same bits")
    sys.exit(not all(equal))


def train(recipe, settings, data_dir, noted, out):
    """What is killed: `fit`, noting in a file which step begins, counted over all epochs."""
    import keras

    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.training.fit import fit

    class Note(keras.callbacks.Callback):
        compiled = False

        def on_epoch_begin(self, epoch, logs=None):
            done = int(keras.ops.convert_to_numpy(self.model.optimizer._iterations))
            self.step = max(done, epoch * STEPS)

        def on_train_batch_begin(self, batch, logs=None):
            self.step += 1
            if self.compiled:
                with open(noted, "w") as file:
                    file.write(str(self.step))
            self.compiled = True

    fit(load_recipe(recipe, settings), out, data_dir=data_dir, callbacks=[Note()])


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
        """Train to the end; returns the seconds that it took from the second step on."""
        with open(self.folder / "straight.log", "w") as log:
            child = self.begin("straight", log)
            begun = self.wait_for_training("straight", child)
            if child.wait() != 0:
                sys.exit((self.folder / "straight.log").read_text())
        return time.monotonic() - begun

    def wait_for_training(self, name, child):
        """Until a second step has begun; returns when."""
        noted = self.folder / "step"
        noted.unlink(missing_ok=True)
        while child.poll() is None and not noted.exists():
            time.sleep(0.01)
        return time.monotonic()

    def newest(self, name):
        """The step of the newest checkpoint, counted over all epochs."""
        found = (self.folder / name / "checkpoints").glob("epoch-*.safetensors")
        places = [list(map(int, re.findall(r"\d+", path.stem))) for path in found]
        return max(epoch * STEPS + step for epoch, step in places)

    def killed(self, kills, seconds):
        """(kills that landed before the end, steps that were done again after them)."""
        landed, redone, log_file = 0, 0, self.folder / "killed.log"
        while True:
            with open(log_file, "w") as log:
                child = self.begin("killed", log)
                self.wait_for_training("killed", child)
                if landed < kills:
                    time.sleep(random.uniform(0, 1.5 * seconds / kills))
                    child.kill()
                status = child.wait()
            if status == 0:
                return landed, redone
            if status != -signal.SIGKILL:
                sys.exit(log_file.read_text())
            landed += 1
            begun = int((self.folder / "step").read_text() or 1)
            redone += max(0, begun - 1 - self.newest("killed"))

    def same(self):
        """Compared in a process of its own, so that this one needs no Keras."""
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
