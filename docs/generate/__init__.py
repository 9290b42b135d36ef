"""The pages of the reference, made from the code: `PAGES` has a function for each.

A function returns the Markdown of its page. None needs Keras, TensorFlow, JAX or MkDocs. A fact
that the code does not state, such as the description of a recipe key, is an error here.
"""

from collections.abc import Callable

from generate import api, commands, facts, networks, recipe_keys, recipes

PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands.commands_page,
    "reference/recipes.md": recipes.recipes_page,
    "reference/recipe-keys.md": recipe_keys.keys_page,
    "reference/networks.md": networks.networks_page,
    "reference/augmentations.md": recipe_keys.augmentations_page,
    "reference/optimizers.md": recipe_keys.optimizers_page,
    "reference/data-sets.md": facts.data_sets_page,
    "reference/run-folder.md": facts.run_folder_page,
    "reference/exit-codes.md": facts.exit_statuses_page,
    "reference/python-api.md": api.api_page,
}
