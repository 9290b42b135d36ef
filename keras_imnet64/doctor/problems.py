"""What is wrong, told from the facts alone: a sentence, and what mends it, for each problem."""

import glob
import os
import re
import shlex
from difflib import get_close_matches
from pathlib import Path

from keras_imnet64.backend.devices import BACKENDS, DEVICE_KINDS
from keras_imnet64.core.errors import nearest
from keras_imnet64.doctor.facts import DISTRIBUTION
from keras_imnet64.doctor.text import gigabytes
from keras_imnet64.doctor.trials import BY_SIGNAL, NO_ANSWER

LEAST_DISK = 10**9  # bytes; a checkpoint of wrn36_5, weights and momentum, has 0.3e9
LEAST_MEMORY = 2 * 10**9  # bytes
CHECKOUT = Path(__file__).parent.parent.parent


def problems_of(report):
    """[{"what": sentence, "mend": command or advice}] for what `doctor.examine` has found."""
    kinds = (
        _of_requirements,
        _of_backends,
        _of_keras_json,
        _of_choice,
        _of_settings,
        _of_gpus,
        _of_memory,
        _of_disk,
        _of_datasets,
    )
    return [{"what": what, "mend": mend} for kind in kinds for what, mend in kind(report)]


def _of_requirements(report):
    for unmet in report["unmet_requirements"]:
        name, needs, found = unmet["name"], unmet["needs"], unmet["found"]
        if name == DISTRIBUTION:
            what = f"{name} is not installed here, so what it needs could not be checked"
            yield what, _pip("-e .")
            continue
        state = f"{found} is installed" if found else "it is not installed"
        asked = f"{needs} is needed" if needs else "it is needed"
        yield f"{name}: {asked}, {state}", _pip(shlex.quote(name + needs))


def _of_backends(report):
    for name, row in report["backends"].items():
        if row["installed"] and row["error"]:
            does = "imports but does not compute" if row["imports"] else "does not import"
            yield f"{name} {does}: {row['error']}", _mend_of(name, row, report["machine"]["gpus"])


def _mend_of(backend, row, gpus):
    """Another installation only for a backend that does not load: else others are in its way."""
    error = row["error"]
    if LACKS_MEMORY.search(error):
        return OTHERS_ON_GPU if gpus else "end other programs, then examine again"
    if error.startswith(NO_ANSWER):
        return "examine again when the machine has less to do: python cli.py doctor"
    if not row["imports"]:
        return _pip(f"--force-reinstall {backend}")
    asked = [name for name in DEVICE_KINDS.get(backend, ()) if os.environ.get(name)]
    if asked and not row["devices"]:
        return f"unset {' '.join(asked)}"
    if error.startswith(BY_SIGNAL):
        return "examine again when no other program is running: python cli.py doctor"
    code = shlex.quote("import keras; print(keras.ops.ones(1))")
    return f"see the whole message: KERAS_BACKEND={backend} python -c {code}"


# What the system, TensorFlow, JAX and PyTorch say; a GPU without free memory gives no handle to
# cuDNN and cuBLAS.
LACKS_MEMORY = re.compile(
    rf"{BY_SIGNAL} 9\b|out of memory|\bOOM\b|RESOURCE_?EXHAUSTED|MemoryError|bad_alloc"
    r"|busy or unavailable|DEVICE_UNAVAILABLE|DNN library initialization failed"
    r"|CU(DNN|BLAS)_STATUS_(NOT_INITIALIZED|ALLOC_FAILED)",
    re.IGNORECASE,
)
OTHERS_ON_GPU = (
    "other processes hold the memory, nvidia-smi lists them: end them or wait, or choose another "
    "GPU with CUDA_VISIBLE_DEVICES"
)


def _of_keras_json(report):
    found = report["keras_json"]
    if found["fault"]:
        aside = shlex.join(["mv", found["path"], f"{found['path']}.wrong"])
        yield found["fault"], f"correct it, or put it aside: {aside}"


