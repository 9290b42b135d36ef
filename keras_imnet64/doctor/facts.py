"""Reads facts about the installation and the machine that are safe to read in this process."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from keras_imnet64 import __version__
from keras_imnet64.backend.environment import refusals
from keras_imnet64.backend.keras_settings import KerasSettings
from keras_imnet64.backend.programs import program_settings
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.machine_limits import cores, memory
from keras_imnet64.core.paths import DEFAULT_RUNS, check_writable, default_data_dir
from keras_imnet64.core.program_folder import check_folder, program_files
from keras_imnet64.core.types import StrPath
from keras_imnet64.doctor.report import Gpu, Machine, Place, Problem, Programs, UnmetRequirement

DISTRIBUTION = "keras-imnet64"
SHOWN_FIRST = ("keras", "tensorflow", "jax", "keras-cv", "tensorflow-datasets", "numpy", "pillow")
DRIVER_SECONDS = 10


def versions() -> dict[str, str | None]:
    """Returns {distribution: version or None} of Python, this package, its requirements, torch."""
    required = [_name_in(text) for text in _requirements() if "extra ==" not in text]
    names = dict.fromkeys([*SHOWN_FIRST, *required, "torch"])
    first: dict[str, str | None] = {"python": platform.python_version(), DISTRIBUTION: __version__}
    return first | {name: _version(name) for name in names}


def unmet_requirements() -> list[UnmetRequirement]:
    """Returns the requirements in this package's metadata that are missing or of a wrong version.

    Without metadata the only entry is this package.
    """
    if not _requirements():
        return [UnmetRequirement(DISTRIBUTION, "", None)]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [UnmetRequirement("packaging", "", None)]
    unmet = []
    for requirement in map(Requirement, _requirements()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            unmet.append(UnmetRequirement(requirement.name, str(requirement.specifier), found))
    return unmet


def _requirements() -> list[str]:
    """Returns ["keras>=3.15", "torch>=2.6; extra == 'torch'", ...]; [] without metadata."""
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _name_in(requirement: str) -> str:
    """Returns "keras" of "keras>=3.15"."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def chosen_backend(settings: KerasSettings) -> tuple[str, str]:
    """Returns the backend of a command without --backend, and the setting that chooses it."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    if settings.content.get("backend"):
        return str(settings.content["backend"]), str(settings.path)
    return "tensorflow", "default"


def refused_settings() -> list[Problem]:
    """Returns the environment variables that commands refuse under any backend."""
    return [Problem(what, mend) for what, mend in refusals()]


# ------------------------------------------------------------------------------------------ machine


def machine() -> Machine:
    """Returns the cores and the memory that this process may use, and the GPUs of the driver."""
    gpus, error = driver_gpus()
    total, available = memory()
    return Machine(cores(), total, available, gpus, error)


def driver_gpus() -> tuple[list[Gpu], str | None]:
    """Returns the GPUs that nvidia-smi lists, and one line of error if it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], None
    command = [program, "--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [], f"no answer within {DRIVER_SECONDS} seconds"
    except OSError as error:
        return [], reason(error)
    if done.returncode:
        output = (done.stdout + done.stderr).strip().splitlines()
        return [], output[0] if output else f"it ended with status {done.returncode}"
    rows = [line.partition(",") for line in done.stdout.splitlines() if line.strip()]
    return [
        Gpu(name.strip(), int(mib) * 2**20 if mib.strip().isdigit() else None)
        for mib, _, name in rows
    ], None


# --------------------------------------------------------------------------------------------- disk


def disk(data_dir: StrPath | None = None, cache_dir: StrPath | None = None) -> list[Place]:
    """Examines the folders that commands write into, or the parent of a folder that is missing."""
    places = {
        "data": data_dir or default_data_dir(),  # and the cache, unless it has its own folder
        "cache": cache_dir,
        "runs": DEFAULT_RUNS,
        "temporary files": _temporary_folder(),
    }
    return [_place(what, path) for what, path in places.items() if path]


def programs() -> Programs:
    """Examines the folder of compiled programs; makes nothing."""
    try:
        settings = program_settings()
    except UserError as error:
        return Programs(None, "default", 0, 0, str(error))
    if settings.folder is None:
        return Programs(None, settings.chosen_by, 0, settings.max_bytes)
    error_text = None
    try:
        size = sum(file.bytes for file in program_files(settings.folder))
        check_folder(settings.folder)
        check_writable(settings.folder)
    except OSError as error:
        size, error_text = 0, reason(error)
    return Programs(str(settings.folder), settings.chosen_by, size, settings.max_bytes, error_text)


def _place(what: str, named: StrPath) -> Place:
    """Examines a folder; facts that cannot be read stay unknown."""
    place = Place(what, str(named))
    with contextlib.suppress(OSError, RuntimeError):  # no home folder, no working directory
        path = Path(named).expanduser().absolute()
        place = replace(place, path=str(path))
        folder = next(parent for parent in (path, *path.parents) if parent.exists())
        place = replace(place, free_bytes=shutil.disk_usage(folder).free)
        real = folder.resolve()
        mount = next(parent for parent in (real, *real.parents) if parent.is_mount())
        place = replace(place, mount=str(mount))
        with tempfile.TemporaryFile(dir=folder):
            place = replace(place, writable=True)
    return place


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return os.environ.get("TMPDIR") or "/tmp"
