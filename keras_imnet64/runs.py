"""The run folder: its files, how they are read, and the lock of the process that writes there.

`training.run_folder` checks whether a recipe may train in a folder.
"""

import csv
import datetime
import fcntl
import io
import os
import shutil
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias, TypeVar

from keras_imnet64.core.branches import BRANCH_FOLDERS
from keras_imnet64.core.errors import UserError, printable, reason
from keras_imnet64.core.files import MAX_JSON_BYTES, is_at, parse_json, read_small
from keras_imnet64.core.paths import check_writable, expand, os_error_text
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.core.validation import parse_record
from keras_imnet64.records import Environment, Metrics

LEFTOVERS = ".*.writing*"  # half-written files of processes that were killed
MAX_HISTORY_BYTES = 2**26  # an epoch takes 200 bytes

HistoryRow: TypeAlias = dict[str, str]  # of history.csv as text, see `records.EpochRow`
Record = TypeVar("Record")


@dataclass(frozen=True)
class Run:
    """Paths and contents of a run folder.

    Properties that read a file raise a UserError if it is missing or damaged.
    """

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The recipe with every value filled in: `fit --recipe` with this file repeats the run."""
        return self.path / "recipe.toml"

    @property
    def environment_file(self) -> Path:
        """Versions, backend and devices of each process that trained; the digest of the data."""
        return self.path / "environment.json"

    @property
    def history_file(self) -> Path:
        """A row for each epoch."""
        return self.path / "history.csv"

    @property
    def metrics_file(self) -> Path:
        """The scores of both model files on the whole validation split, loaded anew from disk.

        It exists only if the run is finished.
        """
        return self.path / "metrics.json"

    @property
    def not_finite_file(self) -> Path:
        """Only if a loss or a weight became infinite or no number: the step, and its images."""
        return self.path / "not_finite.json"

    @property
    def classes_file(self) -> Path:
        """The names of the classes, in the order of the logits."""
        return self.path / "classes.txt"

    @property
    def checkpoints(self) -> Path:
        """The two newest states, from which an interrupted run resumes."""
        return self.path / "checkpoints"

    @property
    def lock_file(self) -> Path:
        """Which process works in the folder."""
        return self.path / ".lock"

    @property
    def claims(self) -> Path:
        """In a folder of branches or of a sweep: which process trains which of its runs."""
        return self.path / "claims"

    @property
    def report_file(self) -> Path:
        """The page about the run for a browser, which `fit` and `report` write."""
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        """Curves for TensorBoard: `tensorboard --logdir saved_models`."""
        return self.path / "logs"

    @property
    def best(self) -> Path:
        """The weights after the epoch that did best on the images held out (`data.holdout`).

        Of epochs with the same top-1 it is the one with the lowest loss. Without such images it is
        a copy of `model.keras`.
        """
        return self.path / "best.keras"

    @property
    def model(self) -> Path:
        """The network with the last weights, in float32 and of Keras' own layers.

        With `train.ema` or `train.average_last` it has the averaged weights, with
        `optimizer.lookahead` the slow ones; `train.remeasure_statistics` measures the statistics of
        batch normalisation anew.
        """
        return self.path / "model.keras"

    def hashes_file(self, split: str) -> Path:
        """Returns the file of the hashes of a split's images, see `training.same_images`."""
        return self.path / f"pictures-{split}.npy"

    @property
    def is_finished(self) -> bool:
        """Whether the run has its final scores."""
        return self.metrics_file.is_file()

    @property
    def metrics(self) -> JsonObject:
        """The final scores as metrics.json holds them, such as `metrics["model.keras"]["top1"]`."""
        return _read(self.metrics_file, Metrics)[1]

    def read_metrics(self) -> Metrics:
        """Returns the final scores as a record."""
        return _read(self.metrics_file, Metrics)[0]

    @property
    def environment(self) -> JsonObject:
        """The data's identity and the processes that trained, as environment.json holds them."""
        return _read(self.environment_file, Environment)[1]

    def read_environment(self) -> Environment:
        """Returns the content of environment.json as a record."""
        return _read(self.environment_file, Environment)[0]

    @property
    def history(self) -> list[HistoryRow]:
        """One dict of text for each epoch, by the columns of history.csv (`records.EpochRow`)."""
        try:
            text = read_small(self.history_file, MAX_HISTORY_BYTES).decode()
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        except (OSError, ValueError, csv.Error) as error:
            raise _damaged(self.history_file, error) from error

    @property
    def history_so_far(self) -> list[HistoryRow]:
        """The same, or nothing before the first epoch has ended; an ensemble has no history."""
        return self.history if self.history_file.exists() else []


def _read(file: Path, kind: type[Record]) -> tuple[Record, JsonObject]:
    """Returns the record in a JSON file, and the file's plain content."""
    try:
        text = read_small(file, MAX_JSON_BYTES)
        return parse_record(kind, text), parse_json(text)
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} is missing or damaged ({reason(error)}): restore it, or start the run over with "
        "--fresh"
    )


