"""Commands that make and use models: `fit` and `ensemble`, `evaluate`, `predict`, `export`, ..."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from keras_imnet64.cli.frame import (
    FILE,
    DataFolders,
    cli,
    completing,
    data_options,
    dataset_names,
    device_options,
    json_option,
    machine_options,
    packing_bar,
    recipe_option,
    run_folder,
    share_out,
    start_backend,
)
from keras_imnet64.cli.report import report_option, reporter
from keras_imnet64.core.console import show, show_table, write_text
from keras_imnet64.core.errors import UserError, first_few, printable
from keras_imnet64.core.types import JsonObject

if TYPE_CHECKING:
    from keras_imnet64.curves import Against
    from keras_imnet64.records import ViewSet
    from keras_imnet64.spectral.fusion import Fusion

CONFUSION_COLUMNS = {
    "class_name": "class",
    "taken_for_name": "taken for",
    "count": "images",
    "share": "% of the class",
}


def format_names() -> list[str]:
    from keras_imnet64.export.formats import FORMATS

    return list(FORMATS)


def curve_names() -> list[str]:
    from keras_imnet64.curves import TITLES

    return list(TITLES)


def convertible_names() -> list[str]:
    from keras_imnet64.convert.namings import NAMINGS

    return list(NAMINGS)


def class_orders() -> list[str]:
    from keras_imnet64.convert import CLASS_ORDERS

    return list(CLASS_ORDERS)


@cli.command()
@recipe_option
@click.option("--name", help="Run folder in saved_models/; default: <recipe>-<backend>.")
@click.option("--out", type=FILE, help="Run folder at any path.")
@click.option("--fresh", is_flag=True, help="Start over; the old run is kept under another name.")
@click.option("--branch", type=int, help="Spectral recipes: train only this band's network.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    help="Spectral recipes: number of branches to train at a time.",
)
@report_option
@click.option(
    "--ends-with-parent", is_flag=True, hidden=True, help="End when standard input closes."
)
@device_options
@machine_options
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
    has_report: bool,
    ends_with_parent: bool,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Train a recipe, or resume an interrupted run.

    The same command resumes from the newest checkpoint; a finished run is never overwritten.

    At the end, writes a page about the run, report.html in its folder, unless --no-report is given.

    With a spectral recipe, trains all branches, each in its own process and run folder, or only
    that of --branch; `ensemble` then joins them. Started several times with the same --out, on any
    machines, the processes share out the branches.

    To train on several machines, run the same command on each, with --backend jax and
    --coordinator, --num-processes and --process-id, or start it with srun or mpirun.

    \b
    Example: python cli.py fit --recipe wrn36_5 --set train.seed=1 --name second
    """
    from keras_imnet64.backend.devices import choose_backend
    from keras_imnet64.backend.launchers import find_place
    from keras_imnet64.core.processes import end_with_parent
    from keras_imnet64.recipe.loading import load_recipe
    from keras_imnet64.spectral.training import fit_recipe, trains_all

    if ends_with_parent:
        end_with_parent()
    choose_backend(backend)
    loaded = load_recipe(recipe, overrides)
    if trains_all(loaded, branch):
        share_out("the branches", fresh)
        place = find_place(coordinator, num_processes, process_id, environment={})
    else:
        place = find_place(coordinator, num_processes, process_id)
    folder = run_folder(loaded.name, name, out)
    with packing_bar() as progress:
        fitted = fit_recipe(
            loaded,
            folder,
            branch=branch,
            jobs=jobs,
            devices=devices,
            virtual_devices=virtual_devices,
            fresh=fresh,
            place=place,
            pack_progress=progress,
            on_finished=reporter(folders) if has_report else None,
            **folders,
        )
    if fitted.is_reported:
        show(fitted.scores, as_json)


