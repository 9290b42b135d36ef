"""The command `compare`: training on several backends or devices, or runs that are there."""

from pathlib import Path
from typing import Unpack

import click

from keras_imnet64.cli.frame import (
    FILE,
    DataFolders,
    cli,
    completing,
    data_options,
    json_option,
    packing_bar,
    recipe_names,
    set_option,
    split_list,
    start_backend,
)
from keras_imnet64.core.errors import UserError

DEFAULT_STEPS = 50
FOR_RECIPES = ("--recipe", "--set", "--backends", "--steps", "--epochs", "--seeds")


@cli.command()
@click.argument("runs", type=FILE, nargs=-1, metavar="[RUN...]")
@click.option(
    "--recipe",
    shell_complete=completing(recipe_names),
    help="Name of a shipped recipe, or path of a TOML file, to train on each side.",
)
@set_option
@click.option(
    "--backends",
    "sides",
    multiple=True,
    metavar="SIDE,SIDE",
    help="Two sides or more: a backend, with :dtype and @devices if wanted, such as "
    "tensorflow:mixed_bfloat16@2; default: tensorflow,jax.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help=f"Number of steps that are compared one by one; default: {DEFAULT_STEPS}.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Also train whole runs of this many epochs, and compare their scores.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Number of whole runs of each side, with different seeds; default: 1.",
)
@click.option(
    "--out",
    type=FILE,
    help="Folder of the comparison; default: saved_models/<recipe>-compared. For finished "
    "runs: an HTML file.",
)
@click.option(
    "--virtual-devices", type=int, help="Split the CPU into this many devices, for trials."
)
@data_options
@json_option
def compare(
    runs: tuple[Path, ...],
    recipe: str | None,
    overrides: tuple[str, ...],
    sides: tuple[str, ...],
    steps: int | None,
    epochs: int | None,
    seeds: int | None,
    out: Path | None,
    virtual_devices: int | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Tell whether a recipe trains alike on two backends.

    Trains the recipe on each side, in a process of its own, from the same start and the same
    batches, and answers "equal", "equal within chaos" or "different from step s in layer l". A
    killed comparison goes on when the same command runs again.

    With run folders or model files instead of a recipe, compares their settings, their curves, and
    their predictions image by image.

    \b
    Example: python cli.py compare --recipe wrn36_2 --backends tensorflow,jax --steps 50
    """
    from keras_imnet64.compare.text import show_finished, show_result

    if runs:
        values = (recipe, overrides, sides, steps, epochs, seeds)
        given = [option for option, value in zip(FOR_RECIPES, values, strict=True) if value]
        if given:
            raise UserError(
                f"{given[0]} trains a recipe, and {runs[0]} is there already: give a recipe or runs"
            )
        devices = start_backend(virtual_devices=virtual_devices)
        from keras_imnet64.compare.finished import compare_finished

        with packing_bar() as progress:
            finished = compare_finished(
                runs, devices=devices, page_file=out, pack_progress=progress, **folders
            )
        show_finished(finished, as_json)
        return
    if recipe is None:
        raise UserError(
            "compare takes a recipe to train, such as --recipe demo, or two runs that are there"
        )
    if seeds and epochs is None:
        raise UserError("--seeds is the number of whole runs: say with --epochs how long they are")
    from keras_imnet64.compare import compare as compare_sides

    result = compare_sides(
        recipe,
        split_list(sides) or ["tensorflow", "jax"],
        overrides,
        num_steps=steps or DEFAULT_STEPS,
        num_epochs=epochs,
        num_seeds=seeds or 1,
        out=out,
        virtual_devices=virtual_devices,
        **folders,
    )
    show_result(result, as_json)
