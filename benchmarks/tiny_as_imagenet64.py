"""Writes Tiny ImageNet's images as archives in ImageNet64's official layout and label order.

The archives serve to try the 64-pixel recipes without ImageNet64. Every image keeps its class among
the 1,000. Prepare Tiny ImageNet first; then:

    python benchmarks/tiny_as_imagenet64.py OUT_DIR --train 20000 --validation 128
    python cli.py data prepare imagenet_resized/64x64 --source OUT_DIR --allow-unverified
    python cli.py fit --recipe wrn36_5 --set data.steps_per_epoch=10 --set train.epochs=1
"""

from pathlib import Path

import click
import numpy as np

from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.order import generator
from keras_imnet64.data.sources.archives import imagenet_wnids, write_archives


@click.command()
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--train", default=20_000, show_default=True, help="Training images.")
@click.option("--validation", default=2_000, show_default=True, help="Validation images.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where Tiny ImageNet is packed.")
def main(out_dir, train, validation, data_dir):
    out_dir.mkdir(parents=True, exist_ok=True)
    parts = [out_dir / f"Imagenet64_train_part{number}_npz.zip" for number in (1, 2)]
    write_archives(
        parts,
        out_dir / "Imagenet64_val_npz.zip",
        read_images("train", train, data_dir),
        read_images("validation", validation, data_dir),
        num_batches=10,
    )
    for path in sorted(out_dir.iterdir()):
        click.echo(f"{path}  {path.stat().st_size:,} bytes")


def read_images(split, count, data_dir):
    """Returns `count` images, the same each time, with labels in ImageNet64's order."""
    store = open_dataset("tiny_imagenet", split, data_dir=data_dir, in_memory="never")
    label_of = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    positions = generator(0, 0, split).permutation(len(store))[:count]
    images, labels = store.gather(positions)
    return images, np.array([label_of[store.wnids[label]] for label in labels])


if __name__ == "__main__":
    main()
