"""Variables by path: the names under which weights are drawn, checkpointed, shipped and loaded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from keras_imnet64.core.types import Variable

if TYPE_CHECKING:
    import keras

SEED_STATE = "seed_generator_state"  # Keras' name for the variable of a seed generator


def by_path(model: keras.Model) -> dict[str, Variable]:
    """Returns {path: variable} of all variables, the same in every process and on every backend.

    Keras numbers the seed generators of dropout in each process; here their paths begin with the
    name of their layer, preceded by those of the layers around it where several share the name.

    Raises:
        ValueError: two variables have the same path.
    """
    from keras_imnet64.models.keras_private import (
        all_layers,
        layer_seed_generators,
        names_from_outside,
    )

    seeded = [layer for layer in all_layers(model) if layer_seed_generators(layer)]
    num_of_name = Counter(layer.name for layer in seeded)
    names = names_from_outside(model)
    seed_paths = {
        id(generator.state): f"{name}/{SEED_STATE}"
        for layer in seeded
        for name in [layer.name if num_of_name[layer.name] == 1 else names[id(layer)]]
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
