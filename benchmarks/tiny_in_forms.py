"""Writes Tiny ImageNet in every form that `data prepare` takes, prepares each, and compares them.

    python benchmarks/tiny_in_forms.py tiny-imagenet-200.zip WORK_DIR

The zip is prepared first. Every other form has the same files, or pixels, in the order of the zip,
unless its own order is stated, and must end in the same pixels with the same classes. Each row is a
new process of `data prepare`: its seconds from start to end, the processor time of all cores in
them, and the most memory that no file backs (Linux only). Writing is not timed. WORK_DIR needs 8
GB, and what is written there is removed again. `--form NAME` and `--dataset NAME` choose
rows, and `--repeat 3` prints medians.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from packing import anonymous_bytes

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from write_forms import (
    write_csv,
    write_npz_batches,
    write_parquet,
    write_pickle_batches,
    write_webdataset,
)

from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.sources import tiny_imagenet
from keras_imnet64.data.sources.archives import imagenet_wnids, write_archives

SPLITS = ("train", "validation")
TINY, RESIZED, OWN = "tiny_imagenet", "imagenet_resized/64x64", "image_folder/tiny"


class Tiny:
    """The files of the zip, by split: names, contents, labels, and the pixels of its store."""

    def __init__(self, path, data_dir):
        with tiny_imagenet.open_tree(path) as tree:
            listing = tiny_imagenet.read_listing(tree)
            self.wnids, self.labels = listing.wnids, listing.labels
            self.names = listing.files
            self.contents = {s: [tree.read(name) for name in listing.files[s]] for s in SPLITS}
        self.stores = {
            s: open_dataset(TINY, s, data_dir=data_dir, in_memory="never") for s in SPLITS
        }

    def resized_labels(self, split):
        label_of = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
        return np.array([label_of[self.wnids[label]] for label in self.labels[split]])

    def arrays(self, split):
        return self.stores[split].images, self.resized_labels(split)


def to_zips(tiny, folder):
    folder.mkdir()
    parts = [folder / f"Imagenet64_train_part{number}_npz.zip" for number in (1, 2)]
    validation = folder / "Imagenet64_val_npz.zip"
    write_archives(parts, validation, *(tiny.arrays(s) for s in SPLITS), num_batches=10)


def to_npz(tiny, folder):
    write_npz_batches(folder, *(tiny.arrays(split) for split in SPLITS), batches=10)


def to_pickles(tiny, folder):
    write_pickle_batches(folder, *(tiny.arrays(split) for split in SPLITS), batches=10)


def to_parquet(tiny, folder):
    for split, name, shards in (("train", "train", 4), ("validation", "valid", 1)):
        paths = [Path(file).name for file in tiny.names[split]]
        contents, labels = tiny.contents[split], tiny.labels[split]
        write_parquet(folder, name, contents, labels, tiny.wnids, shards, paths)


def to_webdataset(tiny, folder):
    for split, shards in (("train", 20), ("validation", 2)):
        contents, labels = tiny.contents[split], tiny.labels[split]
        keys = [Path(name).stem for name in tiny.names[split]]
        write_webdataset(folder, split, contents, labels, shards, keys)


def to_csv(tiny, folder):
    rows = []
    for split in SPLITS:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for i, (name, content) in enumerate(
            zip(tiny.names[split], tiny.contents[split], strict=True)
        ):
            path = f"images/{Path(name).name}"
            (folder / path).write_bytes(content)
            rows.append((path, tiny.wnids[tiny.labels[split][i]], split))
    write_csv(folder / "labels.csv", rows, ("path", "label", "split"))


def to_folders(tiny, folder):
    for split in SPLITS:
        labels = tiny.labels[split]
        for name, content, label in zip(
            tiny.names[split], tiny.contents[split], labels, strict=True
        ):
            file = folder / split / tiny.wnids[label] / Path(name).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


@dataclass(frozen=True)
class Row:
    """A form, the data set that is prepared from it, and whether rows keep the zip's order."""

    form: str
    dataset: str
    write: Callable[[Tiny, Path], None] | None
    keeps_order: bool = True
    remote: bool = False


