"""The command line: parse, choose the backend, import late, call, print.

Results go to standard output (`--json`: one object on one line), everything else to standard error.
Exit status: see `errors`. How results look: see `output`.
"""

import os
import signal
import sys
from pathlib import Path

import click

from keras_imnet64 import __version__
from keras_imnet64.errors import EXIT_RUN_FAILED, EXIT_STOPPED_AT_ONCE, UserError, printable
from keras_imnet64.files import expand
from keras_imnet64.output import show, show_table, write_text
from keras_imnet64.quiet import quiet_libraries, show_everything


def main():
    """Run a command; a user's mistake becomes one sentence and an exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while training: see StopRequest
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a closed terminal, without nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (closed, as by >&-)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal, a name that is not
    try:
        status = cli(prog_name=program_name(), standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        end(error, error.exit_status)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        end(error.format_message() + hint, error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_RUN_FAILED)
    except OSError as error:  # standard output that cannot be written, a disk that fills
        end(f"{error.filename or 'output'}: {error.strerror or error}", EXIT_RUN_FAILED)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(EXIT_STOPPED_AT_ONCE)
    if status:
        sys.exit(status)


def end(sentence, status):
    click.echo(f"Error: {printable(sentence)}", err=True)
    sys.exit(status)


def program_name():
    """What a user typed: the console script or `python cli.py`."""
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


class Quiet:
    """What commands and groups share: other libraries are quiet, unless -v is given."""

    def __init__(self, *args, params=None, **kwargs):
        verbose = click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=lambda context, option, wanted: wanted and show_everything(),
            help="Show the messages of TensorFlow, JAX and others too.",
        )
        super().__init__(*args, params=[*(params or []), verbose], **kwargs)

    def invoke(self, context):
        quiet_libraries()
        return super().invoke(context)


class Command(Quiet, click.Command):
    pass


class Group(Quiet, click.Group):
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


def _recipes():
    from keras_imnet64.recipe import list_recipes

    return list_recipes()


def _datasets():
    from keras_imnet64.data.datasets import DATASETS

    return list(DATASETS)


def _backends():
    from keras_imnet64.backend import BACKENDS

    return BACKENDS


def _formats():
    from keras_imnet64.export import FORMATS

    return list(FORMATS)


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
        shell_complete=completing(_recipes),
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


# ----------------------------------------------------------------------------------- fit, and after


@cli.command()
@recipe_option
@click.option("--name", help="Run folder below saved_models/; default <recipe>-<backend>.")
@click.option("--out", type=FILE, help="Run folder anywhere.")
@click.option("--fresh", is_flag=True, help="Begin anew; the old run is kept under another name.")
@device_options
@data_options
@json_option
def fit(
    recipe,
    overrides,
    name,
    out,
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
    from keras_imnet64.recipe import is_folder_name, load_recipe

    choose_backend(backend)
    recipe = load_recipe(recipe, overrides)
    if name is not None and not is_folder_name(name):
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
@click.argument("run_or_model", type=FILE)
@click.option(
    "--dataset",
    shell_complete=completing(_datasets),
    help="Default: the one it was trained on.",
)
@click.option("--split", default="validation", show_default=True, help="train or validation.")
@click.option(
    "--per-class",
    type=FILE,
    metavar="CSV",
    help="Write a row for each class there, and show which classes are taken for which.",
)
@device_options
@data_options
@json_option
def evaluate(
    run_or_model,
    dataset,
    split,
    per_class,
    backend,
    devices,
    virtual_devices,
    data_dir,
    cache_dir,
    as_json,
):
    """Score a model on every image of a split once.

    RUN_OR_MODEL is a run folder, whose model.keras is taken, or any .keras file.

    \b
    Example: python cli.py evaluate saved_models/demo-jax --per-class classes.csv
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
            per_class=per_class,
            data_dir=data_dir,
            cache_dir=cache_dir,
            devices=taken,
            pack_progress=progress,
        )
    confused = [] if as_json else result.pop("most_confused", [])
    show(result, as_json)
    if confused:
        columns = {"class_name": "class", "taken_for_name": "taken for", "count": "pictures"}
        show_table(confused, columns | {"share": "% of the class"})


