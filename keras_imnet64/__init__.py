"""Train, prove and ship image classifiers for small-resolution ImageNet, on TensorFlow or JAX.

The names below are imported on first use: importing the package is fast, and the backend can still
be chosen afterwards.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "list_recipes": "keras_imnet64.recipe.loading",
    "load_recipe": "keras_imnet64.recipe.loading",
    "list_models": "keras_imnet64.models",
    "build_model": "keras_imnet64.models",
    "model_info": "keras_imnet64.models.info",
    "fit": "keras_imnet64.training.fit",
    "training_setup": "keras_imnet64.training.setup",
    "take_devices": "keras_imnet64.backend.devices",
    "evaluate": "keras_imnet64.evaluation.evaluate",
    "evaluate_neighbours": "keras_imnet64.evaluation.neighbours",
    "predict": "keras_imnet64.evaluation.predict",
    "embed": "keras_imnet64.evaluation.features",
    "UserError": "keras_imnet64.core.errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_PUBLIC[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