def _of_choice(report):
    name, by = report["chosen_backend"], report["chosen_by"]
    if name not in BACKENDS:
        what = f'{by} names the backend "{name}", which is not known; {nearest(name, BACKENDS)}'
        close = get_close_matches(name, BACKENDS, n=1, cutoff=0.5) or ["tensorflow"]
        in_file = f'set "backend" to "{close[0]}" in {shlex.quote(by)}'
        yield what, f"export KERAS_BACKEND={close[0]}" if by == "KERAS_BACKEND" else in_file
    elif not report["backends"][name]["installed"]:
        needed = shlex.quote(_extra("torch")) if name == "torch" else name
        yield f"{by} names the backend {name}, which is not installed", _pip(needed)


def _of_settings(report):
    for refused in report["refused_settings"]:
        yield refused["what"], refused["mend"]


def _of_gpus(report):
    gpus, error = report["machine"]["gpus"], report["machine"]["gpu_error"]
    if error and glob.glob("/dev/nvidia[0-9]*"):
        what = f"there is an NVIDIA GPU, and nvidia-smi fails: {error}"
        yield what, "restart the machine, or install the driver anew, so that nvidia-smi lists it"
    for name in ("tensorflow", "jax") if gpus else ():
        row = report["backends"][name]
        if row.get("computes") and not any(d.lower().startswith("gpu") for d in row["devices"]):
            what = f"{name} sees no GPU, the driver sees {len(gpus)} ({gpus[0]['name']})"
            yield what, _unhide(name) or _pip(shlex.quote(_extra("gpu")))


def _unhide(backend):
    """The command that lets a backend see GPUs again where the environment hides them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES"
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if backend == "jax" and platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return "unset JAX_PLATFORMS"
    return None


def _of_memory(report):
    available = report["machine"]["memory_available_bytes"]
    if available is not None and available < LEAST_MEMORY:
        what = f"{gigabytes(available)} of memory are available; training needs 2 GB and more"
        yield what, "end other programs, or take a machine with more memory"


def _of_disk(report):
    rows = {row["what"]: row for row in report["disk"]}
    if rows.get("cache", {}).get("writable"):
        rows.pop("data", None)  # it need only be read: what is packed goes into the cache
    for what, row in rows.items():
        if not row["writable"]:
            yield f"the folder for {what}, {row['path']}, cannot be written", OTHER_FOLDER[what]
    full = [row for row in report["disk"] if (row["free_bytes"] or 0) < LEAST_DISK]
    for mount, row in {row["mount"]: row for row in full if row["mount"]}.items():
        what = f"{gigabytes(row['free_bytes'])} are free on the disk of {mount}; 1 GB is the least"
        yield what, "free some, or name folders on another disk (--data-dir, --cache-dir, --out)"


OTHER_FOLDER = {
    "data": "make it writable, or name another with --data-dir or TFDS_DATA_DIR",
    "cache": "make it writable, or name another with --cache-dir",
    "runs": "work in another folder, or name one with fit --out",
    "temporary files": "make it writable, or name another in TMPDIR",
}


def _of_datasets(report):
    if report["datasets_error"]:
        what = f"the data sets could not be examined: {report['datasets_error']}"
        yield what, "mend the problems above, then examine again"
    for row in report["datasets"]:
        if row["problem"]:
            yield f"data set {row['name']}: {row['problem']}", BEFORE[row["state"]] + row["prepare"]


BEFORE = {
    "damaged": "delete that folder, then ",
    "half there": "if no other process is just preparing it: ",
    "unknown": "",
}


def _pip(what):
    """A pip command, with the tested versions where their list is at hand."""
    pinned = (CHECKOUT / "constraints.txt").is_file()
    return f"pip install {'-c constraints.txt ' if pinned else ''}{what}"


def _extra(name):
    checkout = (CHECKOUT / "pyproject.toml").is_file()
    return f".[{name}]" if checkout else f"{DISTRIBUTION}[{name}]"