ROWS = (
    Row("Tiny ImageNet's files", TINY, None),
    Row("Parquet", TINY, to_parquet),
    Row("Parquet", TINY, to_parquet, remote=True),
    Row("WebDataset", TINY, to_webdataset),
    Row("CSV", TINY, to_csv),
    Row("class folders", TINY, to_folders, keeps_order=False),
    Row("npz batches", RESIZED, to_npz),
    Row("pickle batches", RESIZED, to_pickles),
    Row("zip archives", RESIZED, to_zips, keeps_order=False),
    Row("Parquet", OWN, to_parquet),
    Row("WebDataset", OWN, to_webdataset),
    Row("class folders", OWN, to_folders, keeps_order=False),
)


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("work_dir", type=click.Path(path_type=Path))
@click.option("--form", multiple=True, help="Measure only this form; repeatable.")
@click.option("--dataset", help="Measure only this data set.")
@click.option("--repeat", default=1, show_default=True)
def main(source, work_dir, form, dataset, repeat):
    work_dir.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if not form or row.form in form]
    rows = [row for row in rows if dataset in (None, row.dataset)]
    cells = ["form", "data set", "source, MB", "seconds", "of both cores", "memory, MB"]
    print(f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}")
    zip_data = work_dir / "zip"
    prepare(source, TINY, zip_data)
    tiny = Tiny(source, zip_data)
    for row in rows:
        path = work_dir / "source"
        if row.write:
            row.write(tiny, path)
        measured = [
            prepare(
                f"file://{path.resolve()}" if row.remote else path if row.write else source,
                row.dataset,
                work_dir / "data",
            )
            for _ in range(repeat)
        ]
        seconds, busy, memory = (statistics.median(each) for each in zip(*measured, strict=True))
        check(row, tiny, work_dir / "data")
        size = bytes_of(path if row.write else source)
        name = f"{row.form}, remote (`file://`)" if row.remote else row.form
        figures = f"{size / 1e6:,.0f} | {seconds:.0f} | {busy:.0f} | {memory / 1e6:,.0f}"
        print(f"| {name} | `{row.dataset}` | {figures} |", flush=True)
        shutil.rmtree(work_dir / "data")
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(zip_data)


def prepare(source, dataset, data_dir):
    """Runs `data prepare` anew; returns its seconds, those of all cores, and its memory."""
    shutil.rmtree(data_dir, ignore_errors=True)
    command = [sys.executable, "cli.py", "data", "prepare", dataset, "--source", str(source)]
    command += ["--data-dir", str(data_dir), "--json"]
    command += ["--allow-unverified"] if dataset == RESIZED else []
    begin, before, peak = time.perf_counter(), children_seconds(), 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        while child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(0.05)
        output, errors = child.stdout.read(), child.stderr.read()
    seconds = time.perf_counter() - begin
    if child.returncode:
        raise SystemExit(errors)
    assert sum(json.loads(output)["splits"].values()) == 110_000
    return seconds, children_seconds() - before, peak


def children_seconds():
    """Returns the processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(row, tiny, data_dir):
    """Compares a store with that of the zip: the same pixels and classes, in the same order."""
    for split in SPLITS:
        store = open_dataset(row.dataset, split, data_dir=data_dir, in_memory="never")
        assert store.meta.form == row.form, store.meta.form
        expected = [tiny.wnids[label] for label in tiny.labels[split]]
        found = [store.wnids[label] for label in store.labels]
        if row.dataset == OWN:
            contents = store.read(np.arange(len(store))).tolist()
            pairs, wanted = (
                zip(contents, found, strict=True),
                zip(tiny.contents[split], expected, strict=True),
            )
        else:
            pairs = (
                (image.tobytes(), wnid) for image, wnid in zip(store.images, found, strict=True)
            )
            images = tiny.stores[split].images
            wanted = ((image.tobytes(), wnid) for image, wnid in zip(images, expected, strict=True))
        if row.keeps_order:
            assert all(a == b for a, b in zip(pairs, wanted, strict=True)), row
        else:
            assert sorted(map(hash, pairs)) == sorted(map(hash, wanted)), row


def bytes_of(path):
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
