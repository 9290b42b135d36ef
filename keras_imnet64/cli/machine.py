"""The commands about this machine: `programs` (kept on disk), `doctor` and `bench`."""

from pathlib import Path
from typing import Unpack

import click

from keras_imnet64.cli.frame import (
    FILE,
    DataFolders,
    cli,
    data_options,
    json_option,
    recipe_option,
    split_list,
)
from keras_imnet64.core.console import show
from keras_imnet64.core.errors import EXIT_DONE, EXIT_RUN_FAILED, UserError


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
