"""What the commands share: base classes, the group `cli`, options, paths, shell completion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from keras_imnet64 import __version__
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.library_logs import show_library_logs, silence_libraries
from keras_imnet64.core.paths import expand, is_remote

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from keras_imnet64.backend.devices import Devices
    from keras_imnet64.core.progress_bars import PackingBar

Decorated = TypeVar("Decorated", bound=Callable[..., Any])  # a command's function


class WithVerbose(click.Command):
    """Adds the option -v to commands and groups."""

    def __init__(
        self, *, params: Sequence[click.Parameter] | None = None, **kwargs: Any
    ) -> None:  # click's own arguments
        verbose = click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=lambda context, option, given: show_library_logs() if given else None,
            help="Also show the messages of TensorFlow, JAX and other libraries.",
        )
        super().__init__(params=[*(params or []), verbose], **kwargs)


class Command(WithVerbose):
    """A command that hides messages of other libraries, unless -v is given to it or its group."""

    def invoke(self, ctx: click.Context) -> Any:  # what the command's function returns
        silence_libraries()
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)  # the parser empties args
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if any(parameter.name == "overrides" for parameter in self.params):
                raise _about_settings(error) from None
            raise
        except click.MissingParameter as error:
            if error.param is not None and "--recipe" in error.param.opts:
                raise _about_recipes(error, given) from None
            raise


def _about_settings(error: click.NoSuchOption) -> click.NoSuchOption:
    """Returns the error for a command with --set where an option is what a recipe has as a key."""
    from keras_imnet64.recipe.setting_names import settings_called

    name = error.option_name
    if name == "--resume":
        remedy = "the command that began a run also resumes it"
    elif meant := settings_called(name):
        remedy = f"settings of the recipe are given as --set {meant[0]}=VALUE"
    else:
        return error
    return click.NoSuchOption(name, f"No such option '{name}': {remedy}.", ctx=error.ctx)


def _about_recipes(error: click.MissingParameter, args: Sequence[str]) -> click.UsageError:
    """Returns the error for a command without --recipe, among whose arguments one may be meant."""
    for argument in args:
        if argument in recipe_names() or argument.endswith(".toml"):
            text = f"Missing option '--recipe': a recipe is given as --recipe {argument}."
            return click.UsageError(text, ctx=error.ctx)
    return error


class Group(WithVerbose, click.Group):
    command_class = Command
    group_class = type


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
def cli() -> None:
    """Train, evaluate and export image classifiers for small-resolution ImageNet.

    Example: python cli.py fit --recipe demo
    """


# ----------------------------------------------------------------------------------- shared options


Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem] | list[str]"]


def completing(list_names: Callable[[], Iterable[str]]) -> Complete:
    """Returns a shell completion that offers names, and files where no name fits."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem] | list[str]:
        found = [name for name in list_names() if name.startswith(incomplete)]
        if found:
            return found
        return [click.shell_completion.CompletionItem(incomplete, type="file")]

    return complete


def recipe_names() -> list[str]:
    from keras_imnet64.recipe.loading import list_recipes

    return list_recipes()


def dataset_names() -> list[str]:
    from keras_imnet64.data.datasets import DATASETS

    return list(DATASETS)


def _backends() -> tuple[str, ...]:
    from keras_imnet64.backend.keras_settings import BACKENDS

    return BACKENDS


