"""The command line: parse, choose the backend, import late, call, print.

Results go to standard output (`--json`: one object on one line), everything else to standard error.
Exit status: see `errors`.
"""

import json
import signal
import sys
from pathlib import Path

import click

from keras_imnet64 import __version__
from keras_imnet64.errors import EXIT_RUN_FAILED, EXIT_STOPPED_AT_ONCE, UserError


def main():
    """Run a command; a user's mistake becomes one sentence and an exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while training: see StopRequest
    try:
        cli(standalone_mode=False)
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:  # standard output that cannot be written, a disk that fills
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_RUN_FAILED)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(EXIT_STOPPED_AT_ONCE)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli():
    """Train, prove and ship image classifiers for small-resolution ImageNet.

    Example: python cli.py fit --recipe demo
    """


def data_options(command):
    command = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where data sets lie; default TFDS_DATA_DIR, then ~/tensorflow_datasets.",
    )(command)
    return click.option(
        "--cache-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Packed stores lie in its folder packed; default the data dir.",
    )(command)


def device_options(command):
    command = click.option(
        "--virtual-devices", type=int, help="Split the CPU into so many devices, to try them out."
    )(command)
    command = click.option("--devices", help="How many (2) or which (0,2); default all.")(command)
    return click.option(
        "--backend", help="tensorflow, jax or torch; default KERAS_BACKEND, then keras.json."
    )(command)


def json_option(command):
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on one line.")(
        command
    )


@cli.command()
@click.option("--recipe", required=True, help="A shipped recipe's name or a TOML file's path.")
@click.option("--name", help="Run folder below saved_models/; default <recipe>-<backend>.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder anywhere.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A line of TOML over the recipe's, such as train.epochs=2; may be given again.",
)
@click.option("--fresh", is_flag=True, help="Begin anew; the old run is kept under another name.")
@device_options
@data_options
@json_option
def fit(
    recipe,
    name,
    out,
    overrides,
    fresh,
    backend,
    devices,
    virtual_devices,
    data_dir,
    cache_dir,
    as_json,
):
    """Train a recipe, or go on with a run that was interrupted.

    The same command goes on from the newest checkpoint; a finished run is never overwritten.

    \b
    Example: python cli.py fit --recipe wrn36_5 --set train.seed=1 --name second
    """
    from keras_imnet64.backend import choose_backend, take_devices
    from keras_imnet64.recipe import load_recipe

    choose_backend(backend)
    recipe = load_recipe(recipe, overrides)
    if name and Path(name).name != name:
        raise UserError(f'--name is one folder below saved_models; received "{name}", see --out')
    taken = take_devices(devices, virtual_devices)
    from keras_imnet64.runs import DEFAULT_ROOT
    from keras_imnet64.training.fit import fit as train

    out = out or DEFAULT_ROOT / (name or f"{recipe.name}-{taken.backend}")
    with packing_bar() as progress:
        run = train(
            recipe,
            out,
            data_dir=data_dir,
            cache_dir=cache_dir,
            devices=taken,
            fresh=fresh,
            pack_progress=progress,
        )
    show({"run": str(run.path), **run.metrics}, as_json)


@cli.command()
@click.argument("run_or_model", type=click.Path(exists=True, path_type=Path))
@click.option("--dataset", help="Default: the one it was trained on.")
@click.option("--split", default="validation", show_default=True, help="train or validation.")
@device_options
@data_options
@json_option
def evaluate(
    run_or_model, dataset, split, backend, devices, virtual_devices, data_dir, cache_dir, as_json
):
    """Score a model on every image of a split once.

    RUN_OR_MODEL is a run folder, whose model.keras is taken, or any .keras file.

    \b
    Example: python cli.py evaluate saved_models/demo-jax --backend tensorflow
    """
    from keras_imnet64.backend import choose_backend, take_devices

    choose_backend(backend)
    taken = take_devices(devices, virtual_devices)
    from keras_imnet64.evaluation.evaluate import evaluate as score

    with packing_bar() as progress:
        result = score(
            run_or_model,
            dataset=dataset,
            split=split,
            data_dir=data_dir,
            cache_dir=cache_dir,
            devices=taken,
            pack_progress=progress,
        )
    show(result, as_json)


@cli.group()
def data():
    """Prepare and look at data sets.

    Example: python cli.py data info shapes
    """


@data.command()
@click.argument("dataset")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Archives on disk: a folder with the official ones, or tiny-imagenet-200.zip.",
)
@click.option("--allow-unverified", is_flag=True, help="Take other archives in that layout.")
@data_options
@json_option
def prepare(dataset, source, allow_unverified, data_dir, cache_dir, as_json):
    """Build a data set and pack it for training.

    Without --source TFDS downloads it; `shapes` is drawn on the spot.

    \b
    Example: python cli.py data prepare imagenet_resized/64x64 --source ARCHIVES
    """
    from keras_imnet64.backend import choose_backend, import_tensorflow
    from keras_imnet64.data import datasets

    choose_backend()
    import_tensorflow()
    with packing_bar() as progress:
        datasets.prepare(
            dataset,
            data_dir=data_dir,
            cache_dir=cache_dir,
            source=source,
            allow_unverified=allow_unverified,
            progress=progress,
        )
    show(datasets.info(dataset, data_dir=data_dir, cache_dir=cache_dir), as_json)


@data.command("info")
@click.argument("dataset")
@data_options
@json_option
def data_info(dataset, data_dir, cache_dir, as_json):
    """Show a data set's splits, classes, digest, state and disk use.

    Example: python cli.py data info tiny_imagenet
    """
    from keras_imnet64.data import datasets

    show(datasets.info(dataset, data_dir=data_dir, cache_dir=cache_dir), as_json)


@cli.group(invoke_without_command=True)
@json_option
@click.pass_context
def recipes(context, as_json):
    """List the shipped recipes.

    Example: python cli.py recipes show wrn36_5
    """
    if context.invoked_subcommand is None:
        from keras_imnet64.recipe import list_recipes, load_recipe

        rows = [load_recipe(name) for name in list_recipes()]
        show({recipe.name: recipe.summary() for recipe in rows}, as_json)


@recipes.command("show")
@click.argument("name")
def show_recipe(name):
    """Print a recipe's TOML file with its comments.

    Example: python cli.py recipes show demo
    """
    from keras_imnet64.recipe import find_recipe

    click.echo(find_recipe(name).read_text("utf-8"), nl=False)


def packing_bar():
    """A progress bar on standard error for (description, done, total) calls."""
    from keras_imnet64.bars import CallBar

    return CallBar()


def show(result, as_json):
    """Print a result: one line of JSON, or key and value lines."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {_text(v)}" for k, v in value.items())
        click.echo(f"{key:<14} {_text(value)}")


def _text(value):
    if value is None:
        return "-"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
