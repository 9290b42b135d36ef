"""The branches of a recipe: which there are, where they are trained, and training them all.

A branch is an ordinary run of the recipe with `model.band` set to its number; the process that
trains it needs nothing but the recipe, so branches may as well be trained one on each of many
machines. The one that trains them all here only starts processes and tells what they record.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from keras_imnet64.errors import EXIT_STOPPED_STATE_SAVED, RunFailed, Stopped, UserError
from keras_imnet64.models import num_bands
from keras_imnet64.recipe import difference, load_recipe
from keras_imnet64.runs import Run
from keras_imnet64.training.progress import say

POLL_SECONDS = 0.5
COUNT_GPUS = (
    "from keras_imnet64.backend import choose_backend, take_devices; choose_backend();"
    "taken = take_devices(); print(taken.count if taken.kind != 'cpu' else 0)"
)


def bands_of(recipe):
    """The numbers of the branches that a recipe stands for; none where it is an ordinary one."""
    return range(num_bands(recipe.model.name, recipe.model.options))


def recipe_of(recipe, band):
    """The recipe of one branch; UserError where there is none of this number."""
    bands = bands_of(recipe)
    if not bands:
        raise UserError(
            f'recipe {recipe.name} has no branches, as one whose model is spectral with band "all" '
            f"has; received --branch {band}"
        )
    if band not in bands:
        raise UserError(f"--branch must be one of 0 to {bands[-1]}; received {band}")
    model = recipe.model.model_copy(update={"band": band})
    return recipe.model_copy(update={"model": model})


def folder_of(out_dir, band):
    return Path(out_dir) / f"branch-{band:02}"


@dataclass
class Branch:
    """One of the branches while all are trained."""

    band: int
    run: Run
    log: Path
    child: subprocess.Popen | None = None
    share: int = 0  # of the devices, which it has while it is trained
    told: int = 0  # epochs
    asked: bool = False  # to end

    @property
    def name(self):
        return self.run.path.name


@dataclass
class Shares:
    """Who has which part of the machine: options for `fit` and processor cores."""

    options: list
    cores: list
    free: list = field(init=False)

    def __post_init__(self):
        self.free = list(range(len(self.options)))


def fit_branches(recipe, out_dir, command, *, jobs=1, devices=None, fresh=False):
    """Train all branches of a recipe that are not finished, some at a time.

    Args:
        recipe: a `Recipe` with band "all".
        out_dir: folder of the branches' run folders, `branch-00` and so on; the same call goes on
            with what is there.
        command: words of a `fit` of this recipe, to which `--branch`, `--out` and `--devices` are
            added.
        jobs: how many are trained at a time, each on its share of the devices.
        devices: as for `take_devices`.
        fresh: begin all anew.

    Returns:
        dict: {branch: final scores}.

    Raises:
        UserError: a finished branch is of another recipe, or there are fewer devices than jobs.
        RunFailed: some branches could not be trained; the others were.
        Stopped: a signal came; the branches' states are saved.
    """
    out_dir = Path(out_dir)
    waiting = []
    for band in bands_of(recipe):
        run = Run(folder_of(out_dir, band))
        if run.is_finished and not fresh:
            check_same(run, recipe_of(recipe, band))
            say(f"{run.path.name}  finished before")
        else:
            waiting.append(Branch(band, run, out_dir / f"{run.path.name}.log"))
    shares = share_machine(min(jobs, len(bands_of(recipe))), devices)
    out_dir.mkdir(parents=True, exist_ok=True)
    failed = train_all(waiting, shares, [*command, *(["--fresh"] if fresh else [])])
    if failed:
        names = ", ".join(branch.name for branch in failed)
        raise RunFailed(
            f"{len(failed)} of {len(bands_of(recipe))} branches failed ({names}), the first of "
            f"them so: {last_words(failed[0].log)}; the same command trains what is not finished"
        )
    return {
        (run := Run(folder_of(out_dir, band))).path.name: run.metrics["model.keras"]
        for band in bands_of(recipe)
    }


def check_same(run, recipe):
    """Refuse a branch that was trained with another recipe."""
    changes = difference(load_recipe(run.recipe_file), recipe)
    if changes:
        raise UserError(
            f"{run.path} is a branch of another recipe ({'; '.join(changes[:4])}): give this "
            "ensemble another --name, or begin it anew with --fresh"
        )


# ---------------------------------------------------------------------------------------- processes


def train_all(waiting, shares, command):
    """Start processes as shares are free, and tell what they record; returns those that failed."""
    running, failed = [], []
    with stopping(running) as stop:
        while running or (waiting and not stop.is_set()):
            while waiting and shares.free and not stop.is_set():
                running.append(start(waiting.pop(0), shares, command))
            time.sleep(POLL_SECONDS)
            if stop.is_set():
                end(running)
            for branch in list(running):
                tell(branch)
                status = branch.child.poll()
                if status is None:
                    continue
                running.remove(branch)
                shares.free.append(branch.share)
                if status == 0:
                    say(f"{branch.name}  finished")
                elif status != EXIT_STOPPED_STATE_SAVED:
                    say(f"{branch.name}  failed, see {branch.log}")
                    failed.append(branch)
        if stop.is_set() and not failed:
            raise Stopped("stopped; the branches' states are saved, and the same command goes on")
    return failed


def start(branch, shares, command):
    """Its process, whose output goes into the log; of a session of its own, so that a signal from
    the terminal reaches it once, through this process."""
    branch.share = shares.free.pop(0)
    cores = shares.cores[branch.share]
    words = ["--branch", str(branch.band), "--out", str(branch.run.path)]
    package = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    with open(branch.log, "w") as log:
        branch.child = subprocess.Popen(
            [sys.executable, "-m", "keras_imnet64", *command, *words]
            + shares.options[branch.share],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if cores:
        os.sched_setaffinity(branch.child.pid, cores)
    say(f"{branch.name}  started, process {branch.child.pid}")
    branch.told = len(rows_of(branch.run))
    return branch


def tell(branch):
    """A line for each epoch that has come to its history."""
    rows = rows_of(branch.run)
    for row in rows[branch.told :]:
        say(
            f"{branch.name}  epoch {row['epoch']}  loss {float(row['loss']):.3f}"
            f"  val_top1 {float(row['val_top1']):.2f}  {row['seconds']} s"
        )
    branch.told = max(branch.told, len(rows))


def rows_of(run):
    return run.history if run.history_file.exists() else []


def end(running):
    """Ask each once to save its state and end."""
    for branch in running:
        if not branch.asked:
            branch.asked = True
            with suppress(ProcessLookupError):
                branch.child.send_signal(signal.SIGTERM)


@contextmanager
def stopping(running):
    """An event that the first SIGINT or SIGTERM sets; whatever ends us at once ends the others."""
    stop = threading.Event()

    def handle(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for branch in running:
            branch.child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def last_words(log):
    """The error that a log ends with."""
    lines = log.read_text(errors="replace").splitlines() or ["it said nothing"]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return errors[-1] if errors else lines[-1]


# ------------------------------------------------------------------------------------------ devices


def share_machine(jobs, devices):
    """Split GPUs, or the cores where there are none, among so many jobs.

    However few branches are left: on another number of cores sums end in other bits.
    """
    if jobs == 1:
        return Shares([["--devices", devices] if devices else []], [None])
    indices = which_devices(devices)
    if not indices:
        return Shares([[]] * jobs, share_cores(jobs))
    if len(indices) < jobs:
        raise UserError(f"--jobs must be at most the {len(indices)} devices; received {jobs}")
    parts = [",".join(map(str, indices[job::jobs])) + "," for job in range(jobs)]
    return Shares([["--devices", part] for part in parts], [None] * jobs)


def which_devices(devices):
    """Indices of the GPUs that were asked for, or all; none on a machine without."""
    if devices and "," in devices:
        return [int(part) for part in devices.split(",") if part.strip().isdigit()]
    counted = subprocess.run(
        [sys.executable, "-c", COUNT_GPUS], capture_output=True, text=True, check=False
    )
    present = int(counted.stdout.split()[-1]) if counted.returncode == 0 else 0
    return list(range(min(present, int(devices or present))))


def share_cores(jobs):
    """Sets of cores for so many jobs; none where the system does not let itself be told."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < jobs:
        return [None] * jobs
    return [set(cores[job::jobs]) for job in range(jobs)]
