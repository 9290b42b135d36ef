"""What ships: the plain float32 model, filled by variable path. Nothing else writes a model file.

A `.keras` file of ours is Keras' own format with one more member, `imnet64.json`: class ids and
names, the recipe, and whatever else the run states about the model, see `records.ModelInfo`.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.core.files import sync_folder
from keras_imnet64.core.types import Json, Options, StrPath, Variable
from keras_imnet64.core.work_folders import new_beside
from keras_imnet64.models.info import INFO_MEMBER
from keras_imnet64.models.paths import SEED_STATE, by_path

if TYPE_CHECKING:
    import keras

LOWEST_KERAS = "3.4.1"  # the first version that loads our files; a slow test proves it
NEWER_DEFAULTS = {  # settings that later versions write and earlier ones refuse to read
    "quantization_config": None,
    "input_axes": None,
    "output_axes": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}


def float32_copy(model: keras.Model) -> keras.Model:
    """Returns the same network with fresh weights, in float32, without synchronised BN."""
    import keras

    def plain(layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, keras.Model):
            return float32_copy(layer)
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # and not an operation of keras.ops
            config["dtype"] = "float32"
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = False
        return type(layer).from_config(config)

    compiled, model.compiled = model.compiled, False  # else Keras compiles the copy too
    try:
        return keras.models.clone_model(model, clone_function=plain)
    finally:
        model.compiled = compiled


def fill(
    plain: keras.Model, model: keras.Model, averages: Mapping[str, Variable] | None = None
) -> None:
    """Gives `plain` the weights of `model` by path, or `averages` {path: variable} where given."""
    from keras import ops

    source = by_path(model) | dict(averages or {})
    for path, variable in by_path(plain).items():
        if variable.name != SEED_STATE:  # a model file has none
            variable.assign(ops.convert_to_numpy(source[path]))


def ship(plain: keras.Model, path: StrPath, info: Options) -> None:
    """Writes the model file: the whole file or nothing.

    Args:
        plain: a float32 model of Keras' own layers, see `float32_copy` and `fill`.
        path: ends in ".keras".
        info: what `model_info` is to return: wnids, class_names, recipe, ...
    """
    path = Path(path)
    work = new_beside(path, "writing")
    saved, complete = work / "saved.keras", work / "whole.keras"
    try:
        plain.save(saved)
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(complete, "w") as target:
            for member in source.infolist():
                content: bytes | str = source.read(member)
                if member.filename == "config.json":
                    content = json.dumps(without_newer_defaults(json.loads(content)))
                target.writestr(member, content)
            target.writestr(INFO_MEMBER, json.dumps(info))
        with open(complete, "rb") as file:
            os.fsync(file.fileno())
        os.replace(complete, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def without_newer_defaults(config: Json) -> Json:
    """Returns a Keras config without defaults that LOWEST_KERAS does not know."""
    if isinstance(config, list):
        return [without_newer_defaults(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: without_newer_defaults(value)
        for key, value in config.items()
        if key not in NEWER_DEFAULTS or value != NEWER_DEFAULTS[key]
    }
