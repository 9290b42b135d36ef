"""Commands for data sets: data prepare, info, downsample, clean, preview."""

from pathlib import Path

import click

from keras_imnet64.cli.frame import (
    FILE,
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


@cli.group()
def data() -> None:
    """Prepare and look at data sets.

    Example: python cli.py data info shapes
    """


@data.command()
@click.argument("dataset", shell_complete=completing(dataset_names))
@click.option(
    "--source",
    type=FILE,
    help="Where it lies: a folder of archives or of images, or tiny-imagenet-200.zip.",
)
@click.option("--allow-unverified", is_flag=True, help="Take other archives in that layout.")
@click.option(
    "--skip-corrupt", is_flag=True, help="List files that cannot be used; leave them out."
)
@click.option("--class-list", type=FILE, help="imagenet21k: a file of the class ids to take.")
@click.option(
    "--validation-share",
    type=float,
    help="image_folder: about how much of each class is kept aside without splits; default 0.1.",
)
@click.option(
    "--splits",
    metavar="TRAIN,VALIDATION",
    help='image_folder: two folders of the source; "none": all are classes, even one called train.',
)
@data_options
@json_option
def prepare(
    dataset: str,
    source: Path | None,
    allow_unverified: bool,
    skip_corrupt: bool,
    class_list: Path | None,
    validation_share: float | None,
    splits: str | None,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a data set ready to train on: packed, or its JPEGs indexed.

    Without --source TFDS downloads it; `shapes` is drawn on the spot. In an image_folder, folders
    that are named like train, val or test, in any spelling, are splits, and others classes.

    \b
    Example: python cli.py data prepare imagenet_resized/64x64 --source ARCHIVES
    """
    from keras_imnet64.core.library_logs import import_tensorflow
    from keras_imnet64.data import datasets

    import_tensorflow()
    skipped: list[tuple[str, str]] = []
    with packing_bar() as progress:
        stores = datasets.prepare(
            dataset,
            data_dir=data_dir,
            cache_dir=cache_dir,
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
    for name, reason in skipped:
        click.echo(printable(f"skipped: {name} {reason}"), err=True)
    for split, store in stores.items():
        if store.image_size is None and store.num_converted:
            click.echo(
                f"{split}: {store.num_converted:,} of {len(store):,} images kept as PNG in the "
                f"store, {store.converted_bytes:,} bytes, for training cannot decode their files",
                err=True,
            )
    result = datasets.info(dataset, data_dir=data_dir, cache_dir=cache_dir)
    if as_json:
        result["skipped"] = [{"file": name, "reason": reason} for name, reason in skipped]
    show(result, as_json)


@data.command("info")
@click.argument("dataset", shell_complete=completing(dataset_names))
@data_options
@json_option
def data_info(
    dataset: str,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Show a data set's splits, classes, digest, state and disk use.

    Example: python cli.py data info tiny_imagenet
    """
    from keras_imnet64.data import datasets

    show(datasets.info(dataset, data_dir=data_dir, cache_dir=cache_dir), as_json)


@data.command()
@click.argument("dataset", shell_complete=completing(dataset_names))
@click.option("--size", type=int, required=True, help="Pixels per side, 8 to 256.")
@click.option("--out", type=FILE, required=True, help="The folder that receives the archives.")
@click.option(
    "--filter",
    "resize_filter",
    default="box",
    show_default=True,
    help="box as published, or lanczos, bicubic, bilinear, hamming, nearest.",
)
@data_options
@json_option
def downsample(
    dataset: str,
    size: int,
    out: Path,
    resize_filter: str,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Make small images of large ones, as ImageNet64.

    Archives in the official layout, and a packed store to train on. What was interrupted goes on.

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
            data_dir=data_dir,
            cache_dir=cache_dir,
            progress=progress,
        )
    show(result, as_json)


@data.command()
@click.argument("dataset", required=False, shell_complete=completing(dataset_names))
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@data_options
@json_option
def clean(
    dataset: str | None,
    dry_run: bool,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Remove copies and downloads of what is packed.

    Working folders of dead processes go too; packed stores and sources stay.

    Example: python cli.py data clean imagenet_resized/64x64 --dry-run
    """
    from keras_imnet64.data.tools import cleaning

    result = cleaning.clean(dataset, data_dir=data_dir, cache_dir=cache_dir, dry_run=dry_run)
    if result["removed"] and not as_json:
        show_table(result.pop("removed"), {"what": "what", "bytes": "bytes", "path": "path"})
    show(result, as_json)


@data.command()
@recipe_option
@click.option("--out", type=FILE, required=True, help="The PNG file to write.")
@click.option("--steps", is_flag=True, help="Show each operation side by side.")
@click.option("--pictures", type=int, help="How many; default 32, with --steps 8.")
@click.option("--epoch", default=1, show_default=True, help="Each epoch draws anew.")
@data_options
@json_option
def preview(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path,
    steps: bool,
    pictures: int | None,
    epoch: int,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Draw what a recipe feeds its model, with class names.

    Example: python cli.py data preview --recipe demo --out sheet.png --steps
    """
    from keras_imnet64.backend.devices import choose_backend, hide_gpus_from_tensorflow
    from keras_imnet64.core.library_logs import import_tensorflow
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
            num_images=pictures,
            epoch=epoch,
            data_dir=data_dir,
            cache_dir=cache_dir,
            pack_progress=progress,
        )
    show(result, as_json)
