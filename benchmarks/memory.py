"""Private memory of the training data over five epochs, for two sizes of the set on disk.

    python benchmarks/memory.py                # 20,000 and 80,000 images: 0.25 and 1 GB of disk

Each set is drawn images of 64 x 64 pixels in a packed store that is mapped, not loaded; a process
of its own runs `TrainingStream` over it (pad, crop, mirror, TrivialAugmentWide, batches of 128).
After each epoch its memory is what no file backs (Anonymous in /proc/PID/smaps_rollup, so Linux
only). Flat over the epochs: nothing piles up. The same for both sets: the images are not held,
only what is drawn for each.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from packing import anonymous_bytes

SIZE, BATCH, EPOCHS = 64, 128, 5
AT_ONCE = 1000  # images that are drawn and written at a time


@click.command()
@click.argument("counts", type=int, nargs=-1)
@click.option("--child", type=click.Path(exists=True), hidden=True)
def main(counts, child):
    if child:
        print(json.dumps(list(after_each_epoch(child))))
        return
    by_count = {count: megabytes(count) for count in counts or (20_000, 80_000)}
    epochs = max(max(values[1:]) - min(values[1:]) for values in by_count.values())
    last = [values[-1] for values in by_count.values()]
    print(
        f"difference: among epochs 2 to {EPOCHS} at most {epochs:.1f} MB, "
        f"sizes of the set {max(last) - min(last):.1f} MB after epoch {EPOCHS}"
    )


def megabytes(count):
    """MB after each epoch over so many images, which are written, printed and deleted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train"
        write_drawn(path, count)
        disk = (path / "images.npy").stat().st_size
        command = [sys.executable, __file__, "--child", str(path)]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    values = [value / 1e6 for value in json.loads(output.splitlines()[-1])]
    figures = " ".join(f"{value:8.1f}" for value in values)
    print(f"{count:9,} images, {disk / 1e6:8,.1f} MB on disk: {figures} MB anonymous", flush=True)
    return values


def write_drawn(path, count):
    from keras_imnet64.data.stores.packing import write_store

    rng = np.random.default_rng(0)
    sizes = [min(AT_ONCE, count - begin) for begin in range(0, count, AT_ONCE)]
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


def after_each_epoch(path):
    """Anonymous bytes of this process after each epoch over the store."""
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
