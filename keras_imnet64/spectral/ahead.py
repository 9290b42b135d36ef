"""A look ahead of training: can the network be built, and how many GPUs does the backend see?

`python -m keras_imnet64.spectral.ahead < recipe.toml`: in a process of its own, which gives the
GPUs back when it ends. It prints {"gpus": int, "mistake": a sentence, or null}.
"""

import json
import sys

from keras_imnet64.backend import choose_backend, take_devices
from keras_imnet64.errors import UserError
from keras_imnet64.quiet import quiet_libraries
from keras_imnet64.recipe import check_recipe, parse_toml
from keras_imnet64.recipe_costs import outline_of


def look(text):
    """What is printed, of a recipe as TOML text."""
    try:
        choose_backend()
        taken = take_devices()
        outline_of(check_recipe(parse_toml(text)))
    except UserError as error:
        return {"gpus": 0, "mistake": str(error)}
    return {"gpus": taken.count if taken.kind == "gpu" else 0, "mistake": None}


if __name__ == "__main__":
    quiet_libraries()
    print(json.dumps(look(sys.stdin.read())))