@cli.command()
@click.argument("run", type=FILE)
@click.option(
    "--fusion",
    type=click.Choice(["avg", "geo", "fit"]),
    default="avg",
    show_default=True,
    help="Branch weights: equal, by rank (p = 0.3), or fitted on held-out images.",
)
@click.option("--branches", metavar="0,1,3", help="Branches to join; default: all of the recipe.")
@click.option(
    "--allow-missing", is_flag=True, help="Join the finished branches; the others may be missing."
)
@click.option("--single", type=FILE, help="Run of one network on whole images, for comparison.")
@report_option
@device_options
@data_options
@json_option
def ensemble(
    run: Path,
    fusion: "Fusion",
    branches: str | None,
    allow_missing: bool,
    single: Path | None,
    has_report: bool,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Join the trained branches of a spectral recipe into one model.

    Writes model.keras, metrics.json, ensemble.csv, ensemble.png and report.html into RUN, the
    folder of the branches; `evaluate`, `predict` and `export` take it like any run. The report
    shows the accuracy and cost of each branch, and the accuracy of the best one, two, three, ...
    together.

    \b
    Example: python cli.py ensemble saved_models/spectral_tiny20_sub4-tensorflow --fusion geo
    """
    taken = start_backend(backend, devices, virtual_devices)
    from keras_imnet64.runs import Run
    from keras_imnet64.spectral.ensemble import ensemble as join

    with packing_bar() as progress:
        result = join(
            run,
            fusion=fusion,
            branches=band_numbers(branches),
            allow_missing=allow_missing,
            single=single,
            **folders,
            devices=taken,
            pack_progress=progress,
        )
    if has_report:
        reporter(folders)(Run(run), taken)
    show({"run": str(run), **result}, as_json)


def band_numbers(text: str | None) -> list[int] | None:
    """Returns [0, 1, 3] for "0,1,3"; None stands for all."""
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
    help="Data set to score on; default: the one that the model was trained on.",
)
@click.option("--split", default="validation", show_default=True, help="train or validation.")
@click.option(
    "--per-class",
    type=FILE,
    metavar="CSV",
    help="Write a row per class to this file, and show which classes are confused.",
)
@click.option(
    "--predictions",
    type=FILE,
    metavar="FILE",
    help="Write each image's label and five most probable classes to this .parquet or .csv file.",
)
@click.option(
    "--ten-crop/--one-crop",
    default=None,
    help="Average over ten crops of each image, or not; default: as in the model's recipe.",
)
@click.option(
    "--views",
    type=click.Choice(["none", "mirror", "shift"]),
    help="Also score the average over mirrored and shifted views; default: as in the recipe.",
)
@click.option(
    "--knn",
    type=int,
    metavar="K",
    help="Score the features without the head: the K nearest training images vote; 20 is usual.",
)
@device_options
@data_options
@json_option
def evaluate(
    run_or_model: Path,
    dataset: str | None,
    split: str,
    per_class: Path | None,
    predictions: Path | None,
    ten_crop: bool | None,
    views: "ViewSet | None",
    knn: int | None,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Score a model on all images of a split.

    RUN_OR_MODEL is a run folder, whose model.keras is scored, or any .keras file.

    With --knn, scores the features of the model without its head: for each validation image, the K
    images of the train split with the most similar features vote for its class. The data set may
    have other classes than the model.

    \b
    Example: python cli.py evaluate saved_models/demo-jax --per-class classes.csv
    """
    others = (per_class, predictions, ten_crop, views)
    if knn is not None and (split != "validation" or any(others)):
        raise UserError(
            "--knn scores one view of each validation image: leave out --split, --per-class, "
            "--predictions, --ten-crop and --views"
        )
    taken = start_backend(backend, devices, virtual_devices)
    if knn is not None:
        from keras_imnet64.evaluation.neighbours import evaluate_neighbours

        with packing_bar() as progress:
            found = evaluate_neighbours(
                run_or_model,
                knn,
                dataset=dataset,
                **folders,
                devices=taken,
                pack_progress=progress,
            )
        show(found, as_json)
        return
    from keras_imnet64.evaluation.evaluate import evaluate as score

    with packing_bar() as progress:
        result = score(
            run_or_model,
            dataset=dataset,
            split=split,
            per_class=per_class,
            predictions=predictions,
            ten_crop=ten_crop,
            views=views,
            **folders,
            devices=taken,
            pack_progress=progress,
        )
    confused = [] if as_json else result.pop("most_confused", [])
    show(result, as_json)
    if confused:
        show_table(confused, CONFUSION_COLUMNS)


@cli.command()
@click.argument("runs", type=FILE, nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=FILE, required=True, help="PNG file to write.")
@click.option(
    "--against",
    type=click.Choice(["minutes", "epochs", "steps"]),
    default="minutes",
    show_default=True,
    help="Wall-clock minutes from the first step on, epochs, or updates of the weights.",
)
@click.option(
    "--metric",
    default="val_top1",
    show_default=True,
    shell_complete=completing(curve_names),
    help="A column of history.csv, such as val_loss or top1.",
)
@click.option(
    "--published",
    multiple=True,
    metavar="LABEL=VALUE",
    help="Mark a value with a line, such as a published accuracy; repeatable.",
)
@json_option
def curves(
    runs: tuple[Path, ...],
    out: Path,
    against: "Against",
    metric: str,
    published: tuple[str, ...],
    as_json: bool,
) -> None:
    """Draw accuracy against minutes for one or several runs.

    RUN is a run folder, finished or not, with at least two finished epochs.

    \b
    Example: python cli.py curves saved_models/demo-tensorflow saved_models/demo-jax
        --out curves.png
    """
    from keras_imnet64.curves import draw_runs

    marks = dict(labelled_value(text) for text in published)
    result = draw_runs(runs, out, against=against, metric=metric, published=marks)
    if as_json:
        show(result, as_json)
        return
    rows = result.pop("runs")
    show(result, as_json)
    show_table(rows, {key: key for key in rows[0]})


def labelled_value(text: str) -> tuple[str, float]:
    """Returns ("ResNet-18", 65.5) for "ResNet-18=65.5"."""
    label, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not label or not math.isfinite(value):
        raise UserError(f"--published takes LABEL=VALUE, such as published=65.5; received {text!r}")
    return label, value


@cli.command()
@click.argument("run_or_model", type=FILE)
@click.argument("images", type=FILE, nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", default=5, show_default=True, help="Number of classes to show per image.")
@click.option("--skip-corrupt", is_flag=True, help="List and skip images that cannot be read.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a row for each image and class.")
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
    """Classify images: show the most probable classes of each.

    RUN_OR_MODEL is a run folder or a .keras file; IMAGE is a file of any kind that Pillow reads, or
    a folder of such files. Images are resized to the size of the training images.

    \b
    Example: python cli.py predict saved_models/demo-tensorflow cat.jpg holiday/
    """
    if as_csv and as_json:
        raise UserError("--csv and --json are two forms of the same result; give one")
    taken = start_backend(backend, devices, virtual_devices)
    from keras_imnet64.evaluation.predict import as_csv as csv_of
    from keras_imnet64.evaluation.predict import predict as guess

    result = guess(run_or_model, images, top=top, devices=taken, skip_corrupt=skip_corrupt)
    for skipped in result["skipped"]:
        click.echo(printable(f"skipped: {skipped['reason']}"), err=True)
    if as_csv:
        write_text(csv_of(result))
    elif as_json:
        show(result, as_json)
    else:
        show_predictions(result)


def show_predictions(result: JsonObject) -> None:
    """Prints a line for each image and one for each of its classes."""
    for image in result["images"]:
        click.echo(printable(image["file"]))
        for guess in image["top"]:
            name, wnid = guess["class_name"], guess["class_id"]
            which = name if wnid in (None, name) else f"{name} ({wnid})"
            click.echo(f"{100 * guess['probability']:7.2f} %  {printable(which)}")


@cli.command()
@click.argument("run_or_model", type=FILE)
@click.argument("images", type=FILE, nargs=-1, required=True, metavar="IMAGE...")
@click.option("--out", type=FILE, required=True, help="File to write: .parquet, .csv or .npz.")
@click.option("--skip-corrupt", is_flag=True, help="List and skip images that cannot be read.")
@device_options
@json_option
def embed(
    run_or_model: Path,
    images: tuple[Path, ...],
    out: Path,
    skip_corrupt: bool,
    backend: str | None,
    devices: str | None,
    virtual_devices: int | None,
    as_json: bool,
) -> None:
    """Write the features of images, the vectors before the logits.

    RUN_OR_MODEL is a run folder or a .keras file; IMAGE is a file of any kind that Pillow reads, or
    a folder of such files. Each row has the path of an image and its features, in float32: the
    input of the last dense layer, or the output of the layer `pool`.

    \b
    Example: python cli.py embed saved_models/demo-tensorflow holiday/ --out features.parquet
    """
    taken = start_backend(backend, devices, virtual_devices)
    from keras_imnet64.evaluation.features import embed as write

    result = write(run_or_model, images, out, devices=taken, skip_corrupt=skip_corrupt)
    for skipped in [] if as_json else result.pop("skipped"):
        click.echo(printable(f"skipped: {skipped['reason']}"), err=True)
    show(result, as_json)


@cli.command()
@click.argument("run_or_model", type=FILE)
@click.option(
    "--format",
    "format_name",
    required=True,
    shell_complete=completing(format_names),
    help="saved_model or keras.",
)
@click.option("--out", type=FILE, help="Default: in the run folder, or beside the model file.")
@click.option(
    "--image",
    "images",
    type=FILE,
    multiple=True,
    help="Images (file or folder) for the comparison; default: the model's data set.",
)
@data_options
@json_option
def export(
    run_or_model: Path,
    format_name: str,
    out: Path | None,
    images: tuple[Path, ...],
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Export a model for servers or plain Keras, and verify the copy.

    saved_model: a TensorFlow SavedModel whose endpoint `serve` takes uint8 images. keras: a plain
    float32 file without compile state. Another process loads it and compares it with the model.

    \b
    Example: python cli.py export saved_models/demo-jax --format saved_model
    """
    from keras_imnet64.export import export as write

    result = write(
        run_or_model,
        format_name,
        out=out,
        images=images or None,
        **folders,
    )
    if result["compared"]["stand_in"]:
        click.echo("Compared on generated images; --image takes real ones.", err=True)
    if result["had_softmax"]:
        click.echo("The model ends in a softmax; what is exported gives its logits.", err=True)
    show(result, as_json)


@cli.command()
@click.option(
    "--model",
    required=True,
    shell_complete=completing(convertible_names),
    help="Network of the resnet, davit, alexnet or vgg family.",
)
@click.option(
    "--weights",
    type=FILE,
    required=True,
    help="A safetensors file, or one from torch.save (.pth, .ckpt, ...) if torch is installed.",
)
@click.option("--image-size", type=int, required=True, help="Pixels per side.")
@click.option("--out", type=FILE, required=True, help=".keras file to write.")
@click.option(
    "--classes",
    shell_complete=completing(class_orders),
    help="Name the 1,000 ImageNet classes: imagenet keeps their order, imagenet64 changes it.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the model, or normalization, in TOML; repeatable.",
)
@click.option(
    "--prefix",
    metavar="student.",
    help="Prefix of the tensor names that selects one of several networks in the file.",
)
@click.option(
    "--resize",
    type=int,
    help="Pixels of the shorter side before the centre is cropped, such as 256 for 224; default: "
    "the whole image is resized.",
)
@click.option(
    "--resize-filter",
    help="bilinear, bicubic, box, lanczos, hamming or nearest; default: that of the family.",
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
    resize: int | None,
    resize_filter: str | None,
    as_json: bool,
) -> None:
    """Convert weights of torchvision or timm into a model file.

    Also reads checkpoints of training programs, without running any code in them. If a file has a
    network and its average (EMA), the average is taken unless --prefix selects the other.

    `predict`, `evaluate` and `export` take the file, and recipes take it as train.initial_weights.

    \b
    Example: python cli.py convert --model resnet50 --weights resnet50.safetensors
        --image-size 64 --classes imagenet64 --out resnet50.keras
    """
    start_backend()
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
        resize=resize,
        resize_filter=resize_filter,
    )
    for note in notes_on(result):
        click.echo(printable(note), err=True)
    if not as_json:
        result = {key: value for key, value in result.items() if key not in SHOWN_AS_NOTES}
    show(result, as_json)


SHOWN_AS_NOTES = ("prefix", "averaged", "other_networks", "left_out")


def notes_on(result: JsonObject) -> Iterator[str]:
    """Yields which network and tensors were taken from the file, and what the file lacks."""
    prefix, averaged, others, left_out = (result[key] for key in SHOWN_AS_NOTES)
    if prefix:
        which = ", the averaged weights" if averaged else ""
        yield f'The network is the one under "{prefix}"{which}.'
    if others:
        listed = first_few([f'"{other}"' for other in others])
        yield f"The file also holds {listed}; --prefix selects another network."
    if left_out:
        yield f"Left out, because they are not part of the network: {first_few(left_out)}."
    if result["classes"] is None:
        yield "The file names no classes; if they are ImageNet's, --classes names them."
