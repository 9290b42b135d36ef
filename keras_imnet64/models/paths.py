"""Variables by path: the names under which weights are drawn, checkpointed, shipped and loaded."""


def by_path(model):
    """{path: variable} of all a model's variables, the same in every process and on every backend.

    Keras names the seed generators of dropout by a counter of the process; here they bear the name
    of their layer.

    Raises:
        ValueError: two variables share a path.
    """
    seeds = {
        id(generator.state): f"{layer.name}/seed_generator_state"
        for layer in model._flatten_layers()
        for generator in layer._seed_generators
    }
    paths = {}
    for variable in model.variables:
        path = seeds.get(id(variable), variable.path)
        if path in paths:
            raise ValueError(f"two variables share the path {path}: name the layers apart")
        paths[path] = variable
    return paths
