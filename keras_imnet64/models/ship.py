"""What ships: the plain float32 model, filled by variable path. Nothing else writes a model file.

A `.keras` file of ours is Keras' own format with one member more, `imnet64.json`: class ids and
names, the recipe, and whatever the run states about the model. Keras ignores it.
"""

import json
import os
import shutil
import zipfile
from pathlib import Path

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import check_fields, is_count, is_texts, parse_json, sync_folder
from keras_imnet64.core.work_folders import new_beside
from keras_imnet64.core.zips import MAX_TEXT_BYTES, open_zip, read_member
from keras_imnet64.models import MOST_PIXELS
from keras_imnet64.models.paths import by_path

INFO_MEMBER = "imnet64.json"
LOWEST_KERAS = "3.4.1"  # the first version that loads our files, held by a slow test
INFO = {  # of the fields that are there
    "wnids": lambda ids: is_texts(ids) and len(set(ids)) == len(ids),
    "class_names": is_texts,
    "image_size": lambda size: is_count(size) and 1 <= size <= MOST_PIXELS,
    "dataset": str,
    "resize_filter": str,
    "resize": lambda size: is_count(size) and 1 <= size <= 2 * MOST_PIXELS,
    "ten_crop": bool,
    "verified": bool,
    "own_model": bool,
    "recipe": dict,
    "converted_from": lambda source: (
        isinstance(source, dict)
        and all(isinstance(source.get(key), str) for key in ("file", "sha256", "model"))
    ),
}
DIFFERENCES = {"strides", "pool_size", "mean", "variance"}  # that no shape of a weight shows
KERAS_LOADS = ("keras", "builtins", "keras_cv", "keras_hub")
RUNS_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")
NEWER_DEFAULTS = {  # what later versions write into a config, and earlier ones refuse to read
    "quantization_config": None,
    "input_axes": None,
    "output_axes": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}


def float32_copy(model):
    """The same network, fresh, with float32 layers and no synchronised normalisation."""
    import keras

    def plain(layer):
        if isinstance(layer, keras.Model):
            return float32_copy(layer)
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # and not an operation of keras.ops
            config["dtype"] = "float32"
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = False
        return type(layer).from_config(config)

    compiled, model.compiled = model.compiled, False  # else Keras compiles the copy alike
    try:
        return keras.models.clone_model(model, clone_function=plain)
    finally:
        model.compiled = compiled


def fill(plain, model, averages=()):
    """Give `plain` the weights of `model` by path, or those of `averages` {path: variable}."""
    from keras import ops

    averages = dict(averages)
    source = by_path(model)
    for path, variable in by_path(plain).items():
        if variable.name != "seed_generator_state":  # a model file holds none
            variable.assign(ops.convert_to_numpy(averages.get(path, source[path])))