class UserPath(click.Path):
    """A path in which a leading ~ is replaced by the home folder."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:  # click passes whatever it parsed
        if not str(value):
            self.fail("a path cannot be empty", param, ctx)
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]  # path_type=Path
        return expand(path)


FILE = UserPath(path_type=Path)


class Source(UserPath):
    """A path, or the address of a remote source, which is kept as text."""

    name = "path or address"

    def convert(  # type: ignore[override]  # a text too
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:  # click passes whatever it parsed
        return value if is_remote(value) else super().convert(value, param, ctx)


SOURCE = Source(path_type=Path)


def set_option(command: Decorated) -> Decorated:
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting, in TOML, such as train.epochs=2; repeatable.",
    )(command)


def recipe_option(command: Decorated) -> Decorated:
    return click.option(
        "--recipe",
        required=True,
        shell_complete=completing(recipe_names),
        help="Name of a shipped recipe, or path of a TOML file.",
    )(set_option(command))


class DataFolders(TypedDict):
    """The values of `data_options`; the package has defaults for None."""

    data_dir: Path | None
    cache_dir: Path | None


def data_options(command: Decorated) -> Decorated:
    command = click.option(
        "--data-dir",
        type=FILE,
        help="Folder of data sets; default: TFDS_DATA_DIR, else ~/tensorflow_datasets.",
    )(command)
    return click.option(
        "--cache-dir",
        type=FILE,
        help="Folder for the packed stores, in packed/; default: the folder of data sets.",
    )(command)


def device_options(command: Decorated) -> Decorated:
    command = click.option(
        "--virtual-devices", type=int, help="Split the CPU into this many devices, as a test."
    )(command)
    command = click.option("--devices", help="How many (2) or which (0,2); default: all.")(command)
    return click.option(
        "--backend",
        shell_complete=completing(_backends),
        help="tensorflow, jax or torch; default: KERAS_BACKEND, else keras.json, else tensorflow.",
    )(command)


def machine_options(command: Decorated) -> Decorated:
    command = click.option(
        "--process-id", type=int, help="Several machines: number of this process, from 0."
    )(command)
    command = click.option(
        "--num-processes",
        type=int,
        help="Several machines: number of processes; default: the launcher's, else 1. 1 trains a "
        "run of its own, under a launcher too.",
    )(command)
    return click.option(
        "--coordinator",
        metavar="HOST:PORT",
        help="Several machines, under JAX: address and free port for process 0. Under srun, and "
        "mpirun of Open MPI 4, leave out all three options.",
    )(command)


def split_list(values: tuple[str, ...]) -> list[str]:
    """Returns the names in an option that is repeated, or holds a list such as "a,b"."""
    return [name.strip() for value in values for name in value.split(",")]


def run_folder(recipe_name: str, name: str | None, out: Path | None, suffix: str = "") -> Path:
    """Returns the folder of --out or --name; the default is <recipe>-<backend><suffix>."""
    from keras_imnet64.backend.loading import chosen_backend
    from keras_imnet64.core.paths import DEFAULT_RUNS
    from keras_imnet64.recipe.schema import is_folder_name

    if name is not None and not is_folder_name(name):
        raise UserError(
            f'--name must be one folder below saved_models; received "{name}": use --out'
        )
    if name is not None and out is not None:
        raise UserError("--name and --out both name the folder: give one of them")
    return out or DEFAULT_RUNS / (name or f"{recipe_name}-{chosen_backend()}{suffix}")


def share_out(what: str, fresh: bool) -> None:
    """Prepares one of the processes that share out the runs of a folder.

    Args:
        what: they share out, for messages.
        fresh: whether the folder is to be begun anew.

    Raises:
        UserError: a launcher has started several processes, and each would begin anew.
    """
    from keras_imnet64.backend.launchers import find_task, show_own_gpu

    task = find_task()
    if task is not None and fresh:
        raise UserError(
            f"--fresh is for one process, as {what} of a folder are begun anew once: run the "
            f"command without {task.launcher} first, or choose another --name or --out"
        )
    if task is not None:
        show_own_gpu(task)


def start_backend(
    name: str | None = None, devices: str | None = None, virtual_devices: int | None = None
) -> Devices:
    """Chooses the backend and takes its devices; call it before anything imports Keras."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend(name)
    return take_devices(devices, virtual_devices)


def json_option(command: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")(command)


def packing_bar() -> PackingBar:
    """Returns a progress bar on standard error, see `core.progress_bars`."""
    from keras_imnet64.core.progress_bars import PackingBar

    return PackingBar()
