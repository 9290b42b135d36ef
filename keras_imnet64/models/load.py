"""Loads `.keras` files of any origin in safe mode, and checks that Keras alone can load ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import parse_json
from keras_imnet64.core.types import Json, StrPath
from keras_imnet64.core.zips import MAX_TEXT_BYTES, open_zip, read_member
from keras_imnet64.models.info import advice_on
from keras_imnet64.models.packages import (
    KERAS_PACKAGES,
    OPTIONAL_PACKAGES,
    classes_in,
    needed_packages,
    require_packages,
)
from keras_imnet64.models.paths import by_path
from keras_imnet64.models.ship import fill, float32_copy

if TYPE_CHECKING:
    import keras

TRUSTED_PACKAGES = (*KERAS_PACKAGES, *OPTIONAL_PACKAGES)
RUNS_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")


def load_model(path: StrPath) -> keras.Model:
    """Loads any `.keras` file for scoring, in safe mode and not compiled.

    Raises:
        UserError: the file is not a `.keras` file, is damaged, or needs code that is not of Keras.
    """
    import keras

    try:
        config = _read_config(path)
        if isinstance(config, dict):
            config.pop("compile_config", None)  # it is not loaded, so it may hold anything
        _check_layers(config)
        require_packages(config)
        with Activity(f"loading {path}"):
            model = keras.saving.load_model(path, compile=False)
        if not isinstance(model, keras.Model):
            raise UserError(f"holds a {type(model).__name__}, which is not a model")
        return model
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # Keras raises many types for damaged files
        raise UserError(f"{path} cannot be loaded as a Keras model: {reason(error)}") from error


def check_loads_anywhere(model: keras.Model, name: str) -> list[str]:
    """Refuses a model whose file could not be loaded in another process with Keras alone.

    Layers of KerasHub and KerasCV are allowed, since Keras imports these packages by itself.

    Args:
        name: of the model, for messages.

    Returns:
        The packages beside Keras that the file needs. A backbone of KerasHub that consists of
        Keras' own layers needs none: `float32_copy` makes it an ordinary network.

    Raises:
        UserError: a layer is not one of Keras or contains code, or the model cannot be copied.
    """
    from keras.saving import serialize_keras_object

    try:
        _check_layers(serialize_keras_object(model), allow_registered=False)
        plain = float32_copy(model)
        fill(plain, model)
        by_path(model)  # checkpoints hold weights by path
        return list(needed_packages(serialize_keras_object(plain)))
    except UserError as error:
        raise UserError(f"{name} {error}") from None
    except KeyError as error:
        raise UserError(
            f"{name} uses the layer of {error} twice, once inside a nested model; use a separate "
            "layer in each place"
        ) from None
    except Exception as error:  # layers of other authors raise any type
        raise UserError(f"{name} cannot be copied into a file: {reason(error)}") from error


def _read_config(path: StrPath) -> Json:
    if Path(path).suffix != ".keras" or Path(path).is_dir():
        advice = advice_on(path, "its name must end in .keras")
        raise UserError(f"is not a .keras file{advice}")
    with open_zip(path) as archive:
        if "config.json" not in archive.namelist():
            raise UserError("is a zip, but not a .keras file: it has no config.json")
        return parse_json(read_member(archive, "config.json", MAX_TEXT_BYTES))


def _check_layers(config: Json, allow_registered: bool = True) -> None:
    """Refuses layers that Keras cannot load, or whose code it would run, before Keras reads them.

    Args:
        config: of a model, as `config.json` holds it.
        allow_registered: whether to allow classes of other packages that this process has
            registered with Keras. If not, `compile_config` is ignored: `float32_copy` drops it.
    """
    from keras.saving import get_registered_object

    skip = () if allow_registered else ("compile_config",)
    for part, name, package in classes_in(config, skip):
        if name in RUNS_CODE:
            raise UserError(
                f"has a {name} layer, which runs code from the file: such models are not loaded"
            )
        if package in TRUSTED_PACKAGES:
            continue
        if not allow_registered:
            raise UserError(
                f"has {name} of {package}; its file must load with Keras alone, so use only Keras' "
                "own layers and operations"
            )
        if get_registered_object(str(part.get("registered_name"))) is None:
            raise UserError(
                f"needs the package {package} for its {name}: in Python, first import the module "
                "that registers it with Keras"
            )
