"""What a recipe's network costs: parameters and multiply-accumulates, at once for shipped recipes.

Their costs stand in `recipes/costs.json`, so that a listing builds nothing and needs no Keras.
After adding or changing a recipe, `python -m keras_imnet64.recipe.costs` writes that table anew; a
test builds every network and holds it true. How costs are counted is the business of `models.macs`.
"""

import json
from functools import cache

from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.library_logs import import_tensorflow
from keras_imnet64.data.datasets import find_dataset
from keras_imnet64.models import build_model, find_model, num_bands
from keras_imnet64.recipe.loading import list_recipes, load_recipe, recipes_dir


def costs_of(recipe):
    """Costs of a recipe's network at its data set's image size and number of classes.

    A network that a shipped recipe has too is looked up; any other is built, which imports Keras.

    Returns:
        {"parameters": int, "macs": int}: trainable parameters, multiply-accumulates per image;
        None where only the images tell how many classes there are.

    Raises:
        UserError: the network cannot be built so.
    """
    if not num_classes_of(recipe):
        return {"parameters": None, "macs": None}
    known = _known().get(_network(recipe))
    return dict(known) if known else measure(recipe)


def measure(recipe):
    """The same, counted in the network itself."""
    import_tensorflow()  # Keras would load it, with its chatter
    from keras_imnet64.models.macs import count_macs, count_parameters

    model, times = outline_of(recipe), max(1, _num_bands(recipe))
    return {"parameters": times * count_parameters(model), "macs": times * count_macs(model)}


def outline_of(recipe):
    """The recipe's network with shapes and no numbers; UserError if there is none such.

    Of a recipe that stands for several branches, which differ in a few fixed numbers, one.
    """
    from keras_imnet64.models.keras_private import without_weights

    options = recipe.model.options | ({"band": 0} if _num_bands(recipe) else {})
    with without_weights():
        return build_model(
            recipe.model.name,
            image_size=recipe.image_size,
            num_classes=num_classes_of(recipe) or 2,  # any number can be built
            **options,
        )


def _num_bands(recipe):
    return num_bands(recipe.model.name, recipe.model.options)


def num_classes_of(recipe):
    """Logits of the recipe's network; None where only the images tell."""
    return recipe.data.classes or find_dataset(recipe.data.dataset).num_classes


def table_file():
    return recipes_dir() / "costs.json"


def read_table():
    """{recipe name: costs} as checked in."""
    return json.loads(table_file().read_text("utf-8"))


def write_table():
    """Measure every shipped recipe and write the table, a row per line."""
    rows = {name: json.dumps(measure(load_recipe(name))) for name in list_recipes()}
    lines = [f"  {json.dumps(name)}: {row}" for name, row in rows.items()]
    write_atomic(table_file(), "{\n" + ",\n".join(lines) + "\n}\n")


@cache
def _known():
    """{network: costs} of the shipped recipes that the table has."""
    table = read_table()
    shipped = {name: load_recipe(name) for name in list_recipes() if name in table}
    return {_network(recipe): table[name] for name, recipe in shipped.items()}


def _network(recipe):
    """What the costs depend on, as text; an option at its default is the same as none."""
    options = find_model(recipe.model.name).defaults | recipe.model.options
    classes = num_classes_of(recipe)
    return json.dumps([recipe.model.name, options, recipe.image_size, classes], sort_keys=True)


if __name__ == "__main__":
    write_table()
    print(f"{table_file()} has the costs of {len(read_table())} recipes")
