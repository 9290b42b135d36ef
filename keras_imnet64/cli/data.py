"""Commands for data sets: data prepare, info, downsample, clean, preview."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from keras_imnet64.cli.frame import (
    FILE,
    SOURCE,
    DataFolders,
    cli,
    completing,
    data_options,
    dataset_names,
    json_option,
    packing_bar,
    recipe_option,
)
from keras_imnet64.core.console import say, show, show_table
from keras_imnet64.core.errors import printable

if TYPE_CHECKING:
    from keras_imnet64.data.stores.opening import Store


@cli.group()
def data() -> None:
    """Prepare and look at data sets.

    Example: python cli.py data info shapes
    """


@data.command()
@click.argument("dataset", shell_complete=completing(dataset_names))
@click.option(
    "--source",
    type=SOURCE,
    help="Archives, shards, a CSV file or class folders, as a path or an address such as "
    "s3://bucket/folder.",
)
@click.option(
    "--allow-unverified", is_flag=True, help="Accept other images than the published ones."
)
@click.option("--skip-corrupt", is_flag=True, help="List and skip files that cannot be used.")
@click.option("--class-list", type=FILE, help="imagenet21k: file with the class ids to use.")
@click.option(
    "--validation-share",
    type=float,
    help="image_folder without splits: share of each class to hold out; default: 0.1. With 1, the "
    "set is for scoring only.",
)
@click.option(
    "--splits",
    metavar="TRAIN,VALIDATION",
    help='image_folder: two folders in the source; "none": every folder is a class.',
)
@data_options
@json_option
def prepare(
    dataset: str,
    source: Path | str | None,
    allow_unverified: bool,
    skip_corrupt: bool,
    class_list: Path | None,
    validation_share: float | None,
    splits: str | None,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Pack a data set, or index its image files, for training.

    Without --source, TFDS downloads `imagenet_resized`, `imagenet2012` is looked for in the folder
    of data sets, and `shapes` is drawn; the others need it. The form of a source is recognised by
    its files: official archives, unpacked npz files or pickles, Parquet, WebDataset,
    CSV, or class folders. Among class folders, those named like train, val or test, in any
    spelling, are splits.

    \b
    Example: python cli.py data prepare imagenet_resized/64x64 --source ARCHIVES
    """
    from keras_imnet64.backend.loading import import_tensorflow
    from keras_imnet64.data import datasets

    import_tensorflow()
    skipped: list[tuple[str, str]] = []
    with packing_bar() as progress:
        stores = datasets.prepare(
            dataset,
            **folders,
            source=source,
            allow_unverified=allow_unverified,
            skip_corrupt=skip_corrupt,
            skipped=skipped,
            class_list=class_list,
            validation_share=validation_share,
            splits=splits,
            progress=progress,
            say=say,
        )
    report_files(skipped, stores)
    result = datasets.info(dataset, **folders, stores=stores)
    if as_json:
        result["skipped"] = [{"file": name, "reason": reason} for name, reason in skipped]
    show(result, as_json)


def report_files(skipped: list[tuple[str, str]], stores: Mapping[str, "Store"]) -> None:
    """Prints which files were skipped, and how many images a store holds as PNG."""
    for name, reason in skipped:
        click.echo(printable(f"skipped: {name} {reason}"), err=True)
    for split, store in stores.items():
        if not len(store):
            continue
        if store.image_size is None and store.meta.copied:
            click.echo(
                f"{split}: {len(store):,} images copied into the store, {store.converted_bytes:,} "
                "bytes; training does not read the source again",
                err=True,
            )
        elif store.image_size is None and store.num_converted:
            click.echo(
                f"{split}: {store.num_converted:,} of {len(store):,} images kept as PNG in the "
                f"store, {store.converted_bytes:,} bytes, for training cannot decode their files",
                err=True,
            )


@data.command("info")
@click.argument("dataset", shell_complete=completing(dataset_names))
@data_options
@json_option
def data_info(
    dataset: str,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Show a data set's splits, classes, digest, state and disk use.

    Example: python cli.py data info tiny_imagenet
    """
    from keras_imnet64.data import datasets

    show(datasets.info(dataset, **folders), as_json)


@data.command()
@click.argument("dataset", shell_complete=completing(dataset_names))
@click.option("--size", type=int, required=True, help="Pixels per side, 8 to 256.")
@click.option("--out", type=FILE, required=True, help="Folder to write the archives to.")
@click.option(
    "--filter",
    "resize_filter",
    default="box",
    show_default=True,
    help="box (as published), lanczos, bicubic, bilinear, hamming or nearest.",
)
@data_options
@json_option
def downsample(
    dataset: str,
    size: int,
    out: Path,
    resize_filter: str,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Downsample large images, in the way ImageNet64 was made.

    Writes archives in the official layout and a packed store to train on. The same command resumes
    after an interruption.

    \b
    Example: python cli.py data downsample imagenet2012 --size 64 --out ARCHIVES
    """
    from keras_imnet64.data.tools import downsample as downsampling

    with packing_bar() as progress:
        result = downsampling.downsample(
            dataset,
            size=size,
            out_dir=out,
            resize_filter=resize_filter,
            **folders,
            progress=progress,
            say=say,
        )
    show(result, as_json)


@data.command()
@click.argument("dataset", required=False, shell_complete=completing(dataset_names))
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@data_options
@json_option
def clean(
    dataset: str | None,
    dry_run: bool,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Remove downloads and other copies of packed data sets.

    Also removes work folders of dead processes; keeps packed stores and sources.

    Example: python cli.py data clean imagenet_resized/64x64 --dry-run
    """
    from keras_imnet64.data.tools import cleaning

    result = cleaning.clean(dataset, **folders, dry_run=dry_run)
    if result["removed"] and not as_json:
        show_table(result.pop("removed"), {"what": "what", "bytes": "bytes", "path": "path"})
    show(result, as_json)


@data.command()
@recipe_option
@click.option("--out", type=FILE, required=True, help="PNG file to write.")
@click.option("--steps", is_flag=True, help="Show the result of each operation side by side.")
@click.option("--images", type=int, help="Number of images; default: 32, or 8 with --steps.")
@click.option("--epoch", default=1, show_default=True, help="Epoch to draw, from 1.")
@data_options
@json_option
def preview(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path,
    steps: bool,
    images: int | None,
    epoch: int,
    as_json: bool,
    **folders: Unpack[DataFolders],
) -> None:
    """Draw the images that a recipe feeds to its model.

    Example: python cli.py data preview --recipe demo --out sheet.png --steps
    """
    from keras_imnet64.backend.devices import choose_backend, hide_gpus_from_tensorflow
    from keras_imnet64.backend.loading import import_tensorflow
    from keras_imnet64.recipe.loading import load_recipe

    choose_backend()
    loaded = load_recipe(recipe, overrides)
    import_tensorflow()
    hide_gpus_from_tensorflow()
    from keras_imnet64.training.preview import preview as draw

    with packing_bar() as progress:
        result = draw(
            loaded,
            out,
            steps=steps,
            num_images=images,
            epoch=epoch,
            **folders,
            pack_progress=progress,
        )
    show(result, as_json)
