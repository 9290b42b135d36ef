"""Finds problems in a report: for each a sentence, and the command or advice that fixes it."""

import glob
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import TypeAlias

from keras_imnet64.backend.devices import DEVICE_KINDS
from keras_imnet64.backend.keras_settings import BACKENDS
from keras_imnet64.backend.programs import FOLDER
from keras_imnet64.core.errors import nearest
from keras_imnet64.core.invocation import program_name
from keras_imnet64.core.processes import BY_SIGNAL, NO_ANSWER, PACKAGE_PARENT
from keras_imnet64.doctor.facts import DISTRIBUTION
from keras_imnet64.doctor.report import BackendTrial, Gpu, Problem, Report
from keras_imnet64.doctor.text import gigabytes

Problems: TypeAlias = Iterator[Problem]

MIN_DISK_BYTES = 10**9  # a checkpoint of wrn36_5, weights and momentum, has 0.3e9
MIN_MEMORY_BYTES = 2 * 10**9


def problems_of(report: Report) -> list[Problem]:
    """Returns the problems in a report, those of the installation first."""
    checks: tuple[Callable[[Report], Problems], ...] = (
        _of_requirements,
        _of_backends,
        _of_keras_json,
        _of_choice,
        _of_settings,
        _of_gpus,
        _of_memory,
        _of_disk,
        _of_programs,
        _of_datasets,
    )
    return [problem for check in checks for problem in check(report)]


def _of_requirements(report: Report) -> Problems:
    for unmet in report.unmet_requirements:
        name, needs = unmet.name, unmet.needs
        if name == DISTRIBUTION:
            what = f"{name} is not installed here, so its requirements could not be checked"
            yield Problem(what, _pip("-e ."))
            continue
        state = f"{unmet.found} is installed" if unmet.found else "it is not installed"
        needed = f"{needs} is needed" if needs else "it is needed"
        yield Problem(f"{name}: {needed}, {state}", _pip(shlex.quote(name + needs)))


def _of_backends(report: Report) -> Problems:
    for name, trial in report.backends.items():
        if trial.installed and trial.error:
            fails = "imports but does not compute" if trial.imports else "does not import"
            fix = _backend_fix(name, trial, trial.error, report.machine.gpus)
            yield Problem(f"{name} {fails}: {trial.error}", fix)


def _backend_fix(name: str, trial: BackendTrial, error: str, gpus: Sequence[Gpu]) -> str:
    """Returns the fix of a backend: a new installation only if the backend does not import."""
    if LACKS_MEMORY.search(error):
        return OTHERS_ON_GPU if gpus else "end other programs, then run the doctor again"
    if error.startswith(NO_ANSWER):
        return f"run this again when the machine is less busy: {program_name()} doctor"
    if not trial.imports:
        return _pip(f"--force-reinstall {name}")
    variables = [variable for variable in DEVICE_KINDS.get(name, ()) if os.environ.get(variable)]
    if variables and not trial.devices:
        return f"unset {' '.join(variables)}"
    if error.startswith(BY_SIGNAL):
        return f"run this again when no other program is running: {program_name()} doctor"
    code = shlex.quote("import keras; print(keras.ops.ones(1))")
    return f"read the whole message: KERAS_BACKEND={name} python -c {code}"


# Messages of the system, TensorFlow, JAX and PyTorch; without free memory on the GPU, handles of
# cuDNN and cuBLAS cannot be created.
LACKS_MEMORY = re.compile(
    rf"{BY_SIGNAL} 9\b|out of memory|\bOOM\b|RESOURCE_?EXHAUSTED|MemoryError|bad_alloc"
    r"|busy or unavailable|DEVICE_UNAVAILABLE|DNN library initialization failed"
    r"|CU(DNN|BLAS)_STATUS_(NOT_INITIALIZED|ALLOC_FAILED)",
    re.IGNORECASE,
)
OTHERS_ON_GPU = (
    "other processes hold the memory (nvidia-smi lists them): end them or wait, or choose another "
    "GPU with CUDA_VISIBLE_DEVICES"
)


def _of_keras_json(report: Report) -> Problems:
    found = report.keras_json
    if found.fault:
        aside = shlex.join(["mv", str(found.path), f"{found.path}.wrong"])
        yield Problem(found.fault, f"correct it, or move it away: {aside}")


