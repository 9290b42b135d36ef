"""Writes model files: the float32 copy of a network and what the file states about itself.

A `.keras` file of ours is Keras' own format with one more member, `imnet64.json`, which holds a
`records.ModelInfo`. Only this module writes such files.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.core.types import Json, JsonObject, StrPath, Variable
from keras_imnet64.core.validation import to_json
from keras_imnet64.core.work_folders import publish, work_folder
from keras_imnet64.models.info import INFO_MEMBER
from keras_imnet64.models.packages import is_of_keras, needed_packages
from keras_imnet64.models.paths import SEED_STATE
from keras_imnet64.records import ModelInfo

if TYPE_CHECKING:
    import keras

LOWEST_KERAS = "3.4.1"  # the first version that loads our files; a slow test checks it
NEWER_DEFAULTS = {  # settings that later versions write and earlier ones refuse to read
    "quantization_config": None,
    "input_axes": None,
    "output_axes": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}


def float32_copy(model: keras.Model) -> keras.Model:
    """Returns the same network with fresh weights, in float32, without synchronised BN.

    Models are of Keras' own class in it, since a class such as KerasHub's backbones adds only the
    graph to its layers. A model inside of it that `is_copied_whole` keeps its class.
    """
    import keras

    def plain(layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, keras.Model):
            return copy_whole(layer) if is_copied_whole(layer) else float32_copy(layer)
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # and not an operation of keras.ops
            config["dtype"] = "float32"
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = False
        return type(layer).from_config(config)

    compiled, model.compiled = model.compiled, False  # else Keras compiles the copy too
    try:
        copy = keras.models.clone_model(model, clone_function=plain)
    finally:
        model.compiled = compiled
    return copy if is_of_keras(copy) else keras.Model(copy.input, copy.output, name=copy.name)


def is_copied_whole(model: keras.Model) -> bool:
    """Whether a model in a network is made anew by its class, and not layer by layer.

    Only the backbone of KerasHub's ViT, for example, can make some of its layers: the config that
    they state is not one that they take.
    """
    from keras_imnet64.models.keras_private import all_layers

    return not is_of_keras(model) and not all(
        is_of_keras(layer) for layer in all_layers(model, include_self=False)
    )


def copy_whole(model: keras.Model, dtype: str = "float32") -> keras.Model:
    """Returns a model that `is_copied_whole`, with fresh weights.

    Args:
        dtype: name of a Keras dtype policy for all of its layers.
    """
    return type(model).from_config(model.get_config() | {"dtype": dtype})


def fill(
    plain: keras.Model, model: keras.Model, averages: Mapping[str, Variable] | None = None
) -> None:
    """Copies the weights of a model into a copy of it, seeds excepted, which model files lack.

    They are matched by their order: paths differ where a layer was first built in another model.

    Args:
        averages: {path in `model`: the value that goes first}.

    Raises:
        KeyError: the path of the first variable that has no counterpart, as where the copy has two
            layers for a single one that is called in two places.
    """
    from keras import ops

    averages = averages or {}
    targets, sources = (
        [variable for variable in each.variables if variable.name != SEED_STATE]
        for each in (plain, model)
    )
    for target, source in zip_longest(targets, sources):
        if target is None or source is None or _name_and_shape(target) != _name_and_shape(source):
            raise KeyError((source if target is None else target).path)
        target.assign(ops.convert_to_numpy(averages.get(source.path, source)))
    use_assigned_statistics(plain)


def use_assigned_statistics(model: keras.Model) -> None:
    """Lets adapted `Normalization` layers compute with the statistics that their weights hold.

    They compute with copies of them, which are made when a layer is built, adapted or loaded.
    """
    from keras import layers

    from keras_imnet64.models.keras_private import all_layers

    for layer in all_layers(model):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


def _name_and_shape(variable: Variable) -> tuple[str, tuple[int, ...]]:
    return variable.name, tuple(variable.shape)


def ship(plain: keras.Model, path: StrPath, info: ModelInfo) -> None:
    """Writes a model file: the whole file or nothing.

    Args:
        plain: a float32 model of Keras' own layers, see `float32_copy` and `fill`.
        path: ends in ".keras".
        info: what the file states about itself; the packages that it needs are added.
    """
    from keras.saving import serialize_keras_object

    stated = to_json(info, omit_none=True)
    if needed := needed_packages(serialize_keras_object(plain)):
        stated["needs"] = list(needed)
    write_model_file(plain, path, stated)


def write_model_file(plain: keras.Model, path: StrPath, info: JsonObject) -> None:
    """Does the same with any content of `imnet64.json`, so that a copy keeps unknown keys."""
    path = Path(path)
    with work_folder(path, "writing") as work:
        saved, complete = work / "saved.keras", work / "whole.keras"
        plain.save(saved)
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(complete, "w") as target:
            for member in source.infolist():
                content: bytes | str = source.read(member)
                if member.filename == "config.json":
                    content = json.dumps(without_newer_defaults(json.loads(content)))
                target.writestr(member, content)
            target.writestr(INFO_MEMBER, json.dumps(info))
        publish(complete, path, replace=True)


def without_newer_defaults(config: Json) -> Json:
    """Returns a Keras config without the defaults that LOWEST_KERAS refuses to read."""
    if isinstance(config, list):
        return [without_newer_defaults(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: without_newer_defaults(value)
        for key, value in config.items()
        if key not in NEWER_DEFAULTS or value != NEWER_DEFAULTS[key]
    }
