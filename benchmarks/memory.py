"""Measures the private memory of the training data over five epochs, for two data set sizes.

    python benchmarks/memory.py                # 20,000 and 80,000 images: 0.25 and 1 GB of disk

Each data set is a memory-mapped store of random images of 64 x 64 pixels. A new process reads it
with `TrainingStream` (pad, crop, mirror, TrivialAugmentWide, batches of 128), and after each epoch
prints the memory that no file backs (Anonymous in /proc/PID/smaps_rollup, so Linux only). If memory
is constant over the epochs, nothing accumulates; if it is about the same for both data sets, memory
holds the draws but not the images.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from packing import anonymous_bytes

SIZE, BATCH, EPOCHS = 64, 128, 5
CHUNK = 1000  # images that are drawn and written together


@click.command()
@click.argument("counts", type=int, nargs=-1)
@click.option("--child", type=click.Path(exists=True), hidden=True)
def main(counts: tuple[int, ...], child: str | None) -> None:
    if child:
        print(json.dumps(list(bytes_after_epochs(child))))
        return
    by_count = {count: measure(count) for count in counts or (20_000, 80_000)}
    epochs = max(max(values[1:]) - min(values[1:]) for values in by_count.values())
    last = [values[-1] for values in by_count.values()]
    print(
        f"difference: among epochs 2 to {EPOCHS} at most {epochs:.1f} MB, "
        f"sizes of the set {max(last) - min(last):.1f} MB after epoch {EPOCHS}"
    )


def measure(count: int) -> list[float]:
    """Writes `count` images, prints and returns the MB after each epoch, and deletes the images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train"
        write_random_images(path, count)
        disk = (path / "images.npy").stat().st_size
        command = [sys.executable, __file__, "--child", str(path)]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    values = [value / 1e6 for value in json.loads(output.splitlines()[-1])]
    figures = " ".join(f"{value:8.1f}" for value in values)
    print(f"{count:9,} images, {disk / 1e6:8,.1f} MB on disk: {figures} MB anonymous", flush=True)
    return values


def write_random_images(path: Path, count: int) -> None:
    from keras_imnet64.data.stores.packing import write_store

    rng = np.random.default_rng(0)
    sizes = [min(CHUNK, count - begin) for begin in range(0, count, CHUNK)]
    write_store(
        path,
        ((rng.integers(0, 256, (n, SIZE, SIZE, 3), "uint8"), np.zeros(n, int)) for n in sizes),
        dataset="drawn",
        split="train",
        count=count,
        image_size=SIZE,
        wnids=["a"],
        class_names=["a"],
        source="random numbers",
        verified=False,
    )


def bytes_after_epochs(path: str) -> Iterator[int]:
    """Yields the anonymous bytes of this process after each epoch over the store."""
    from keras_imnet64.data.augment import check_augment
    from keras_imnet64.data.selection import select
    from keras_imnet64.data.stores.opening import open_store
    from keras_imnet64.data.stream import TrainingStream

    stream = TrainingStream(
        select(open_store(path, in_memory="never")),
        batch_size=BATCH,
        mirror="random",
        augmentation=[check_augment(op, {}, SIZE) for op in ("pad_crop", "trivial_augment")],
    )
    dataset = stream.dataset()
    for epoch in range(EPOCHS):
        stream.begin(epoch)
        for _ in dataset:
            pass
        yield anonymous_bytes(os.getpid())


if __name__ == "__main__":
    main()
