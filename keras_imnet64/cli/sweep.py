"""The command `sweep`: trains a recipe with many values of some settings, and finds the best."""

import sys
from pathlib import Path
from typing import Unpack

import click

from keras_imnet64.cli.frame import (
    FILE,
    DataFolders,
    cli,
    data_options,
    device_options,
    json_option,
    packing_bar,
    recipe_option,
    run_folder,
    share_out,
)
from keras_imnet64.core.console import show
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.invocation import program_words

FOR_GRIDS = ("--grid", "--seeds", "--cell", "--slurm")
SUFFIX = "-sweep"  # of the default folder's name


@cli.command()
@recipe_option
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=VALUE,VALUE",
    help="Train all combinations with these values of a setting, in TOML; repeatable.",
)
@click.option(
    "--seeds", type=click.IntRange(1), help="Number of seeds of each combination; default: 1."
)
@click.option(
    "--search",
    type=click.IntRange(1),
    metavar="TRIALS",
    help="Let Optuna choose the values, within --space, of this many trials.",
)
@click.option(
    "--space",
    multiple=True,
    metavar="KEY=LOW..HIGH",
    help="Values from which --search chooses: a range, with :log after it for a logarithmic scale, "
    "or values as in --grid; repeatable.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of cells to train at a time, each on its share of the GPUs or cores.",
)
@click.option("--cell", type=int, metavar="NUMBER", help="Train only this cell, counted from 0.")
@click.option("--slurm", is_flag=True, help="Train nothing; write the script of a job array.")
@click.option("--name", help="Folder in saved_models/; default: <recipe>-<backend>-sweep.")
@click.option("--out", type=FILE, help="Folder of the sweep at any path.")
@click.option("--fresh", is_flag=True, help="Start over; the old sweep is kept under another name.")
@device_options
@data_options
@json_option
def sweep(
    recipe: str,
    overrides: tuple[str, ...],
    grid: tuple[str, ...],
    seeds: int | None,
    search: int | None,
    space: tuple[str, ...],
    jobs: int,
    cell: int | None,
    slurm: bool,
    name: str | None,
    out: Path | None,
    fresh: bool,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Try many values of a recipe's settings, and find the best.

    Values come from --grid, or from lists in the recipe. Each combination is trained with --seeds
    seeds; each of these cells is an ordinary run in a folder of its own. The best combination has
    the highest mean accuracy on training images that are held out (data.holdout). With --search,
    Optuna chooses the combinations and ends unpromising runs early.

    Started several times with the same --out, on any machines, the processes share out the cells.

    The same command resumes the cells that are not finished, and shows the results.

    \b
    Example: python cli.py sweep --recipe demo --grid optimizer.learning_rate=0.003,0.01,0.03
    """
    from keras_imnet64.backend.devices import choose_backend
    from keras_imnet64.jobs.machine import Machine
    from keras_imnet64.recipe.loading import read_content
    from keras_imnet64.sweep.axes import parse_axis
    from keras_imnet64.sweep.grid import fit_cell, run_grid
    from keras_imnet64.sweep.plan import plan_grid
    from keras_imnet64.sweep.search import plan_search, run_search
    from keras_imnet64.sweep.slurm import write_script
    from keras_imnet64.sweep.space import parse_space
    from keras_imnet64.sweep.text import show_result

    values = (grid, seeds, None if cell is None else True, slurm)
    given = [option for option, value in zip(FOR_GRIDS, values, strict=True) if value]
    check_kind(search, space, given)
    check_cell(given, jobs, fresh)
    if search:
        refuse_several(search)
    elif cell is None:
        share_out("the cells", fresh)
    choose_backend(backend)
    content = read_content(recipe, overrides)
    machine = Machine(jobs, devices, virtual_devices, **folders)
    if search:
        searched = plan_search(content, [parse_space(line) for line in space], search)
        folder = run_folder(searched.record.name, name, out, SUFFIX)
        outcome = run_search(searched, folder, machine, fresh=fresh)
    else:
        plan = plan_grid(content, [parse_axis(line) for line in grid], seeds)
        folder = run_folder(plan.name, name, out, SUFFIX)
        if slurm:
            script = write_script(plan, folder, command_line())
            show({"script": str(script), "cells": len(plan.cells)}, as_json)
            return
        if cell is not None:
            with packing_bar() as progress:
                show(fit_cell(plan, cell, folder, machine, progress), as_json)
            return
        outcome = run_grid(plan, folder, machine, fresh=fresh)
    if outcome.is_written:
        show_result(folder, outcome.record, as_json)
    outcome.raise_unfinished()


def check_cell(for_grids: list[str], jobs: int, fresh: bool) -> None:
    """Refuses what is of no use where a process trains a single cell.

    Args:
        for_grids: the options of FOR_GRIDS that are given.
    """
    given = [option for option in ("--cell", "--slurm") if option in for_grids]
    if len(given) == 2:
        raise UserError("--cell trains one cell, and --slurm writes the script that does: give one")
    if given and fresh:
        raise UserError(f"{given[0]} goes on in the folder of a sweep and takes no --fresh")
    if given and jobs > 1:
        raise UserError(
            f"--jobs is for a process that trains all cells, and with {given[0]} each trains one; "
            f"received --jobs {jobs}"
        )


def check_kind(search: int | None, space: tuple[str, ...], for_grids: list[str]) -> None:
    """Refuses options of a grid and of a search together.

    Args:
        for_grids: the options of FOR_GRIDS that are given.
    """
    if search and for_grids:
        remedies = {
            "--grid": "which trains all combinations: give --space",
            "--seeds": "which is for grids: train the best recipe with several seeds afterwards",
        }
        remedy = remedies.get(for_grids[0], "which is for grids: its trials depend on each other")
        raise UserError(f"--search lets Optuna choose and takes no {for_grids[0]}, {remedy}")
    if space and not search:
        raise UserError(
            "--space is what --search may choose: say with --search how many trials there are, or "
            "give --grid for all combinations"
        )


def refuse_several(search: int) -> None:
    """Refuses a search in one of several processes of a launcher, as one process asks Optuna."""
    from keras_imnet64.backend.launchers import find_task

    task = find_task()
    if task is not None:
        raise UserError(
            f"--search {search} is for one process, and {task.launcher} has started several: give "
            "--grid, whose cells they share out, or start one process, with --jobs for its GPUs"
        )


def command_line() -> list[str]:
    """Returns the command line of this process without --slurm, for another process to run."""
    return [*program_words(), *(word for word in sys.argv[1:] if word != "--slurm")]
