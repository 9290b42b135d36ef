"""A run's folder: what lies in it, who may write into it, and that nothing is half-written."""

import csv
import datetime
import fcntl
import io
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.branches import BRANCH_FOLDERS
from keras_imnet64.core.errors import UserError, printable, reason
from keras_imnet64.core.files import check_fields, read_json, read_small
from keras_imnet64.core.paths import check_writable, expand, os_error_text

DEFAULT_ROOT = Path("saved_models")
LEFTOVERS = ".*.writing*"  # of writers that were killed
HISTORY_BYTES = 2**26  # 200 bytes per epoch
ENVIRONMENT = {
    "dataset": str,
    "digest": lambda value: isinstance(value, dict) and {"train", "validation"} <= value.keys(),
    "processes": lambda rows: bool(rows) and isinstance(rows, list) and all(map(_is_process, rows)),
}


def _is_process(row):
    return isinstance(row, dict) and isinstance(row.get("settings", {}), dict)


@dataclass(frozen=True)
class Run:
    """Paths and contents of a run folder."""

    path: Path

    recipe_file = property(lambda self: self.path / "recipe.toml")
    environment_file = property(lambda self: self.path / "environment.json")
    history_file = property(lambda self: self.path / "history.csv")
    metrics_file = property(lambda self: self.path / "metrics.json")
    not_finite_file = property(lambda self: self.path / "not_finite.json")
    classes_file = property(lambda self: self.path / "classes.txt")
    checkpoints = property(lambda self: self.path / "checkpoints")
    lock_file = property(lambda self: self.path / ".lock")
    logs = property(lambda self: self.path / "logs")
    best = property(lambda self: self.path / "best.keras")
    model = property(lambda self: self.path / "model.keras")

    def hashes_file(self, split):
        """Of the images that a run was begun with, see `training.same_images`."""
        return self.path / f"pictures-{split}.npy"

    @property
    def is_finished(self):
        return self.metrics_file.is_file()

    @property
    def metrics(self):
        """Final scores: dict, see `fit`."""
        return self._read_json(self.metrics_file, {"model.keras": dict})

    @property
    def environment(self):
        """The data's identity and the processes that trained, see `fit`."""
        return self._read_json(self.environment_file, ENVIRONMENT)

    @property
    def history(self):
        """One dict of text per epoch, the columns of history.csv."""
        try:
            text = read_small(self.history_file, HISTORY_BYTES).decode()
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        except (OSError, ValueError, csv.Error) as error:
            raise _damaged(self.history_file, error) from error

    def _read_json(self, file, fields):
        try:
            content = read_json(file)
            check_fields(content, fields)
        except (OSError, ValueError) as error:
            raise _damaged(file, error) from error
        return content


def _damaged(file, error):
    return UserError(
        f"{file} is missing or damaged ({reason(error)}): bring it back, or train this run again "
        "with --fresh"
    )


def open_run(path):
    """The run in a folder that exists."""
    run = Run(Path(path))
    if not os.path.isfile(run.recipe_file):
        raise UserError(f"{path} is not a run folder: it has no recipe.toml")
    return run


def classes_text(names):
    """classes.txt: a name on each line, in the order of the logits, its line breaks as escapes."""
    return "".join(f"{printable(name)}\n" for name in names)


def model_file(run_or_model):
    """The model file of a run folder that has one, or the path of a file as it is.

    Raises:
        UserError: there is no such thing, the folder is no run, or the run has not come so far.
    """
    path = expand(run_or_model)
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; a run folder or a .keras file is needed")
    if not os.path.isdir(path):
        return path
    run = open_run(path)
    if not run.model.is_file():
        raise not_finished(run)
    return run.model


def not_finished(run):
    """The error that says what is to be done first."""
    if any(run.path.glob(BRANCH_FOLDERS)):
        return UserError(f"the branches in {run.path} are not joined yet: `ensemble` does it")
    return UserError(f"the run in {run.path} is not finished: fit again to go on with it")


def check_folder(path):
    """Refuse a folder that holds something else than a run."""
    run = Run(Path(path))
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"the run folder {path} is a file; choose another --name or --out")
    try:
        check_writable(path)
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    ours = {run.lock_file, run.checkpoints, *run.path.glob(LEFTOVERS)}
    if run.path.is_dir() and not run.recipe_file.exists() and set(run.path.iterdir()) - ours:
        raise UserError(f"{path} is not empty and holds no run; choose another --name or --out")
    return run


def create_run(path):
    """The folder of a run, made if need be."""
    run = Run(Path(path))
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        run.lock_file.touch()
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    return run


def _unusable(path, error):
    return UserError(
        f"{path} cannot be used as a run folder ({os_error_text(error, path)}); choose another "
        "--name or --out"
    )


def remove_leftovers(run):
    """Delete what killed writers have left half-written; only for who holds the lock."""
    for leftover in (*run.path.glob(LEFTOVERS), *run.checkpoints.glob(LEFTOVERS)):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def set_aside(path):
    """Rename a run folder to <name>.1, .2, ... so that another can take its place."""
    path = Path(path).resolve()
    number = 1
    while (target := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    try:
        path.rename(target)
    except OSError as error:
        why = os_error_text(error, path.parent)
        raise UserError(f"{path} cannot be renamed to {target} ({why}), as --fresh asks") from error
    return target


def lock(run):
    """Hold the folder for this process until it ends; UserError if another one works in it.

    The open file is the lock: closing it gives the folder back.
    """
    file = open(run.lock_file, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "who it is, it has not said yet"
        file.close()
        raise UserError(
            f"another process is working in {run.path} ({holder}); wait for it, or give this "
            "run a folder of its own with --name"
        ) from None
    file.truncate(0)  # what is in it is of a process that has ended
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    file.write(f"pid {os.getpid()} on {socket.gethostname()}, since {now}")
    file.flush()
    return file
