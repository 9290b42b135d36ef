"""Measures the accuracy of logistic regression on the pixels of a data set, as a baseline.

pip install -c constraints.txt scikit-learn
python benchmarks/logistic_regression.py shapes
python benchmarks/logistic_regression.py tiny_imagenet --classes 20 --data-dir DIR
"""

import warnings

import click
import numpy as np

from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.selection import first_classes, select

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # of regularisation; the best result is reported


@click.command()
@click.argument("dataset")
@click.option("--classes", type=int, help="Number of classes, in sorted order of their ids.")
@click.option("--data-dir")
def main(dataset, classes, data_dir):
    from sklearn.linear_model import LogisticRegression

    warnings.filterwarnings("ignore", message="lbfgs failed to converge")
    stores = [open_dataset(dataset, split, data_dir=data_dir) for split in ("train", "validation")]
    wnids = first_classes(stores[0], classes) if classes else None
    (train, train_labels), (test, test_labels) = (pixels(select(s, wnids)) for s in stores)
    mean, std = train.mean(axis=0), train.std(axis=0)
    train, test = (train - mean) / std, (test - mean) / std
    best = 0.0
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=100).fit(train, train_labels)
        accuracy = 100 * model.score(test, test_labels)
        best = max(best, accuracy)
        click.echo(f"C {strength:g}: top1 {accuracy:.2f} %")
    click.echo(f"{dataset}: logistic regression {best:.2f} % on {len(test_labels)} images")


def pixels(selection):
    positions, labels = selection.look_up(np.arange(len(selection)))
    images, _ = selection.store.gather(positions)
    return images.reshape(len(images), -1).astype("float32"), labels


if __name__ == "__main__":
    main()
