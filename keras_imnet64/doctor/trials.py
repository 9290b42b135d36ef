"""Trials in processes of their own: of backends and data sets, which may crash what loads them."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from keras_imnet64.backend.environment import without_refused
from keras_imnet64.core.errors import UserError, reason

PROBE_SECONDS = 120  # a backend that is loaded from a slow network disk takes a while
NO_ANSWER = "no answer within"  # these begin an error, and `problems` tells them apart
BY_SIGNAL = "it was ended by signal"
PACKAGE_PARENT = Path(__file__).parent.parent.parent


def examine_backend(name, keras_json):
    """Whether a backend imports and computes, in a process of its own, whatever keras.json says.

    Returns:
        {"installed": False}, or {"installed": True, "imports": bool, "computes": bool, "version",
        "devices": [str], "seconds": float, "error": one line or None}.
    """
    if find_spec(name) is None:
        return {"installed": False}
    environment = without_refused(os.environ) | {
        "KERAS_BACKEND": name,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # leave the memory to whoever is training
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if keras_json["fault"] or not keras_json["exists"]:
        environment["KERAS_HOME"] = os.devnull  # Keras takes its defaults, and cannot leave a file
    begin = time.perf_counter()
    found, error = _in_a_process_of_its_own("try_backend", name, environment=environment)
    return {
        "installed": True,
        "imports": "version" in found,
        "computes": error is None,
        "version": found.get("version"),
        "devices": found.get("devices", []),
        "seconds": round(time.perf_counter() - begin, 2),
        "error": error,
    }


def try_backend(name):
    """Import a backend, name its devices, convolve one image through Keras; prints as it goes."""
    library = __import__(name)
    print(json.dumps({"version": library.__version__}), flush=True)
    print(json.dumps({"devices": DEVICES[name](library)}), flush=True)
    import keras
    import numpy as np

    layer = keras.layers.Conv2D(2, 3, data_format="channels_last", kernel_initializer="ones")
    outputs = keras.ops.convert_to_numpy(layer(np.ones((1, 4, 4, 3), "float32")))
    if outputs.shape != (1, 2, 2, 2) or not (outputs == 27).all():  # 3 x 3 pixels x 3 channels
        raise ArithmeticError(f"a convolution gave {outputs.ravel().tolist()} where 27 is right")


def _tensorflow_devices(tf):
    devices = tf.config.list_physical_devices()
    models = [tf.config.experimental.get_device_details(d).get("device_name", "") for d in devices]
    names = [device.name.removeprefix("/physical_device:") for device in devices]
    return [f"{name} {model}".strip() for name, model in zip(names, models, strict=True)]


def _jax_devices(jax):
    devices = [(f"{d.platform}:{d.id}", d.platform, d.device_kind) for d in jax.local_devices()]
    return [name if kind == platform else f"{name} {kind}" for name, platform, kind in devices]


def _torch_devices(torch):
    gpus = range(torch.cuda.device_count())
    return ["cpu:0", *(f"gpu:{index} {torch.cuda.get_device_name(index)}" for index in gpus)]


DEVICES = {"tensorflow": _tensorflow_devices, "jax": _jax_devices, "torch": _torch_devices}


# ---------------------------------------------------------------------------------------- data sets


def examine_datasets(data_dir=None, cache_dir=None):
    """A row for every data set, and one line of error if their table itself could not be read."""
    places = [str(place) if place else None for place in (data_dir, cache_dir)]
    rows, error = _in_a_process_of_its_own("print_datasets", *places)
    return list(rows.values()), error


def print_datasets(data_dir, cache_dir):
    """Print {name: row} for every data set, a damaged one too."""
    from keras_imnet64.data.datasets import DATASETS, default_data_dir, info

    where = data_dir or default_data_dir()
    for name, dataset in DATASETS.items():
        row = {"name": name, "prepare": _prepare_command(dataset, data_dir, cache_dir)}
        try:
            row |= _known(info(name, data_dir=data_dir, cache_dir=cache_dir), where, cache_dir)
        except Exception as error:  # whatever lies in its folder
            damaged = isinstance(error, UserError)
            row |= dict.fromkeys(("verified", "bytes", "location"))
            row["state"] = "damaged" if damaged else "unknown"
            row["splits"] = dataset.splits
            row["problem"] = str(error) if damaged else f"{type(error).__name__}: {reason(error)}"
        print(json.dumps({name: row}), flush=True)


def _known(info, data_dir, cache_dir):
    """The row of a data set from what `data info` tells."""
    size = info["store_bytes"] + info["tfds_bytes"]
    half = info["state"] == "half there"
    where = cache_dir if cache_dir and info["store_bytes"] else data_dir
    return {
        "state": info["state"],
        "verified": info["verified"],
        "splits": info["splits"],
        "bytes": size,
        "location": info["location"],
        "problem": f"a part of it lies in {where}, {size:,} bytes" if half else None,
    }


def _prepare_command(dataset, data_dir, cache_dir):
    words = ["python", "cli.py", "data", "prepare", dataset.name]
    words += [] if dataset.embedded else ["--source", dataset.source_hint]
    words += ["--data-dir", data_dir] if data_dir else []
    words += ["--cache-dir", cache_dir] if cache_dir else []
    return shlex.join(words)


# ---------------------------------------------------------------------------------------- processes


def _in_a_process_of_its_own(function, *arguments, environment=None):
    """Call a function of this file that prints JSON objects: their union, and one line of error."""
    code = (
        f"import sys; sys.path.append({str(PACKAGE_PARENT)!r});"
        f"from keras_imnet64.doctor import trials; trials.{function}(*{arguments!r})"
    )
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=environment or os.environ,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
        output, error = child.stdout, _last_words(child)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""  # bytes in spite of text=True
        output = output if isinstance(output, str) else output.decode(errors="replace")
        error = f"{NO_ANSWER} {PROBE_SECONDS} seconds"
    except OSError as failure:
        output, error = "", reason(failure)
    return _union_of_objects(output), error


def _last_words(child):
    """Why a process failed, in one line; None if it did not."""
    if child.returncode == 0:
        return None
    if child.returncode < 0:
        number = -child.returncode
        return f"{BY_SIGNAL} {number} ({signal.strsignal(number)})"
    said = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
    # TensorFlow's last line is advice, the one with the reason stands above it.
    return (errors or said or [f"it ended with status {child.returncode}"])[-1][:300]


def _union_of_objects(output):
    """All printed JSON objects in one; what libraries print in between is passed over."""
    found = {}
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            found |= value if isinstance(value, dict) else {}
    return found
