"""Commands that train a model and use it: fit, evaluate, predict, export, convert."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_imnet64.cli.frame import (
    FILE,
    cli,
    completing,
    data_options,
    dataset_names,
    device_options,
    json_option,
    packing_bar,
    recipe_option,
)
from keras_imnet64.core.console import show, show_table, write_text
from keras_imnet64.core.errors import UserError, first_few, printable
from keras_imnet64.core.types import JsonObject

if TYPE_CHECKING:
    from keras_imnet64.recipe.schema import Recipe
    from keras_imnet64.spectral.fusion import Fusion


def format_names() -> list[str]:
    from keras_imnet64.export.formats import FORMATS

    return list(FORMATS)


def convertible_names() -> list[str]:
    from keras_imnet64.convert.namings import NAMINGS

    return list(NAMINGS)


def class_orders() -> list[str]:
    from keras_imnet64.convert import CLASS_ORDERS

    return list(CLASS_ORDERS)


@cli.command()
@recipe_option
@click.option("--name", help="Run folder below saved_models/; default <recipe>-<backend>.")
@click.option("--out", type=FILE, help="Run folder anywhere.")
@click.option("--fresh", is_flag=True, help="Begin anew; the old run is kept under another name.")
@click.option("--branch", type=int, help="Of a spectral recipe, train this band's network alone.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Branches trained at a time.")
@click.option(
    "--ends-with-parent", is_flag=True, hidden=True, help="End when standard input closes."
)
@device_options
@data_options
@json_option
def fit(
    recipe: str,
    overrides: tuple[str, ...],
    name: str | None,
    out: Path | None,
    fresh: bool,
    branch: int | None,
    jobs: int,
    ends_with_parent: bool,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Train a recipe, or go on with a run that was interrupted.

    The same command goes on from the newest checkpoint; a finished run is never overwritten.

    A spectral recipe trains all its branches, each in a process and a run folder of its own, or
    the one that --branch names; then `ensemble` joins them.

    \b
    Example: python cli.py fit --recipe wrn36_5 --set train.seed=1 --name second
    """
    from keras_imnet64.backend.devices import choose_backend
    from keras_imnet64.core.processes import end_with_parent
    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.spectral.training import fit_recipe

    if ends_with_parent:
        end_with_parent()
    choose_backend(backend)
    loaded = load_recipe(recipe, overrides)
    folder = run_folder(loaded, name, out)
    with packing_bar() as progress:
        result = fit_recipe(
            loaded,
            folder,
            branch=branch,
            jobs=jobs,
            data_dir=data_dir,
            cache_dir=cache_dir,
            devices=devices,
            virtual_devices=virtual_devices,
            fresh=fresh,
            pack_progress=progress,
        )
    show(result, as_json)


def run_folder(recipe: "Recipe", name: str | None, out: Path | None) -> Path:
    """Returns the folder that --out or --name give, or else <recipe>-<backend>."""
    from keras_imnet64.backend.devices import chosen_backend
    from keras_imnet64.core.paths import DEFAULT_RUNS
    from keras_imnet64.recipe.schema import is_folder_name

    if name is not None and not is_folder_name(name):
        raise UserError(f'--name is one folder below saved_models; received "{name}", see --out')
    return out or DEFAULT_RUNS / (name or f"{recipe.name}-{chosen_backend()}")


