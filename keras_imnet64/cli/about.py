"""The commands about this machine: `recipes`, `programs` (kept on disk), `doctor` and `bench`."""

import json
from pathlib import Path
from typing import NoReturn, Unpack

import click

from keras_imnet64.cli.frame import (
    FILE,
    DataFolders,
    cli,
    completing,
    data_options,
    json_option,
    recipe_names,
    recipe_option,
    set_option,
)
from keras_imnet64.core.console import show, show_table, write_text
from keras_imnet64.core.errors import EXIT_DONE, EXIT_RUN_FAILED, UserError, nearest, printable


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


@cli.group()
def programs() -> None:
    """Remove compiled programs that are kept on disk.

    JAX keeps them so that it need not compile them again at its next start.

    Example: python cli.py programs clean --dry-run
    """


@programs.command("clean")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def clean_programs(dry_run: bool, as_json: bool) -> None:
    """Remove the compiled programs.

    `doctor` names their folder. Removes nothing else, and nothing in JAX_COMPILATION_CACHE_DIR; the
    next run compiles again.

    Example: python cli.py programs clean --dry-run
    """
    from keras_imnet64.backend import programs as kept

    show(kept.clean_programs(dry_run=dry_run), as_json)


@cli.command()
@data_options
@json_option
def doctor(as_json: bool, **folders: Unpack[DataFolders]) -> int:
    """Check this machine: say what is wrong and how to fix it.

    Checks versions, backends, devices, memory, disk and data sets; exits with status 1 if something
    is wrong.

    Example: python cli.py doctor
    """
    from keras_imnet64.doctor import examine, lines

    report = examine(**folders)
    if as_json:
        show(report.to_json(), as_json)
    else:
        click.echo("\n".join(lines(report)))
    return EXIT_RUN_FAILED if report.problems else EXIT_DONE


@cli.command()
@recipe_option
@click.option("--batch-size", type=click.IntRange(1), help="Batch size; default: the recipe's.")
@click.option(
    "--backend", "backends", multiple=True, help="tensorflow, jax or both: tensorflow,jax."
)
@click.option("--dtype", "dtypes", multiple=True, help="float32, mixed_bfloat16, or both.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=9,
    show_default=True,
    help="Number of rounds; each has one block for every figure.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.001, 3600),
    default=1.0,
    show_default=True,
    help="Approximate seconds of a block, which has at least three batches.",
)
@click.option("--peer", is_flag=True, help="Measure PyTorch's step too, where it is installed.")
@click.option("--against", type=FILE, help="Show the change since the result in this JSON file.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a row for a Markdown table.")
@click.option("--devices", help="How many (2) or which (0,2); default: all.")
@data_options
@json_option
def bench(
    recipe: str,
    overrides: tuple[str, ...],
    batch_size: int | None,
    backends: tuple[str, ...],
    dtypes: tuple[str, ...],
    rounds: int,
    seconds: float,
    peer: bool,
    against: Path | None,
    as_markdown: bool,
    devices: str | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Measure how fast a recipe trains, and how much memory it takes.

    Measures forward passes, training steps, the input pipeline, and steps fed by it, in rounds
    that alternate among backends, dtypes and PyTorch. Without the data set, steps are measured on
    random images.

    \b
    Example: python cli.py bench --recipe wrn36_2 --backend tensorflow,jax --batch-size 32
    """
    if as_json and as_markdown:
        raise UserError("--json and --markdown are two forms of the same result; give one")
    from keras_imnet64.bench import bench as measure
    from keras_imnet64.bench.text import show_result

    result = measure(
        recipe,
        overrides,
        batch_size=batch_size,
        backends=split_list(backends),
        dtypes=split_list(dtypes),
        num_rounds=rounds,
        block_seconds=seconds,
        peer=peer,
        against=against,
        devices=devices,
        **folders,
    )
    show_result(result, against, as_json=as_json, as_markdown=as_markdown)


def split_list(values: tuple[str, ...]) -> list[str]:
    """Returns the names in an option that is repeated, or holds a list such as "a,b"."""
    return [name.strip() for value in values for name in value.split(",")]
