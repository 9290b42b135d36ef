"""Facts about the installation and the machine, read in this process: nothing here can crash it."""

import contextlib
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

from keras_imnet64 import __version__
from keras_imnet64.backend.environment import refusals
from keras_imnet64.backend.keras_settings import SETTINGS, keras_settings
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.runs import DEFAULT_ROOT

DISTRIBUTION = "keras-imnet64"
SHOWN_FIRST = ("keras", "tensorflow", "jax", "keras-cv", "tensorflow-datasets", "numpy", "pillow")
DRIVER_SECONDS = 10


def versions():
    """{distribution: version or None} of Python, this package, all that it requires, and torch."""
    required = [re.match(r"[\w.-]+", r)[0] for r in _requirements() if "extra ==" not in r]
    names = dict.fromkeys([*SHOWN_FIRST, *required, "torch"])
    first = {"python": platform.python_version(), DISTRIBUTION: __version__}
    return first | {name: _version(name) for name in names}


def unmet_requirements():
    """[{"name", "needs", "found"}] of what this package's own metadata asks for in vain."""
    if not _requirements():
        return [{"name": DISTRIBUTION, "needs": "", "found": None}]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [{"name": "packaging", "needs": "", "found": None}]
    unmet = []
    for requirement in map(Requirement, _requirements()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            needs = str(requirement.specifier)
            unmet.append({"name": requirement.name, "needs": needs, "found": found})
    return unmet


def _requirements():
    """["keras>=3.15", "torch>=2.6; extra == 'torch'", ...], empty if there is no metadata."""
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_keras_json():
    """Keras' own settings: {"path", "exists", "fault"} and each of SETTINGS, None if not set."""
    found = keras_settings()
    values = {key: found.content.get(key) for key in SETTINGS}
    return {"path": str(found.path), "exists": found.exists, "fault": found.fault} | values


def chosen_backend(keras_json):
    """The backend that a command without --backend takes, and what says so."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    if keras_json["backend"]:
        return str(keras_json["backend"]), keras_json["path"]
    return "tensorflow", "default"


def refused_settings():
    """[{"what": sentence, "mend": command}] of variables that commands refuse, for any backend."""
    return [{"what": what, "mend": mend} for what, mend in refusals()]


# ------------------------------------------------------------------------------------------ machine


def machine():
    """Cores and memory that this process may use, and the GPUs that NVIDIA's driver sees."""
    gpus, error = driver_gpus()
    total, available = _memory()
    return {
        "cpu_cores": _cores(),
        "memory_bytes": total,
        "memory_available_bytes": available,
        "gpus": gpus,
        "gpu_error": error,
    }


def _cores():
    """Cores of the affinity mask, or fewer where a control group grants less time."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count()
    for group in _control_groups():
        quota, _, period = _read(group / "cpu.max").partition(" ")  # "max 100000"
        if quota.isdigit() and period.strip().isdigit():
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def _memory():
    """Bytes in all and available, the machine's or a control group's where that grants less."""
    try:
        import psutil
    except ImportError:
        return None, None
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for group in _control_groups():
        limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
            cached = int(statistics.get("inactive_file", 0))  # given up when needed
            total = min(total, int(limit))
            available = min(available, max(0, int(limit) - int(used) + cached))
    return total, available


def _control_groups():
    """Folders of the control groups (version 2) of this process, its own and those above."""
    root = Path("/sys/fs/cgroup")
    own = [line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")]
    folders = [root / group.strip("/") for group in own]
    return [f for folder in folders for f in (folder, *folder.parents) if f.is_relative_to(root)]


def _read(file):
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def driver_gpus():
    """[{"name", "memory_bytes"}] as nvidia-smi lists them, and its one line of error or None."""
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
        said = (done.stdout + done.stderr).strip().splitlines()
        return [], said[0] if said else f"it ended with status {done.returncode}"
    rows = [line.partition(",") for line in done.stdout.splitlines() if line.strip()]
    return [
        {"name": name.strip(), "memory_bytes": int(mib) * 2**20 if mib.strip().isdigit() else None}
        for mib, _, name in rows
    ], None


# --------------------------------------------------------------------------------------------- disk


def disk(data_dir=None, cache_dir=None):
    """The folders that commands write into; one that does not exist is judged by its parent."""
    data_dir = data_dir or _default_data_dir()  # and the cache, if it has no folder of its own
    places = {
        "data": data_dir,
        "cache": cache_dir,
        "runs": DEFAULT_ROOT,
        "temporary files": _temporary_folder(),
    }
    return [_place(what, path) for what, path in places.items() if path]


def _place(what, path):
    row = {"what": what, "path": str(path), "mount": None, "free_bytes": None, "writable": False}
    with contextlib.suppress(OSError, RuntimeError):  # no such home, no working directory
        path = Path(path).expanduser().absolute()
        row["path"] = str(path)
        folder = next(parent for parent in (path, *path.parents) if parent.exists())
        row["free_bytes"] = shutil.disk_usage(folder).free
        real = folder.resolve()
        row["mount"] = str(next(p for p in (real, *real.parents) if p.is_mount()))
        with tempfile.TemporaryFile(dir=folder):
            row["writable"] = True
    return row


def _default_data_dir():
    """None if it cannot be told: NumPy is missing, or the home folder is not known."""
    try:
        from keras_imnet64.data.datasets import default_data_dir

        return default_data_dir()
    except (ImportError, RuntimeError, UserError):
        return None


def _temporary_folder():
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return os.environ.get("TMPDIR") or "/tmp"
