"""Counts the images whose likeliest classes differ between `predict` folded and unfolded.

    python benchmarks/folding_agreement.py MODEL --data-dir DIR

MODEL is a run or a `.keras` file that takes images of 64 pixels, of any classes. Both forward
passes see the 10,000 validation images of tiny_imagenet as they are stored. Printed are the images
whose likeliest class differs, those whose five likeliest differ in class or order, and the largest
difference of logits.
"""

import click
import numpy as np
from mistakes import one_sentence

from keras_imnet64.core.errors import UserError


@click.command()
@click.argument("model")
@click.option("--data-dir", help="Where tiny_imagenet is prepared.")
@click.option("--batch-size", type=click.IntRange(1), default=250, show_default=True)
def main(model: str, data_dir: str | None, batch_size: int) -> None:
    with one_sentence():
        count_differences(model, data_dir, batch_size)


def count_differences(model: str, data_dir: str | None, batch_size: int) -> None:
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    devices = take_devices(1)  # several compile no pass of their own
    from keras_imnet64.data.datasets import open_dataset
    from keras_imnet64.data.stores.raw import RawStore
    from keras_imnet64.evaluation.forward import compile_forward, keras_forward
    from keras_imnet64.models.contract import classifier_shape, with_logits
    from keras_imnet64.models.fold import fold_batch_norm
    from keras_imnet64.models.load import load_model
    from keras_imnet64.runs import model_file

    store = open_dataset("tiny_imagenet", "validation", data_dir=data_dir)
    assert isinstance(store, RawStore)  # images of one size are stored as pixels
    images = store.images
    path = model_file(model)
    network = load_model(path)
    shape, (height, width) = classifier_shape(network, path), images.shape[1:3]
    if (shape.height, shape.width) not in [(height, width), (None, None)]:
        raise UserError(
            f"{path} takes images of {shape.height} x {shape.width}: give a model for the "
            f"{height} x {width} of tiny_imagenet"
        )
    network = with_logits(network)
    passes = (compile_forward(fold_batch_norm(network), devices), keras_forward(network))
    folded, unfolded = (
        np.concatenate(
            [
                forward(np.asarray(images[start : start + batch_size]))
                for start in range(0, len(images), batch_size)
            ]
        )
        for forward in passes
    )
    order, expected = (np.argsort(-logits, axis=1, kind="stable") for logits in (folded, unfolded))
    top1 = int((order[:, 0] != expected[:, 0]).sum())
    top5 = int((order[:, :5] != expected[:, :5]).any(axis=1).sum())
    classes = len(np.unique(expected[:, 0]))
    print(
        f"{len(images)} images, {classes} classes among the likeliest: the likeliest class differs "
        f"for {top1}, the five likeliest or their order for {top5}; logits differ by at most "
        f"{np.abs(folded - unfolded).max():.1e} (they span {np.ptp(unfolded):.1f})"
    )


if __name__ == "__main__":
    main()
