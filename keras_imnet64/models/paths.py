"""Variables by path: the names under which weights are drawn, checkpointed, shipped and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_imnet64.core.types import Variable

if TYPE_CHECKING:
    import keras

SEED_STATE = "seed_generator_state"  # Keras' name for the variable of a seed generator


def by_path(model: keras.Model) -> dict[str, Variable]:
    """Returns {path: variable} of all variables, the same in every process and on every backend.

    Keras numbers the seed generators of dropout in each process; here their paths begin with the
    name of their layer.

    Raises:
        ValueError: two variables have the same path.
    """
    from keras_imnet64.models.keras_private import all_layers, layer_seed_generators

    seed_paths = {
        id(generator.state): f"{layer.name}/{SEED_STATE}"
        for layer in all_layers(model)
        for generator in layer_seed_generators(layer)
    }
    paths: dict[str, Variable] = {}
    for variable in model.variables:
        path = seed_paths.get(id(variable), variable.path)
        if path in paths:
            raise ValueError(
                f"two variables share the path {path}: give the layers different names"
            )
        paths[path] = variable
    return paths