def ship(plain, path, info):
    """Write the model file, whole or not at all.

    Args:
        plain: a float32 model of Keras' own layers, see `float32_copy` and `fill`.
        path: ends in ".keras".
        info: what `model_info` is to return: wnids, class_names, recipe, ...
    """
    path = Path(path)
    work = new_beside(path, "writing")
    saved, whole = work / "saved.keras", work / "whole.keras"
    try:
        plain.save(saved)
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(whole, "w") as target:
            for member in source.infolist():
                content = source.read(member)
                if member.filename == "config.json":
                    content = json.dumps(without_newer_defaults(json.loads(content)))
                target.writestr(member, content)
            target.writestr(INFO_MEMBER, json.dumps(info))
        with open(whole, "rb") as file:
            os.fsync(file.fileno())
        os.replace(whole, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def without_newer_defaults(config):
    """A Keras config without the settings unknown to LOWEST_KERAS, where they do nothing."""
    if isinstance(config, list):
        return [without_newer_defaults(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: without_newer_defaults(value)
        for key, value in config.items()
        if key not in NEWER_DEFAULTS or value != NEWER_DEFAULTS[key]
    }


def model_info(path):
    """What a `.keras` file of ours says about itself; {} for others. Imports no Keras."""
    try:
        with open_zip(path) as archive:
            if INFO_MEMBER not in archive.namelist():
                return {}
            info = parse_json(read_member(archive, INFO_MEMBER, MAX_TEXT_BYTES))
            check_fields(info, INFO, required=False)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{path} is not a .keras file: {reason(error)}") from error
    return info


def load_model(path):
    """Load any `.keras` file for scoring, in safe mode.

    Raises:
        UserError: it is no such file, is damaged, or needs code that is not Keras'.
    """
    import keras

    try:
        config = _read_config(path)
        if isinstance(config, dict):
            config.pop("compile_config", None)  # which is not loaded
        _check_layers(config)
        model = keras.saving.load_model(path, compile=False)
        if not isinstance(model, keras.Model):
            raise UserError(f"holds a {type(model).__name__}, which is not a model")
        return model
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # Keras raises many kinds for files that are not what they should be
        raise UserError(f"{path} cannot be loaded as a Keras model: {reason(error)}") from error


def check_loads_anywhere(model, who):
    """Refuse a model whose file Keras alone could not load in another process.

    Raises:
        UserError: it has a layer that is not Keras' own, or one with code, or cannot be copied.
    """
    from keras.saving import serialize_keras_object

    try:
        _check_layers(serialize_keras_object(model), registered=False)
        fill(float32_copy(model), model)
    except UserError as error:
        raise UserError(f"{who} {error}") from None
    except KeyError as error:
        raise UserError(
            f"{who} uses the layer of {error} at two places, inside a model within it too: give "
            "each place a layer of its own"
        ) from None
    except Exception as error:  # layers raise what they like
        raise UserError(f"{who} cannot be copied into a file: {reason(error)}") from error


def _read_config(path):
    if Path(path).suffix != ".keras" or Path(path).is_dir():
        raise UserError("is not a .keras file: its name must end in .keras")
    with open_zip(path) as archive:
        if "config.json" not in archive.namelist():
            raise UserError("is a zip, but not a .keras file: it has no config.json")
        return parse_json(read_member(archive, "config.json", MAX_TEXT_BYTES))


def _check_layers(config, registered=True):
    """Refuse what Keras cannot load, or would have to run code for, before Keras looks at it.

    With `registered` False also what only a process can load that has registered it; what a model
    was compiled with is left out then, as `float32_copy` leaves it out.
    """
    from keras.saving import get_registered_object

    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, dict):
            continue
        waiting += [value for key, value in part.items() if registered or key != "compile_config"]
        name, module = part.get("class_name"), part.get("module")
        if name in RUNS_CODE:
            raise UserError(
                f"has a {name} layer, which runs code from the file: such models are not loaded"
            )
        package = module.split(".")[0] if isinstance(module, str) else "keras"
        if package in KERAS_LOADS:
            continue
        if not registered:
            raise UserError(
                f"has {name} of {package}; its file is to be loaded by Keras alone, so it must be "
                "made of Keras' own layers and operations"
            )
        if get_registered_object(str(part.get("registered_name"))) is None:
            raise UserError(
                f"needs the package {package} for its {name}: in Python, import what registers it "
                "with Keras first"
            )


def warm_start(model, path, wnids):
    """Fill `model` from a `.keras` file by layer path, for fine-tuning.

    The head `logits` is taken only where the file names the same class ids in the same order.

    Args:
        model: a network of ours.
        path: the `.keras` file.
        wnids: class ids of the model's logits.

    Returns:
        (skipped, differing), lists of str: the variables that the file lacks or holds in another
        shape, such as a head for other classes, which keep their fresh values; and the layers that
        do something else in the file's network, such as another stride, whose weights are taken.

    Raises:
        UserError: if nothing matches.
    """
    from keras import ops

    if not Path(path).is_file():
        raise UserError(f"train.initial_weights: {path} is not a file; a .keras file is needed")
    loaded = load_model(path)
    source = by_path(loaded)
    theirs = model_info(path).get("wnids")
    why = "the file has other classes" if theirs else "the file does not name its classes"
    skipped, matched = [], 0
    fixed = tuple(f"{layer.name}/" for layer in model.layers if not layer.trainable)
    for name, variable in by_path(model).items():
        if variable.name == "seed_generator_state" or name.startswith(fixed):
            continue  # such as the band of a spectral network, which is its own
        if theirs != wnids and name.startswith("logits/"):
            skipped.append(f"{name}: {why}")
        elif name in source and tuple(source[name].shape) == tuple(variable.shape):
            variable.assign(ops.convert_to_numpy(source[name]))
            matched += 1
        else:
            held = tuple(source[name].shape) if name in source else "nothing"
            skipped.append(f"{name}: {tuple(variable.shape)} here, {held} in the file")
    if not matched:
        raise UserError(
            f"train.initial_weights: no layer of {path} has the name and shape of one of this "
            f"network; the first that differs is {skipped[0]}"
        )
    return skipped, _differing(model, loaded)


def _differing(model, loaded):
    """What layers of the same name do otherwise, though their weights have the same shapes."""
    ours, theirs = ({x.name: x.get_config() for x in m.layers} for m in (model, loaded))
    found = []
    for name in ours.keys() & theirs.keys():
        for key in DIFFERENCES & ours[name].keys() & theirs[name].keys():
            both = f"{key} {theirs[name][key]} in the file, {ours[name][key]} here"
            if ours[name][key] != theirs[name][key]:  # a mean image would fill the screen
                found.append(f"{name} has {both if len(both) < 60 else f'another {key}'}")
    ours, theirs = (
        {name for name in layers if "pool_size" in layers[name]} for layers in (ours, theirs)
    )
    found += [f"{name} is in the file alone" for name in theirs - ours]
    return sorted(found + [f"{name} is here alone" for name in ours - theirs])