def open_run(path: StrPath) -> Run:
    """Returns the run in a folder that exists; raises a UserError for a folder that holds none."""
    run = Run(Path(path))
    if not os.path.isfile(run.recipe_file):
        raise UserError(f"{path} is not a run folder: it has no recipe.toml")
    return run


def classes_text(names: list[str]) -> str:
    """Returns the text of classes.txt: one name on each line, in the order of the logits.

    Line breaks and other control characters within a name are written as escapes.
    """
    return "".join(f"{printable(name)}\n" for name in names)


def model_file(run_or_model: StrPath) -> Path:
    """Returns the model file of a run folder; the path of a file is returned unchanged.

    Raises:
        UserError: it is no path, the path does not exist, the folder is no run, or the run is not
            finished.
    """
    if not isinstance(run_or_model, str | os.PathLike):
        kind = type(run_or_model).__name__
        raise UserError(f"a run folder or the path of a .keras file is needed; received a {kind}")
    path = expand(run_or_model)
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; a run folder or a .keras file is needed")
    if not os.path.isdir(path):
        return path
    run = open_run(path)
    if not run.model.is_file():
        raise not_finished(run)
    return run.model


def not_finished(run: Run) -> UserError:
    """Returns the error for a run without a model; it names the command to run."""
    if any(run.path.glob(BRANCH_FOLDERS)):
        return UserError(f"the branches in {run.path} are not joined yet: run `ensemble` on it")
    return UserError(f"the run in {run.path} is not finished: run `fit` again to resume it")


def check_folder(path: StrPath) -> Run:
    """Refuses a folder that is not empty and holds no run, or that cannot be written to."""
    run = Run(Path(path))
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"the run folder {path} is a file; choose another --name or --out")
    try:
        check_writable(path)
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    ours = {run.lock_file, run.checkpoints, run.claims, *run.path.glob(LEFTOVERS)}
    if run.path.is_dir() and not run.recipe_file.exists() and set(run.path.iterdir()) - ours:
        raise UserError(f"{path} is not empty and holds no run; choose another --name or --out")
    return run


def create_run(path: StrPath) -> Run:
    """Returns the run of a folder, and creates the folder if it does not exist."""
    run = Run(Path(path))
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        run.lock_file.touch()
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    return run


def _unusable(path: StrPath, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be used as a run folder ({os_error_text(error, path)}); choose another "
        "--name or --out"
    )


def remove_leftovers(run: Run) -> None:
    """Deletes what killed processes have left half-written; call it only while holding the lock."""
    for leftover in (*run.path.glob(LEFTOVERS), *run.checkpoints.glob(LEFTOVERS)):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def remove_unbegun(run: Run) -> None:
    """Deletes a run that has no state yet; call it only while holding the lock."""
    with suppress(OSError):  # something else is in the folder
        run.checkpoints.rmdir()
        run.recipe_file.unlink(missing_ok=True)
        run.lock_file.unlink()
        run.path.rmdir()


def unique_labels(paths: Sequence[StrPath]) -> list[str]:
    """Returns the names of runs and files, or their paths where the names are not distinct."""
    names = [_short_name(Path(os.path.realpath(path))) for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _short_name(path: Path) -> str:
    """Returns the name of a run or file, that of a model file in a run with the run's name."""
    run = Run(path.parent)
    return f"{path.parent.name}/{path.name}" if path in (run.model, run.best) else path.name


def set_aside(path: StrPath, runs: Iterable[Run]) -> Path:
    """Renames a folder to <name>.1, .2, ..., and returns its new path.

    Args:
        runs: those in the folder, or the folder itself.

    Raises:
        UserError: another process works in one of them, or the system refuses.
    """
    path = Path(os.path.abspath(path))  # of a link its own name, not that of its target
    with ExitStack() as locks:
        for run in runs:
            locks.enter_context(lock(run))
        number = 1
        while (target := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        try:
            path.rename(target)
        except OSError as error:
            raise UserError(
                f"--fresh cannot rename {path} to {target} ({os_error_text(error, path.parent)}); "
                "choose another --name or --out"
            ) from error
    return target


def lock(run: Run, *, shared: bool = False) -> TextIO:
    """Locks the folder for this process, or raises a UserError if another process works in it.

    Args:
        shared: for the processes that share out the runs of a folder, which exclude others but not
            each other.

    Returns:
        The open lock file. The lock ends when the file is closed or the process ends, and goes with
        the folder if that is renamed.
    """
    renamed = UserError(
        f"another process has just started over in {run.path}; wait for it, or give this run a "
        "folder of its own with --name"
    )
    try:
        file = open(run.lock_file, "a+", encoding="utf-8")  # noqa: SIM115
    except FileNotFoundError:
        raise renamed from None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "the process has not recorded its id yet"
        file.close()
        raise UserError(
            f"another process is working in {run.path} ({holder}); wait for it, or give this "
            "run a folder of its own with --name"
        ) from None
    if not is_at(run.lock_file, file):
        file.close()
        raise renamed
    file.truncate(0)  # the text of an earlier process
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    file.write(f"pid {os.getpid()} on {socket.gethostname()}, since {now}")
    file.flush()
    return file