@cli.command()
@click.argument("run_or_model", type=FILE)
@click.argument("images", type=FILE, nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", default=5, show_default=True, help="How many classes for each picture.")
@click.option("--skip-corrupt", is_flag=True, help="List pictures that cannot be read, and go on.")
@click.option("--csv", "as_csv", is_flag=True, help="A row for each picture and class.")
@device_options
@json_option
def predict(
    run_or_model, images, top, skip_corrupt, as_csv, backend, devices, virtual_devices, as_json
):
    """Say what is on pictures: the most probable classes of each.

    RUN_OR_MODEL is a run folder or a .keras file; IMAGE is a file of any kind that Pillow reads, or
    a folder of such files. Pictures are made as small as those that the model was trained on.

    \b
    Example: python cli.py predict saved_models/demo-tensorflow cat.jpg holiday/
    """
    from keras_imnet64.backend import choose_backend, take_devices

    if as_csv and as_json:
        raise UserError("--csv and --json are two forms of the same result; give one")
    choose_backend(backend)
    taken = take_devices(devices, virtual_devices)
    from keras_imnet64.evaluation.predict import as_csv as csv_of
    from keras_imnet64.evaluation.predict import predict as guess

    result = guess(run_or_model, images, top=top, devices=taken, skip_corrupt=skip_corrupt)
    for skipped in result["skipped"]:
        click.echo(f"skipped: {skipped['reason']}", err=True)
    if as_csv:
        write_text(csv_of(result))
    elif as_json:
        show(result, as_json)
    else:
        show_predictions(result)


def show_predictions(result):
    for picture in result["pictures"]:
        click.echo(printable(picture["file"]))
        for guess in picture["top"]:
            name, wnid = guess["class_name"], guess["class_id"]
            which = name if wnid in (None, name) else f"{name} ({wnid})"
            click.echo(f"{100 * guess['probability']:7.2f} %  {printable(which)}")


@cli.command()
@click.argument("run_or_model", type=FILE)
@click.option(
    "--format",
    "format_name",
    required=True,
    shell_complete=completing(_formats),
    help="saved_model or keras.",
)
@click.option("--out", type=FILE, help="Default: in the run folder, or beside the file.")
@click.option(
    "--image",
    "images",
    type=FILE,
    multiple=True,
    help="Pictures to compare on (files, folders); default: the model's own data set.",
)
@data_options
@json_option
def export(run_or_model, format_name, out, images, data_dir, cache_dir, as_json):
    """Write a model for servers or for plain Keras, proved the same.

    saved_model: a TensorFlow SavedModel whose endpoint `serve` takes uint8 pictures. keras: a plain
    float32 file without compile state. Either is loaded anew, in another process, and compared.

    \b
    Example: python cli.py export saved_models/demo-jax --format saved_model
    """
    from keras_imnet64.backend import check_keras_json
    from keras_imnet64.export import export as write

    check_keras_json()
    result = write(
        run_or_model,
        format_name,
        out=out,
        pictures=images or None,
        data_dir=data_dir,
        cache_dir=cache_dir,
    )
    if not result["compared"]["real"]:
        click.echo("Compared on drawn pictures; --image names real ones.", err=True)
    show(result, as_json)


# --------------------------------------------------------------------------------------------- data


@cli.group()
def data():
    """Prepare and look at data sets.

    Example: python cli.py data info shapes
    """


@data.command()
@click.argument("dataset", shell_complete=completing(_datasets))
@click.option(
    "--source",
    type=FILE,
    help="Archives on disk: a folder with the official ones, or tiny-imagenet-200.zip.",
)
@click.option("--allow-unverified", is_flag=True, help="Take other archives in that layout.")
@click.option("--skip-corrupt", is_flag=True, help="List damaged pictures and leave them out.")
@data_options
@json_option
def prepare(dataset, source, allow_unverified, skip_corrupt, data_dir, cache_dir, as_json):
    """Build a data set and pack it for training.

    Without --source TFDS downloads it; `shapes` is drawn on the spot.

    \b
    Example: python cli.py data prepare imagenet_resized/64x64 --source ARCHIVES
    """
    from keras_imnet64.data import datasets
    from keras_imnet64.quiet import import_tensorflow

    import_tensorflow()
    skipped = []
    with packing_bar() as progress:
        datasets.prepare(
            dataset,
            data_dir=data_dir,
            cache_dir=cache_dir,
            source=source,
            allow_unverified=allow_unverified,
            skip_corrupt=skip_corrupt,
            skipped=skipped,
            progress=progress,
        )
    for name, reason in skipped:
        click.echo(printable(f"skipped: {name} {reason}"), err=True)
    result = datasets.info(dataset, data_dir=data_dir, cache_dir=cache_dir)
    if as_json:
        result["skipped"] = [{"file": name, "reason": reason} for name, reason in skipped]
    show(result, as_json)


@data.command("info")
@click.argument("dataset", shell_complete=completing(_datasets))
@data_options
@json_option
def data_info(dataset, data_dir, cache_dir, as_json):
    """Show a data set's splits, classes, digest, state and disk use.

    Example: python cli.py data info tiny_imagenet
    """
    from keras_imnet64.data import datasets

    show(datasets.info(dataset, data_dir=data_dir, cache_dir=cache_dir), as_json)


@data.command()
@recipe_option
@click.option("--out", type=FILE, required=True, help="The PNG file to write.")
@click.option("--steps", is_flag=True, help="Show each operation side by side.")
@click.option("--pictures", type=int, help="How many; default 32, with --steps 8.")
@click.option("--epoch", default=1, show_default=True, help="Each epoch draws anew.")
@data_options
@json_option
def preview(recipe, overrides, out, steps, pictures, epoch, data_dir, cache_dir, as_json):
    """Draw what a recipe feeds its model, with class names.

    Example: python cli.py data preview --recipe demo --out sheet.png --steps
    """
    from keras_imnet64.backend import choose_backend
    from keras_imnet64.quiet import import_tensorflow
    from keras_imnet64.recipe import load_recipe

    choose_backend()
    recipe = load_recipe(recipe, overrides)
    import_tensorflow()
    from keras_imnet64.preview import preview as draw

    with packing_bar() as progress:
        result = draw(
            recipe,
            out,
            steps=steps,
            num_pictures=pictures,
            epoch=epoch,
            data_dir=data_dir,
            cache_dir=cache_dir,
            pack_progress=progress,
        )
    show(result, as_json)


# ----------------------------------------------------------------------------- recipes, the machine


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
    from keras_imnet64.listing import COLUMNS, facts, row
    from keras_imnet64.recipe import list_recipes, load_recipe

    shipped = [load_recipe(name) for name in list_recipes()]
    if as_json:
        show({recipe.name: facts(recipe) for recipe in shipped}, as_json)
    else:
        show_table([row(recipe) for recipe in shipped], COLUMNS)


@recipes.command("show")
@click.argument("recipe", shell_complete=completing(_recipes))
@json_option
@click.pass_obj
def show_recipe(json_before, recipe, as_json):
    """Print a recipe, with its size and results as comments.

    What is printed is a recipe too; RECIPE is a shipped one's name or a TOML file's path.

    Example: python cli.py recipes show demo
    """
    from keras_imnet64.listing import facts, in_words
    from keras_imnet64.recipe import find_recipe, load_recipe

    loaded = load_recipe(recipe)
    if as_json or json_before:
        show(facts(loaded) | {"settings": loaded.model_dump(exclude_none=True)}, True)
        return
    for line in in_words(facts(loaded)):
        click.echo(f"# {printable(line)}")
    click.echo()
    write_text(find_recipe(recipe).read_text("utf-8-sig"))


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
        show(report, as_json)
    else:
        click.echo("\n".join(lines(report)))
    return EXIT_RUN_FAILED if report["problems"] else 0


def packing_bar():
    """A progress bar on standard error for (description, done, total) calls."""
    from keras_imnet64.bars import CallBar

    return CallBar()