@cli.command()
@click.argument("run", type=FILE)
@click.option(
    "--fusion",
    type=click.Choice(["avg", "geo", "fit"]),
    default="avg",
    show_default=True,
    help="Weights: alike, by rank with p = 0.3, or fitted on held-out images.",
)
@click.option("--branches", metavar="0,1,3", help="Join these; default all of the recipe.")
@click.option("--allow-missing", is_flag=True, help="Join those that are finished.")
@click.option("--single", type=FILE, help="Run of one network for the whole image, to compare.")
@device_options
@data_options
@json_option
def ensemble(
    run: Path,
    fusion: "Fusion",
    branches: str | None,
    allow_missing: bool,
    single: Path | None,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Join the trained branches of a spectral recipe into one model.

    Writes model.keras, metrics.json, ensemble.csv and ensemble.png into the folder RUN that holds
    the branches; `evaluate`, `predict` and `export` take it like any run. The report has each
    branch's worth and cost, and the worth of the best so many together.

    \b
    Example: python cli.py ensemble saved_models/spectral_tiny20_sub4-tensorflow --fusion geo
    """
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend(backend)
    taken = take_devices(devices, virtual_devices)
    from keras_imnet64.spectral.ensemble import ensemble as join

    with packing_bar() as progress:
        result = join(
            run,
            fusion=fusion,
            branches=band_numbers(branches),
            allow_missing=allow_missing,
            single=single,
            data_dir=data_dir,
            cache_dir=cache_dir,
            devices=taken,
            pack_progress=progress,
        )
    show({"run": str(run), **result}, as_json)


def band_numbers(text: str | None) -> list[int] | None:
    """Returns [0, 1, 3] for "0,1,3", and None for None."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--branches takes numbers such as 0,1,3; received {text!r}") from None


