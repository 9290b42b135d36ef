"""Variables by path: the names under which weights are drawn, checkpointed, shipped and loaded."""

import re

from keras import tree


def stable_path(variable):
    """The variable's path without Keras' process-wide counter in the names of seed generators."""
    return re.sub(r"seed_generator_\d+", "seed_generator", variable.path)


def by_path(variables):
    """{path: variable}, in the order given; a path that occurs twice is an error of the model."""
    paths = {}
    for variable in tree.flatten(variables):
        path = stable_path(variable)
        if path in paths:
            raise ValueError(f"two variables share the path {path}: name the layers apart")
        paths[path] = variable
    return paths
