"""Commands that say what there is: recipes, and what this machine can do."""

import click

from keras_imnet64.cli.frame import cli, completing, data_options, json_option, recipe_names
from keras_imnet64.core.console import show, show_table, write_text
from keras_imnet64.core.errors import EXIT_RUN_FAILED, printable


@cli.group(invoke_without_command=True)
@json_option
@click.pass_context
def recipes(context, as_json):
    """List the shipped recipes.

    Example: python cli.py recipes show wrn36_5
    """
    if context.invoked_subcommand is not None:
        context.obj = as_json  # `recipes --json show NAME` is meant as it reads
        return
    from keras_imnet64.recipe.listing import COLUMNS, facts, row
    from keras_imnet64.recipe.loading import list_recipes, load_recipe

    shipped = [load_recipe(name) for name in list_recipes()]
    if as_json:
        show({recipe.name: facts(recipe) for recipe in shipped}, as_json)
    else:
        show_table([row(recipe) for recipe in shipped], COLUMNS)


@recipes.command("show")
@click.argument("recipe", shell_complete=completing(recipe_names))
@json_option
@click.pass_obj
def show_recipe(json_before, recipe, as_json):
    """Print a recipe, with its size and results as comments.

    What is printed is a recipe too; RECIPE is a shipped one's name or a TOML file's path.

    Example: python cli.py recipes show demo
    """
    from keras_imnet64.core.files import decode_text
    from keras_imnet64.recipe.listing import facts, in_words
    from keras_imnet64.recipe.loading import find_recipe, load_recipe

    loaded = load_recipe(recipe)
    if as_json or json_before:
        show(facts(loaded) | {"settings": loaded.model_dump(exclude_none=True)}, True)
        return
    for line in in_words(facts(loaded)):
        click.echo(f"# {printable(line)}")
    click.echo()
    write_text(decode_text(find_recipe(recipe).read_bytes()).replace("\r\n", "\n"))


@cli.command()
@data_options
@json_option
def doctor(data_dir, cache_dir, as_json):
    """Say what is wrong with this machine, and what mends it.

    Looks at versions, backends, devices, memory, disk and data sets; ends with status 1 if
    something is wrong.

    Example: python cli.py doctor
    """
    from keras_imnet64.doctor import examine, lines

    report = examine(data_dir=data_dir, cache_dir=cache_dir)
    if as_json:
        show(report.to_json(), as_json)
    else:
        click.echo("\n".join(lines(report)))
    return EXIT_RUN_FAILED if report.problems else 0
