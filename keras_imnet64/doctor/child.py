"""Tries a backend or all data sets in a child process, which may crash; `trials` is the parent.

`python -m keras_imnet64.doctor.child` reads a JSON object: {"backend": name}, or {"data_dir": path,
"cache_dir": path}. It prints each finding at once, so that those before a crash are known.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.paths import default_data_dir
from keras_imnet64.core.types import JsonObject
from keras_imnet64.doctor.report import DatasetState


def main() -> None:
    request = json.load(sys.stdin)
    if "backend" in request:
        try_backend(request["backend"])
    else:
        try_datasets(request["data_dir"], request["cache_dir"])


def print_findings(**findings: object) -> None:
    """Prints findings for the parent process."""
    print(json.dumps(findings), flush=True)


# ----------------------------------------------------------------------------------------- backends


def try_backend(name: str) -> None:
    """Imports a backend, reports its version and devices, and convolves an image through Keras."""
    library = __import__(name)
    print_findings(version=library.__version__)
    print_findings(devices=DEVICES[name](library))
    import keras
    import numpy as np

    layer = keras.layers.Conv2D(2, 3, data_format="channels_last", kernel_initializer="ones")
    outputs = keras.ops.convert_to_numpy(layer(np.ones((1, 4, 4, 3), "float32")))
    if outputs.shape != (1, 2, 2, 2) or not (outputs == 27).all():  # 3 x 3 pixels x 3 channels
        raise ArithmeticError(f"a convolution gave {outputs.ravel().tolist()} instead of 27")


def _tensorflow_devices(tf: ModuleType) -> list[str]:
    devices = tf.config.list_physical_devices()
    models = [tf.config.experimental.get_device_details(d).get("device_name", "") for d in devices]
    names = [device.name.removeprefix("/physical_device:") for device in devices]
    return [f"{name} {model}".strip() for name, model in zip(names, models, strict=True)]


def _jax_devices(jax: ModuleType) -> list[str]:
    devices = [(f"{d.platform}:{d.id}", d.platform, d.device_kind) for d in jax.local_devices()]
    return [name if kind == platform else f"{name} {kind}" for name, platform, kind in devices]


def _torch_devices(torch: ModuleType) -> list[str]:
    gpus = range(torch.cuda.device_count())
    return ["cpu:0", *(f"gpu:{index} {torch.cuda.get_device_name(index)}" for index in gpus)]


DEVICES: dict[str, Callable[[ModuleType], list[str]]] = {
    "tensorflow": _tensorflow_devices,
    "jax": _jax_devices,
    "torch": _torch_devices,
}


# ---------------------------------------------------------------------------------------- data sets


def try_datasets(data_dir: str | None, cache_dir: str | None) -> None:
    """Reports the state of every data set, the user's own included, even of a damaged one."""
    from keras_imnet64.data.datasets import (
        DATASETS,
        all_rows,
        command_for,
        info,
    )

    data_folder = data_dir or str(default_data_dir())
    for dataset in all_rows(data_dir, cache_dir):
        name, prepare = dataset.name, command_for(dataset, data_dir, cache_dir)
        try:
            found = info(name, data_dir=data_dir, cache_dir=cache_dir)
            if name not in DATASETS and found["state"] == "not prepared":
                continue
            state = _state_of(found, prepare, data_folder, cache_dir)
        except UserError as error:
            state = DatasetState(name, prepare, "damaged", None, dataset.splits, problem=str(error))
        except Exception as error:  # its folder may hold anything
            problem = f"{type(error).__name__}: {reason(error)}"
            state = DatasetState(name, prepare, "unknown", None, dataset.splits, problem=problem)
        print_findings(dataset=asdict(state))


def _state_of(info: JsonObject, prepare: str, data_dir: str, cache_dir: str | None) -> DatasetState:
    """Returns the state of a data set from what `data.datasets.info` returns."""
    size = info["store_bytes"] + info["tfds_bytes"]
    folder = cache_dir if cache_dir and info["store_bytes"] else data_dir
    is_half = info["state"] == "half there"
    return DatasetState(
        info["name"],
        prepare,
        info["state"],
        info["verified"],
        info["splits"],
        size,
        info["location"],
        f"a part of it lies in {folder}, {size:,} bytes" if is_half else None,
    )


if __name__ == "__main__":
    main()
