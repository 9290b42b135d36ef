"""The command `recipes`: lists the shipped recipes, prints one, and prints their JSON Schema."""

import json
from typing import NoReturn

import click

from keras_imnet64.cli.frame import cli, completing, json_option, recipe_names, set_option
from keras_imnet64.core.console import show, show_table, write_text
from keras_imnet64.core.errors import UserError, nearest, printable


@cli.group(invoke_without_command=True)
@click.option("--dataset", help="Only those that train on this data set.")
@click.option("--model", help="Only those that train this network, or ensembles of it.")
@json_option
@click.pass_context
def recipes(context: click.Context, dataset: str | None, model: str | None, as_json: bool) -> None:
    """List the shipped recipes.

    Shows their parameters, the multiply-accumulates (MACs) of one image, and two top-1 accuracies:
    the published one, and the one measured here, the lowest over its seeds under the better
    backend.

    Example: python cli.py recipes --dataset tiny_imagenet
    """
    if context.invoked_subcommand is not None:
        if dataset or model:
            raise UserError("--dataset and --model filter the listing; give them without a command")
        context.obj = as_json  # `show` reads it, for `recipes --json show NAME`
        return
    from keras_imnet64.data.datasets import nearest_dataset
    from keras_imnet64.recipe.listing import COLUMNS, GROUP, facts, networks_of, rows
    from keras_imnet64.recipe.loading import shipped_recipes

    listed = shipped_recipes().values()
    datasets = {recipe.data.dataset for recipe in listed}
    networks = {name for recipe in listed for name in networks_of(recipe)}
    if dataset is not None and dataset not in datasets:
        _no_recipe_has("--dataset", dataset, nearest_dataset(dataset, datasets))
    if model is not None and model not in networks:
        _no_recipe_has("--model", model, nearest(model, networks))
    found = [
        recipe
        for recipe in listed
        if dataset in (None, recipe.data.dataset) and (not model or model in networks_of(recipe))
    ]
    if as_json:
        show({recipe.name: facts(recipe) for recipe in found}, as_json)
    else:
        show_table(rows(found), COLUMNS, GROUP)


def _no_recipe_has(option: str, value: str, remedy: str) -> NoReturn:
    raise UserError(f"no shipped recipe has {option} {value}; {remedy}")


@recipes.command("show")
@click.argument("recipe", shell_complete=completing(recipe_names))
@set_option
@json_option
@click.pass_obj
def show_recipe(json_before: bool, recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print a recipe, with its size and results as comments.

    The output is a valid recipe. RECIPE is the name of a shipped recipe or the path of a TOML file.
    With --set, every setting is printed, and the comments of its file are not.

    Example: python cli.py recipes show demo
    """
    from keras_imnet64.core.files import decode_text
    from keras_imnet64.recipe.listing import facts, in_words
    from keras_imnet64.recipe.loading import find_recipe, load_recipe

    loaded = load_recipe(recipe, overrides)
    if as_json or json_before:
        show(facts(loaded) | {"settings": loaded.model_dump(exclude_none=True)}, True)
        return
    for line in in_words(facts(loaded)):
        click.echo(f"# {printable(line)}")
    click.echo()
    file = decode_text(find_recipe(recipe).read_bytes()).replace("\r\n", "\n")
    write_text(loaded.to_toml() if overrides else file)


@recipes.command("schema")
def show_schema() -> None:
    """Print the JSON Schema of recipes, for use in editors.

    Save it next to your recipe, and begin the recipe with `#:schema ./recipe.schema.json`.

    Example: python cli.py recipes schema > recipe.schema.json
    """
    from keras_imnet64.recipe.json_schema import json_schema

    write_text(json.dumps(json_schema(), indent=2) + "\n")
