"""What ships: the plain float32 model, filled by variable path. Nothing else writes a model file.

A `.keras` file of ours is Keras' own format with one member more, `imnet64.json`: class ids and
names, the recipe, and whatever the run states about the model. Keras ignores it.
"""

import json
import os
import zipfile
from pathlib import Path

from keras_imnet64.errors import UserError
from keras_imnet64.files import sync_folder
from keras_imnet64.models.paths import by_path

INFO_MEMBER = "imnet64.json"
LOWEST_KERAS = "3.4.1"  # the first version that loads our files, held by a slow test
NEWER_DEFAULTS = {  # what later versions write into a config, and earlier ones refuse to read
    "quantization_config": None,
    "input_axes": None,
    "output_axes": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}


def plain_twin(model):
    """The same network, fresh, with float32 layers and no synchronised normalisation."""
    import keras

    def plain(layer):
        if isinstance(layer, keras.Model):
            return plain_twin(layer)
        config = layer.get_config() | {"dtype": "float32"}
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = False
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=plain)


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
        plain: a float32 model of Keras' own layers, see `plain_twin` and `fill`.
        path: ends in ".keras".
        info: what `model_info` is to return: wnids, class_names, recipe, ...
    """
    path = Path(path)
    saved = path.with_name(f".{path.stem}.writing.saved.keras")
    whole = path.with_name(f".{path.stem}.writing.whole.keras")
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
        saved.unlink(missing_ok=True)
        whole.unlink(missing_ok=True)


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
        with zipfile.ZipFile(path) as archive:
            if INFO_MEMBER not in archive.namelist():
                return {}
            return json.loads(archive.read(INFO_MEMBER))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{path} is not a .keras file: {error}") from error


def load_model(path):
    """Load any `.keras` file for scoring, in safe mode."""
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds for files that are not what they should be
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be loaded as a Keras model: {reason}") from error


def warm_start(model, path, wnids):
    """Fill `model` from a `.keras` file by layer path, for fine-tuning.

    The head `logits` is taken only where the file names the same class ids in the same order.

    Args:
        model: a network of ours.
        path: the `.keras` file.
        wnids: class ids of the model's logits.

    Returns:
        list of str: the variables that the file lacks or holds in another shape, such as a head
        for other classes. They keep their fresh values.

    Raises:
        UserError: if nothing matches.
    """
    from keras import ops

    source = by_path(load_model(path))
    other_classes = model_info(path).get("wnids", wnids) != wnids
    skipped, matched = [], 0
    for name, variable in by_path(model).items():
        if variable.name == "seed_generator_state":
            continue
        if other_classes and name.startswith("logits/"):
            skipped.append(f"{name}: the file has other classes")
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
    return skipped
