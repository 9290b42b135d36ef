"""The branches of a recipe: which there are, where they are trained, and training them all.

A branch is an ordinary run of the recipe with `model.band` set to its number; the process that
trains it needs nothing but the recipe, so branches may as well be trained one on each of many
machines. The one that trains them all here only starts processes and tells what they record.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import (
    EXIT_STOPPED_AT_ONCE,
    EXIT_STOPPED_STATE_SAVED,
    EXIT_USER_ERROR,
    RunFailed,
    Stopped,
    UserError,
)
from keras_imnet64.core.files import write_atomic
from keras_imnet64.models import name_of_band, num_bands
from keras_imnet64.recipe.difference import difference
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.runs import Run, check_folder, lock, set_aside

POLL_SECONDS = 0.5
VISIBLE = "CUDA_VISIBLE_DEVICES"
STOPPED = (EXIT_STOPPED_STATE_SAVED, EXIT_STOPPED_AT_ONCE, -signal.SIGTERM)  # of one that was asked


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
    return with_band(recipe, band)


def with_band(recipe, band):
    model = recipe.model.model_copy(update={"band": band})
    return recipe.model_copy(update={"model": model})


def folder_of(out_dir, band):
    return Path(out_dir) / name_of_band(band)


@dataclass(frozen=True)
class Share:
    """A part of the machine: what a process is told, and the cores that it is kept to."""

    options: tuple = ()
    environment: dict = field(default_factory=dict)
    cores: frozenset | None = None


@dataclass
class Branch:
    """One of the branches while all are trained."""

    band: int
    run: Run
    log: Path
    child: subprocess.Popen | None = None
    share: Share | None = None  # which it has while it is trained
    told: int = 0  # epochs
    said: int = 0  # bytes of the log that are of processes before this one
    asked: bool = False  # to end

    @property
    def name(self):
        return self.run.path.name


def fit_branches(
    recipe,
    out_dir,
    *,
    jobs=1,
    data_dir=None,
    cache_dir=None,
    devices=None,
    virtual_devices=None,
    fresh=False,
):
    """Train all branches of a recipe that are not finished, some at a time.

    Args:
        recipe: a `Recipe` with band "all".
        out_dir: folder of the branches' run folders, `branch-00` and so on; the same call goes on
            with what is there.
        jobs: how many are trained at a time, each on its share of the devices.
        data_dir, cache_dir: where data sets and their stores lie, see `datasets.open_dataset`.
        devices, virtual_devices: as for `take_devices`; the second only for one job.
        fresh: begin all anew; what is there is kept under another name.

    Returns:
        dict: {branch: final scores}.

    Raises:
        UserError: the folder holds something else, or branches of another recipe; the network
            cannot be built, or its data not opened; there are fewer devices than jobs.
        RunFailed: some branches could not be trained; the others were.
        Stopped: a signal came; the branches' states are saved.
    """
    out_dir, bands = Path(out_dir), bands_of(recipe)
    check_holds_branches(out_dir, None if fresh else recipe)
    where = {"data-dir": data_dir, "cache-dir": cache_dir, "virtual-devices": virtual_devices}
    where = {option: str(value) for option, value in where.items() if value is not None}
    shares = share_machine(min(jobs, len(bands)), devices, run_preflight(recipe, devices, where))
    if fresh and any(out_dir.glob("branch-*")):
        begin_anew(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    whole = Run(out_dir)
    with lock(whole):
        waiting = []
        for band in bands:
            run = Run(folder_of(out_dir, band))
            if run.is_finished:
                check_same(run, recipe_of(recipe, band))
                say(f"{run.path.name}  finished before")
            else:
                waiting.append(Branch(band, run, out_dir / f"{run.path.name}.log"))
        write_atomic(whole.recipe_file, recipe.to_toml())  # all are of this one, whatever it was of
        words = ["fit", "--json", "--recipe", str(whole.recipe_file), "--out", str(out_dir)]
        words += [f"--{option}={value}" for option, value in where.items()]
        failed, stopped = train_all(waiting, shares, words)
    again = "the same command without --fresh" if fresh else "the same command"
    names = ", ".join(branch.name for branch in failed)
    if stopped:
        raise Stopped(
            f"stopped; what was trained is saved, and {again} goes on"
            + (f"; failed: {names}" if failed else "")
        )
    if failed:
        mistake = all(branch.child.returncode == EXIT_USER_ERROR for branch in failed)
        raise (UserError if mistake else RunFailed)(
            f"{len(failed)} of {len(bands)} branches failed ({names}), the first of them so: "
            f"{why(failed[0])}; after that is mended, {again} trains what is not finished"
        )
    runs = [Run(folder_of(out_dir, band)) for band in bands]
    return {run.path.name: run.metrics["model.keras"] for run in runs}


def check_holds_branches(out_dir, recipe=None):
    """Refuse a folder that holds something else, or branches of another recipe than this."""
    run = Run(Path(out_dir))
    if is_one_run(run):
        raise UserError(
            f"{out_dir} holds a run of its own, and branches would lie in it: give another --name "
            "or --out"
        )
    if not any(run.path.glob("branch-*")):
        check_folder(out_dir)
    elif recipe and run.recipe_file.exists():
        check_same(run, recipe)


def is_one_run(run):
    """Whether the folder is that of an ordinary run, and not of branches."""
    return run.recipe_file.exists() and not bands_of(load_recipe(run.recipe_file))


def begin_anew(out_dir):
    """Keep what is there under another name, if nobody is training into it."""
    lock(Run(out_dir)).close()
    for branch in sorted(out_dir.glob("branch-*/recipe.toml")):
        lock(Run(branch.parent)).close()
    say(f"what was in {out_dir} is kept as {set_aside(out_dir)}")


def check_same(run, recipe):
    """Refuse what was begun with another recipe."""
    changes = difference(load_recipe(run.recipe_file), recipe)
    if changes:
        raise UserError(
            f"{run.path} was begun with another recipe ({'; '.join(changes[:4])}): give this "
            "ensemble another --name, or begin it anew with --fresh"
        )


def run_preflight(recipe, devices, where):
    """Indices of the GPUs that there are to share; what no branch could be trained with is refused.

    In a process of its own, since it takes the GPUs; see `spectral.preflight`.
    """
    request = {"recipe": recipe.to_toml(), "devices": devices, "where": where}
    done = subprocess.run(
        python("-m", "keras_imnet64.spectral.preflight"),
        env=environment(),
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        raise RunFailed(f"the look ahead of training ended with status {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["mistake"]:
        raise (RunFailed if found["failed"] else UserError)(found["mistake"])
    return found["gpus"]


# ---------------------------------------------------------------------------------------- processes


def train_all(waiting, shares, command):
    """Start processes as shares are free, and tell what they record.

    Returns:
        (the branches that failed, whether a signal came).
    """
    running, failed, free = [], [], list(shares)
    with stopping(running) as stop:
        while running or (waiting and not stop.is_set()):
            while waiting and free and not stop.is_set():
                running.append(start(waiting.pop(0), free.pop(0), command))
            time.sleep(POLL_SECONDS)
            if stop.is_set():
                end(running)
            for branch in list(running):
                tell(branch)
                status = branch.child.poll()
                if status is None:
                    continue
                running.remove(branch)
                free.append(branch.share)
                if status == 0:
                    say(f"{branch.name}  finished")
                elif not (branch.asked and status in STOPPED):
                    say(f"{branch.name}  failed: {why(branch)}")
                    failed.append(branch)
        return failed, stop.is_set()


def start(branch, share, command):
    """Its process, whose output goes into the log.

    It is of a session of its own, so that a signal from the terminal reaches it once, through this
    process; if this one is killed, the pipe that it reads closes, and it ends as on a SIGTERM.
    """
    branch.share, branch.told = share, len(epochs_of(branch.run))
    of_branch = ["--branch", str(branch.band), "--ends-with-parent"]
    with open(branch.log, "a") as log:
        branch.said = log.tell()
        branch.child = subprocess.Popen(
            python("-m", "keras_imnet64", *command, *of_branch, *share.options),
            env=environment() | share.environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if share.cores:
        os.sched_setaffinity(branch.child.pid, share.cores)
    say(f"{branch.name}  started, process {branch.child.pid}")
    return branch


def python(*words):
    return [sys.executable, *words]


def environment():
    """Ours, in which a child finds this package wherever it lies."""
    package = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def tell(branch):
    """A line for each epoch that has come to its history."""
    rows = epochs_of(branch.run)
    for row in rows[branch.told :]:
        say(
            f"{branch.name}  epoch {row['epoch']}  loss {float(row['loss']):.3f}"
            f"  val_top1 {float(row['val_top1']):.2f}  {row['seconds']} s"
        )
    branch.told = max(branch.told, len(rows))


def epochs_of(run):
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


def why(branch):
    """What ended a branch: a signal, or the error that its log ends with."""
    if branch.child.returncode < 0:
        return f"killed by {signal.Signals(-branch.child.returncode).name}"
    said = branch.log.read_bytes()[branch.said :].decode(errors="replace")
    lines = said.splitlines() or ["it said nothing"]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return f"{errors[-1] if errors else lines[-1]} ({branch.log})"


def end_with_parent():
    """In a child: SIGTERM to itself as soon as the pipe that it reads is closed."""

    def watch():
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


# ------------------------------------------------------------------------------------------ devices


def share_machine(jobs, devices, gpus):
    """Split GPUs, or the cores where there are none, among so many jobs.

    However few branches are left: on another number of cores sums end in other bits.

    Args:
        devices: as for `take_devices`.
        gpus: their indices.
    """
    if jobs == 1:
        return [Share(options=("--devices", devices) if devices else ())]
    if not gpus:
        return [Share(cores=cores) for cores in share_cores(jobs)]
    if len(gpus) < jobs:
        raise UserError(f"--jobs must be at most the {len(gpus)} devices; received {jobs}")
    visible = os.environ.get(VISIBLE)
    names = [visible.split(",")[index] if visible else str(index) for index in gpus]
    return [Share(environment={VISIBLE: ",".join(names[job::jobs])}) for job in range(jobs)]


def share_cores(jobs):
    """Sets of cores for so many jobs; none where the system does not let itself be told."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < jobs:
        return [None] * jobs
    return [frozenset(cores[job::jobs]) for job in range(jobs)]
