"""What commands share: their kinds, the group that they join, options, paths, completion."""

from pathlib import Path

import click

from keras_imnet64 import __version__
from keras_imnet64.core.library_logs import show_library_logs, silence_libraries
from keras_imnet64.core.paths import expand


class WithVerbose:
    """What commands and groups share: the option -v."""

    def __init__(self, *args, params=None, **kwargs):
        verbose = click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=lambda context, option, wanted: wanted and show_library_logs(),
            help="Show the messages of TensorFlow, JAX and others too.",
        )
        super().__init__(*args, params=[*(params or []), verbose], **kwargs)


class Command(WithVerbose, click.Command):
    """A command that keeps other libraries quiet, unless -v is given to it or to its group."""

    def invoke(self, context):
        silence_libraries()
        return super().invoke(context)


class Group(WithVerbose, click.Group):
    command_class = Command
    group_class = type


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
def cli():
    """Train, prove and ship image classifiers for small-resolution ImageNet.

    Example: python cli.py fit --recipe demo
    """


# ----------------------------------------------------------------------------------- shared options


def completing(list_names):
    """Shell completion from a function that lists names; files are offered where none fits."""

    def complete(context, parameter, incomplete):
        found = [name for name in list_names() if name.startswith(incomplete)]
        if found:
            return found
        return [click.shell_completion.CompletionItem(incomplete, type="file")]

    return complete


def recipe_names():
    from keras_imnet64.recipe.loading import list_recipes

    return list_recipes()


def dataset_names():
    from keras_imnet64.data.datasets import DATASETS

    return list(DATASETS)


def _backends():
    from keras_imnet64.backend.devices import BACKENDS

    return BACKENDS


class UserPath(click.Path):
    """A path as typed, with ~ for a home."""

    def convert(self, value, param, ctx):
        if not str(value):
            self.fail("a path cannot be empty", param, ctx)
        return expand(super().convert(value, param, ctx))


FILE = UserPath(path_type=Path)


def recipe_option(command):
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="A line of TOML over the recipe's, such as train.epochs=2; may be given again.",
    )(command)
    return click.option(
        "--recipe",
        required=True,
        shell_complete=completing(recipe_names),
        help="A shipped recipe's name or a TOML file's path.",
    )(command)


def data_options(command):
    command = click.option(
        "--data-dir",
        type=FILE,
        help="Where data sets lie; default TFDS_DATA_DIR, then ~/tensorflow_datasets.",
    )(command)
    return click.option(
        "--cache-dir",
        type=FILE,
        help="Packed stores lie in its folder packed; default the data dir.",
    )(command)


def device_options(command):
    command = click.option(
        "--virtual-devices", type=int, help="Split the CPU into so many devices, to try them out."
    )(command)
    command = click.option("--devices", help="How many (2) or which (0,2); default all.")(command)
    return click.option(
        "--backend",
        shell_complete=completing(_backends),
        help="tensorflow, jax or torch; default KERAS_BACKEND, then keras.json.",
    )(command)


def json_option(command):
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on one line.")(
        command
    )


def packing_bar():
    """A progress bar on standard error for (description, done, total) calls."""
    from keras_imnet64.core.progress_bars import PackingBar

    return PackingBar()
