"""Measures what a model of 20 Tiny ImageNet classes is worth for 20 others: prints a table.

    python benchmarks/transfer.py tiny-imagenet-200.zip WORK_DIR

Run it from the root of the repository. It writes the images of the zip into class folders, prepares
them, and trains the base, `benchmarks/transfer.toml` on the first 20 classes in sorted order. For
the next 20 classes, with 20, 100 and 500 images each and two seeds, it then trains a new head on
the frozen base (recipe `finetune_probe`), all layers of the base (recipe `finetune`), and the same
network from scratch, for as many steps. Every run is a `python cli.py fit` of its own; a run that
is finished is passed over, so the same command resumes. `--base-only` ends after the base, and
`--seeds 1` trains with one seed. The table has top-1 on the 1,000 validation images of the 20
classes, and `training_seconds` of the faster of the two runs.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from keras_imnet64.data.sources import tiny_imagenet

NUM_CLASSES = 20  # of the base, and of the others
SEEDS = (0, 1)
SCRATCH = "benchmarks/transfer.toml"
SIZE = ("data.image_size=32", "evaluation.resize=32", "train.validate_every=0")
EPOCHS = {20: 24, 100: 6, 500: 3}  # of 12, 62 and 312 steps of 32 images, by images of a class


@dataclass(frozen=True)
class Method:
    """A row of the table, the recipe that trains it, and what is set in that recipe."""

    row: str
    name: str
    recipe: str
    settings: Sequence[str] = ()
    starts_from_base: bool = True


METHODS = (
    Method("linear probe", "probe", "finetune_probe"),
    Method("fine-tuned", "finetune", "finetune"),
    Method(
        "from scratch",
        "scratch",
        SCRATCH,
        ("data.batch_size=32", "optimizer.learning_rate=0.01"),
        starts_from_base=False,
    ),
)


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("work_dir", type=click.Path(path_type=Path))
@click.option("--base-only", is_flag=True, help="Prepare the images and train the base alone.")
@click.option("--seeds", default=len(SEEDS), type=click.IntRange(1, len(SEEDS)), show_default=True)
def main(source: Path, work_dir: Path, base_only: bool, seeds: int) -> None:
    prepare(source, work_dir)
    base = fit(work_dir, "base", SCRATCH, dataset_of(None))
    print(f"base: {base['top1']:.1f} % of its own classes, {base['seconds']:.0f} s")
    if base_only:
        return
    rows = [(count, method) for count in EPOCHS for method in METHODS]
    found = {
        (seed, row): train(work_dir, row[1], row[0], seed) for seed in SEEDS[:seeds] for row in rows
    }
    seed_cells = [f"seed {seed}" for seed in SEEDS[:seeds]]
    cells = ["images of each class", "training", "top-1, mean", *seed_cells, "seconds"]
    print(f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}")
    for count, method in rows:
        scores = [found[seed, (count, method)] for seed in SEEDS[:seeds]]
        top1, seconds = ([each[key] for each in scores] for key in ("top1", "seconds"))
        percent = [f"{value:.1f} %" for value in (statistics.mean(top1), *top1)]
        cells = [f"{count}", method.row, *percent, f"{min(seconds):.0f}"]
        print(f"| {' | '.join(cells)} |")


def train(work_dir: Path, method: Method, count: int, seed: int) -> dict[str, float]:
    """Trains one cell of the table; returns its scores."""
    settings = [*SIZE, *method.settings, f"train.epochs={EPOCHS[count]}", f"train.seed={seed}"]
    if method.starts_from_base:
        settings.append(f"model.path={json.dumps(str(work_dir / 'runs/base/model.keras'))}")
    run = f"{method.name}_{count}_{seed}"
    return fit(work_dir, run, method.recipe, dataset_of(count), settings)


def fit(
    work_dir: Path, run: str, recipe: str, dataset: str, settings: Sequence[str] = ()
) -> dict[str, float]:
    """Trains a run unless it is finished; returns {top1, seconds} of its model file."""
    folder = work_dir / "runs" / run
    if not (folder / "metrics.json").is_file():
        options = ["--recipe", recipe, "--out", str(folder), "--no-report"]
        for setting in [f"data.dataset={json.dumps(dataset)}", *settings]:
            options += ["--set", setting]
        command("fit", *options, "--data-dir", str(work_dir / "data"))
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"top1": metrics["model.keras"]["top1"], "seconds": metrics["training_seconds"]}


def dataset_of(count: int | None) -> str:
    """Returns the data set of the other classes with this many images each; None: of the base."""
    return "image_folder/base20" if count is None else f"image_folder/other20_{count}"


def prepare(source: Path, work_dir: Path) -> None:
    """Writes and prepares the class folders of the base and of each number of images."""
    for count in (None, *EPOCHS):
        dataset = dataset_of(count)
        stores = work_dir / "data" / "packed" / dataset.replace("/", "_")
        if all((stores / split / "meta.json").is_file() for split in ("train", "validation")):
            continue
        folder = work_dir / dataset
        write_folders(source, folder, first=0 if count is None else NUM_CLASSES, count=count)
        options = ["--source", str(folder), "--data-dir", str(work_dir / "data")]
        command("data", "prepare", dataset, *options)


def write_folders(source: Path, folder: Path, first: int, count: int | None) -> None:
    """Writes FOLDER/train/WNID and FOLDER/validation/WNID.

    Args:
        first: position of the first of 20 classes, in the sorted order of their ids.
        count: number of training images of each class, the first in the order of their names; None
            for all. Validation images are all 50.
    """
    with tiny_imagenet.open_tree(source) as tree:
        listing = tiny_imagenet.read_listing(tree)
        chosen = sorted(listing.wnids)[first : first + NUM_CLASSES]
        for wnid in chosen:
            for split, limit in (("train", count), ("validation", None)):
                target = folder / split / wnid
                target.mkdir(parents=True, exist_ok=True)
                for name in list(files_of(listing, split, wnid))[:limit]:
                    (target / Path(name).name).write_bytes(tree.read(name))


def files_of(listing: tiny_imagenet.Listing, split: str, wnid: str) -> Iterator[str]:
    """Yields the files of a class in the order of their names."""
    files = zip(listing.files[split], listing.labels[split], strict=True)
    yield from sorted(name for name, label in files if listing.wnids[label] == wnid)


def command(*arguments: str) -> None:
    """Runs `python cli.py` with what it says on standard error, which stays free of the table."""
    subprocess.run([sys.executable, "cli.py", *arguments], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