def _of_choice(report: Report) -> Problems:
    name, by = report.chosen_backend, report.chosen_by
    if name not in BACKENDS:
        what = f'{by} names the backend "{name}", which is not known; {nearest(name, BACKENDS)}'
        close = get_close_matches(name, BACKENDS, n=1, cutoff=0.5) or ["tensorflow"]
        in_file = f'set "backend" to "{close[0]}" in {shlex.quote(by)}'
        in_environment = f"export KERAS_BACKEND={close[0]}"
        yield Problem(what, in_environment if by == "KERAS_BACKEND" else in_file)
    elif not report.backends[name].installed:
        needed = shlex.quote(_extra("torch")) if name == "torch" else name
        yield Problem(f"{by} names the backend {name}, which is not installed", _pip(needed))


def _of_settings(report: Report) -> Problems:
    yield from report.refused_settings


def _of_gpus(report: Report) -> Problems:
    gpus, error = report.machine.gpus, report.machine.gpu_error
    if error and glob.glob("/dev/nvidia[0-9]*"):
        yield Problem(
            f"there is an NVIDIA GPU, and nvidia-smi fails: {error}",
            "restart the machine, or reinstall the driver, so that nvidia-smi lists the GPU",
        )
    for name in ("tensorflow", "jax") if gpus else ():
        trial = report.backends[name]
        if trial.computes and not any(d.lower().startswith("gpu") for d in trial.devices):
            what = f"{name} sees no GPU, the driver sees {len(gpus)} ({gpus[0].name})"
            yield Problem(what, _unhide_gpus(name) or _pip(shlex.quote(_extra("gpu"))))


def _unhide_gpus(backend: str) -> str | None:
    """Returns the command that unsets a variable that hides GPUs from a backend, or None."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES"
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if backend == "jax" and platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return "unset JAX_PLATFORMS"
    return None


def _of_memory(report: Report) -> Problems:
    available = report.machine.memory_available_bytes
    if available is not None and available < MIN_MEMORY_BYTES:
        yield Problem(
            f"{gigabytes(available)} of memory are available; training needs at least 2 GB",
            "end other programs, or use a machine with more memory",
        )


def _of_disk(report: Report) -> Problems:
    places = {place.what: place for place in report.disk}
    if "cache" in places and places["cache"].writable:
        places.pop("data", None)  # packing writes only into the cache
    for what, place in places.items():
        if not place.writable:
            sentence = f"the folder for {what}, {place.path}, cannot be written"
            yield Problem(sentence, OTHER_FOLDER[what])
    full = [place for place in report.disk if (place.free_bytes or 0) < MIN_DISK_BYTES]
    for mount, place in {place.mount: place for place in full if place.mount}.items():
        yield Problem(
            f"{gigabytes(place.free_bytes)} are free on the disk of {mount}; 1 GB is needed",
            "free some space, or name folders on another disk (--data-dir, --cache-dir, --out)",
        )


OTHER_FOLDER = {
    "data": "make it writable, or name another with --data-dir or TFDS_DATA_DIR",
    "cache": "make it writable, or name another with --cache-dir",
    "runs": "work in another folder, or name one with fit --out",
    "temporary files": "make it writable, or name another in TMPDIR",
}


def _of_programs(report: Report) -> Problems:
    programs = report.programs
    if programs.error:
        what = f"compiled programs are not kept: {programs.error}"
        yield Problem(what, f"name another folder in {FOLDER}, or set it to off")


def _of_datasets(report: Report) -> Problems:
    if report.datasets_error:
        yield Problem(
            f"the data sets could not be examined: {report.datasets_error}",
            "fix the problems above, then run the doctor again",
        )
    for dataset in report.datasets:
        if dataset.problem:
            what = f"data set {dataset.name}: {dataset.problem}"
            yield Problem(what, FIRST_STEP[dataset.state] + dataset.prepare)


FIRST_STEP = {  # before a data set is prepared again, by its state
    "damaged": "delete that folder, then ",
    "half there": "if no other process is preparing it: ",
    "unknown": "",
}


def _pip(what: str) -> str:
    """Returns a pip command; in a checkout, with its list of tested versions."""
    pinned = (PACKAGE_PARENT / "constraints.txt").is_file()
    return f"pip install {'-c constraints.txt ' if pinned else ''}{what}"


def _extra(name: str) -> str:
    """Returns this package with an extra, as pip takes it."""
    checkout = (PACKAGE_PARENT / "pyproject.toml").is_file()
    return f".[{name}]" if checkout else f"{DISTRIBUTION}[{name}]"
