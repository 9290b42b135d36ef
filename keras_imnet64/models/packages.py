"""Packages beside Keras whose layers a model may have, and the sentence where one is missing."""

from collections.abc import Collection, Iterator
from importlib import import_module
from typing import Any

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.types import Json

KERAS_PACKAGES = ("keras", "builtins")
# Keras imports these by itself when it loads a file with their layers. {package: distribution}
OPTIONAL_PACKAGES = {"keras_cv": "keras-cv", "keras_hub": "keras-hub"}


def classes_in(config: Json, skip: Collection[str] = ()) -> Iterator[tuple[Json, str, str]]:
    """Yields (the config, class name, package) of each object in the config of a model.

    Args:
        skip: keys whose values are left out, wherever they stand.
    """
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if isinstance(part, dict):
            waiting += [value for key, value in part.items() if key not in skip]
            module: Any = part.get("module")  # of a file, so of any type
            package = module.split(".")[0] if isinstance(module, str) else "keras"
            yield part, str(part.get("class_name")), package


def is_of_keras(layer: object) -> bool:
    """Whether the class of a layer or model is one of Keras' own."""
    return type(layer).__module__.split(".")[0] in KERAS_PACKAGES


def needed_packages(config: Json) -> dict[str, str]:
    """Returns {package: one of its classes} of the optional packages that a model needs."""
    classes = {package: name for _, name, package in classes_in(config)}
    return {package: classes[package] for package in OPTIONAL_PACKAGES if package in classes}


def require_packages(config: Json) -> None:
    """Imports the optional packages that a model needs.

    Raises:
        UserError: one is not installed, or cannot be imported.
    """
    for package, name in needed_packages(config).items():
        try:
            import_module(package)
        except Exception as error:  # a package that does not fit others raises any exception
            raise UserError(
                f"needs {package} for its {name}, which cannot be imported ({reason(error)}); "
                f"`pip install {OPTIONAL_PACKAGES[package]}` provides it"
            ) from error