@cli.command()
@click.argument("run_or_model", type=FILE)
@click.option(
    "--dataset",
    shell_complete=completing(dataset_names),
    help="Default: the one it was trained on.",
)
@click.option("--split", default="validation", show_default=True, help="train or validation.")
@click.option(
    "--per-class",
    type=FILE,
    metavar="CSV",
    help="Write a row for each class there, and show which classes are taken for which.",
)
@click.option(
    "--ten-crop/--one-crop",
    default=None,
    help="Average over ten crops of each image; default: as its recipe says.",
)
@device_options
@data_options
@json_option
def evaluate(
    run_or_model: Path,
    dataset: str | None,
    split: str,
    per_class: Path | None,
    ten_crop: bool | None,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Score a model on every image of a split once.

    RUN_OR_MODEL is a run folder, whose model.keras is taken, or any .keras file.

    \b
    Example: python cli.py evaluate saved_models/demo-jax --per-class classes.csv
    """
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend(backend)
    taken = take_devices(devices, virtual_devices)
    from keras_imnet64.evaluation.evaluate import evaluate as score

    with packing_bar() as progress:
        result = score(
            run_or_model,
            dataset=dataset,
            split=split,
            per_class=per_class,
            ten_crop=ten_crop,
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
@click.option("--top", default=5, show_default=True, help="How many classes for each image.")
@click.option("--skip-corrupt", is_flag=True, help="List images that cannot be read, and go on.")
@click.option("--csv", "as_csv", is_flag=True, help="A row for each image and class.")
@device_options
@json_option
def predict(
    run_or_model: Path,
    images: tuple[Path, ...],
    top: int,
    skip_corrupt: bool,
    as_csv: bool,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    as_json: bool,
) -> None:
    """Say what is on images: the most probable classes of each.

    RUN_OR_MODEL is a run folder or a .keras file; IMAGE is a file of any kind that Pillow reads, or
    a folder of such files. Images are made as small as those that the model was trained on.

    \b
    Example: python cli.py predict saved_models/demo-tensorflow cat.jpg holiday/
    """
    from keras_imnet64.backend.devices import choose_backend, take_devices

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


def show_predictions(result: JsonObject) -> None:
    """Prints a line for each image and one for each of its classes."""
    for image in result["pictures"]:
        click.echo(printable(image["file"]))
        for guess in image["top"]:
            name, wnid = guess["class_name"], guess["class_id"]
            which = name if wnid in (None, name) else f"{name} ({wnid})"
            click.echo(f"{100 * guess['probability']:7.2f} %  {printable(which)}")


@cli.command()
@click.argument("run_or_model", type=FILE)
@click.option(
    "--format",
    "format_name",
    required=True,
    shell_complete=completing(format_names),
    help="saved_model or keras.",
)
@click.option("--out", type=FILE, help="Default: in the run folder, or beside the file.")
@click.option(
    "--image",
    "images",
    type=FILE,
    multiple=True,
    help="Images to compare on (files, folders); default: the model's own data set.",
)
@data_options
@json_option
def export(
    run_or_model: Path,
    format_name: str,
    out: Path | None,
    images: tuple[Path, ...],
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Write a model for servers or for plain Keras, proved the same.

    saved_model: a TensorFlow SavedModel whose endpoint `serve` takes uint8 images. keras: a plain
    float32 file without compile state. Either is loaded anew, in another process, and compared.

    \b
    Example: python cli.py export saved_models/demo-jax --format saved_model
    """
    from keras_imnet64.export import export as write

    result = write(
        run_or_model,
        format_name,
        out=out,
        images=images or None,
        data_dir=data_dir,
        cache_dir=cache_dir,
    )
    if result["compared"]["stand_in"]:
        click.echo("Compared on drawn images; --image names real ones.", err=True)
    show(result, as_json)


@cli.command()
@click.option(
    "--model",
    required=True,
    shell_complete=completing(convertible_names),
    help="A network of the resnet, davit, alexnet or vgg family.",
)
@click.option(
    "--weights",
    type=FILE,
    required=True,
    help="A file of safetensors; or of torch.save (.pth, .ckpt, ...) where torch is installed.",
)
@click.option("--image-size", type=int, required=True, help="Pixels per side.")
@click.option("--out", type=FILE, required=True, help="The .keras file to write.")
@click.option(
    "--classes",
    shell_complete=completing(class_orders),
    help="Name the 1,000 classes: imagenet64 brings them into its order, imagenet leaves theirs.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A line of TOML: an option of the model or normalization; may be given again.",
)
@click.option(
    "--prefix",
    metavar="student.",
    help="Which network of a file with several: what the names of its tensors begin with.",
)
@json_option
def convert(
    model: str,
    weights: Path,
    image_size: int,
    out: Path,
    classes: str | None,
    settings: tuple[str, ...],
    prefix: str | None,
    as_json: bool,
) -> None:
    """Make a model of weights from torchvision or timm.

    Checkpoints of training programs are opened, and nothing in them is run. Of a network and its
    average (EMA) the average is taken, unless --prefix names the other.

    The file written is as one of ours: predict, evaluate and export take it, and a recipe to go on
    from it as train.initial_weights.

    \b
    Example: python cli.py convert --model resnet50 --weights resnet50.safetensors
        --image-size 64 --classes imagenet64 --out resnet50.keras
    """
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    take_devices()
    from keras_imnet64.convert import convert as make
    from keras_imnet64.convert import parse_settings

    parsed = parse_settings(settings)
    result = make(
        model,
        weights,
        image_size=image_size,
        out=out,
        classes=classes,
        options=parsed.options,
        normalization=parsed.normalization,
        prefix=prefix,
    )
    for note in notes_on(result):
        click.echo(printable(note), err=True)
    if not as_json:
        result = {key: value for key, value in result.items() if key not in SHOWN_AS_NOTES}
    show(result, as_json)


SHOWN_AS_NOTES = ("prefix", "averaged", "other_networks", "left_out")


def notes_on(result: JsonObject) -> Iterator[str]:
    """Yields which network of a file was taken, which tensors were not, and what it lacks."""
    prefix, averaged, others, left_out = (result[key] for key in SHOWN_AS_NOTES)
    if prefix:
        which = ", the averaged weights" if averaged else ""
        yield f'The network is the one under "{prefix}"{which}.'
    if others:
        listed = first_few([f'"{other}"' for other in others])
        yield f"The file also holds {listed}; --prefix takes that instead."
    if left_out:
        yield f"Not taken, for they are no part of the network: {first_few(left_out)}."
    if result["classes"] is None:
        yield "The file names no classes; --classes does, if its rows are ImageNet's."
