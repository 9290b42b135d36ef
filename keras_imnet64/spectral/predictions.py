"""What branches answer to the images of a split, and what mixtures of their logits would."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation.metrics import rank_of

LOGIT_BYTES = 2**28  # of all branches and mixtures, of the images that are counted at a time


@dataclass(frozen=True)
class BranchPredictions:
    """Of M branches and C mixtures to N images."""

    right: np.ndarray  # bool [M, N], the branch's first class is the label
    first: np.ndarray  # int32 [M, N], the branch's first class
    top5: np.ndarray  # percent [M]
    loss: np.ndarray  # nats [M]
    mixed: list  # C dicts: top1, top5 (percent), loss (nats)

    @property
    def top1(self):
        return 100 * self.right.mean(axis=1)


def predict_branches(models, selection, batch_size, view, mixtures):
    """Look at each image of a selection once.

    Args:
        models: M networks, pixels [B, H, W, 3] -> logits [B, K].
        batch_size: how many images at a time at the most.
        mixtures: floats [C, M], weights of their logits.
    """
    pixels, logits = together(models)
    num_models, num_classes = logits.shape[1:]
    if len(mixtures):
        mixed = ops.einsum("cm,bmk->bck", np.asarray(mixtures, "float32"), logits)
        logits = ops.concatenate([logits, mixed], axis=1)
    most = max(1, LOGIT_BYTES // (4 * logits.shape[1] * num_classes))
    labels = keras.Input((), dtype="int32")
    counter = keras.Model([pixels, labels], count(logits, labels))
    parts = [
        {key: values[real] for key, values in counter.predict_on_batch([shown, asked]).items()}
        for shown, asked, real in batches_of(selection, min(batch_size, most), view)
    ]
    found = {key: np.concatenate([part[key] for part in parts]).T for key in parts[0]}
    alone = {key: values[:num_models] for key, values in found.items()}
    return BranchPredictions(
        right=alone["rank"] == 0,
        first=alone["first"],
        top5=100 * (alone["rank"] < 5).mean(axis=1),
        loss=alone["loss"].mean(axis=1, dtype="float64"),
        mixed=[
            {
                "top1": 100 * float((rank == 0).mean()),
                "top5": 100 * float((rank < 5).mean()),
                "loss": float(loss.mean(dtype="float64")),
            }
            for rank, loss in zip(
                found["rank"][num_models:], found["loss"][num_models:], strict=True
            )
        ],
    )


def logits_of(models, selection, batch_size, view=None):
    """(float32 [M, N, K], labels int [N]) of all images of a selection."""
    seer = keras.Model(*together(models))
    parts = [
        (seer.predict_on_batch(shown)[real], asked[real])
        for shown, asked, real in batches_of(selection, batch_size, view)
    ]
    logits, labels = (np.concatenate(side) for side in zip(*parts, strict=True))
    return np.moveaxis(logits, 1, 0), labels


def together(models):
    """Symbolic pixels [B, H, W, 3], and the logits [B, M, K] of all models."""
    pixels = keras.Input(models[0].input.shape[1:])
    named = [keras.Model(m.input, m.output, name=f"member{i}") for i, m in enumerate(models)]
    return pixels, ops.stack([model(pixels) for model in named], axis=1)


def batches_of(selection, batch_size, view):
    """(pixels, labels, bool: which of them are no filling) of each batch."""
    with as_run_failed(selection.store):
        batches = evaluation_batches(selection, batch_size, view)
        for shown, labels, weights in batches.as_numpy_iterator():
            yield shown, labels, weights > 0


def count(logits, labels):
    """{rank of the label, first class, cross-entropy}, each [B, M], of logits [B, M, K]."""
    own = ops.take_along_axis(logits, ops.reshape(labels, (-1, 1, 1)), axis=2)
    return {
        "rank": rank_of(labels, logits),
        "first": ops.argmax(logits, axis=2),
        "loss": ops.logsumexp(logits, axis=2) - own[..., 0],
    }
