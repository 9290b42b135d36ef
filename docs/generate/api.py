"""The reference of the Python API: which names are public; mkdocstrings reads their docstrings."""

import keras_imnet64
from generate.markdown import page

SUBPACKAGES = {  # public names that are not of `keras_imnet64` itself, with the module of each
    "keras_imnet64.export.export": "keras_imnet64.export.export",
    "keras_imnet64.convert.convert": "keras_imnet64.convert.convert",
}
RESULTS = {  # what the functions return and take
    "Run": "keras_imnet64.runs.Run",
    "Recipe": "keras_imnet64.recipe.schema.Recipe",
    "TrainingSetup": "keras_imnet64.training.setup.TrainingSetup",
    "Devices": "keras_imnet64.backend.devices.Devices",
}
MEMBERS = {  # of the classes above, those that programs use
    "Run": ["metrics", "history", "environment", "is_finished"],
    "Recipe": ["num_classes", "image_size", "check", "to_toml"],
    "TrainingSetup": [],
    "Devices": ["count", "scope"],
}


def api_page() -> str:
    """Returns the page of all public names, with a line for mkdocstrings for each."""
    public = {f"keras_imnet64.{name}": f"{module}.{name}" for name, module in names().items()}
    return page(
        "Python API",
        "These names are public; everything else may change without notice. Each is imported on "
        "first use, so importing the package is fast, and the backend can still be chosen "
        "afterwards. [From Python](../guides/python.md) has programs that use them.",
        "## Functions and errors",
        *(directive(path, name, []) for name, path in (public | SUBPACKAGES).items()),
        "## Classes",
        *(directive(path, name, MEMBERS[name]) for name, path in RESULTS.items()),
    )


def names() -> dict[str, str]:
    """Returns {name: module} of the names that `keras_imnet64` exports."""
    return dict(keras_imnet64._PUBLIC)


def directive(path: str, name: str, members: list[str]) -> str:
    """Returns the line that mkdocstrings replaces, with an anchor of the public name before it."""
    options = [f"heading: {name}", f"toc_label: {name}", f"members: {members}"]
    lines = [f"::: {path}", "    options:", *(f"        {option}" for option in options)]
    return f"[](){{ #{name} }}\n\n" + "\n".join(lines)
