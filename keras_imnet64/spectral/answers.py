"""What branches answer to the pictures of a split, and what mixtures of their logits would."""

from dataclasses import dataclass

import keras
import numpy as np
from scipy.special import logsumexp

from keras_imnet64.data.decoding import as_run_failed
from keras_imnet64.data.pipeline import evaluation_batches


@dataclass(frozen=True)
class Answers:
    """Of M branches and C mixtures to N pictures."""

    right: np.ndarray  # bool [M, N], the branch's first class is the label
    first: np.ndarray  # int32 [M, N], the branch's first class
    top5: np.ndarray  # percent [M]
    loss: np.ndarray  # nats [M]
    mixed: list  # C dicts: top1, top5 (percent), loss (nats)

    @property
    def top1(self):
        return 100 * self.right.mean(axis=1)


def answers(models, selection, batch_size, view, mixtures):
    """Look at each picture of a selection once.

    Args:
        models: M networks, pixels [B, H, W, 3] -> logits [B, K].
        mixtures: floats [C, M], weights of their logits.
    """
    mixtures = np.asarray(mixtures, "float32").reshape(-1, len(models))
    parts = [
        (count(logits, labels), count(np.tensordot(mixtures, logits, 1), labels))
        for logits, labels in logits_of(models, selection, batch_size, view)
    ]
    alone, mixed = (
        {key: np.concatenate([part[side][key] for part in parts], axis=1) for key in parts[0][side]}
        for side in (0, 1)
    )
    return Answers(
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
            for rank, loss in zip(mixed["rank"], mixed["loss"], strict=True)
        ],
    )


def logits_of(models, selection, batch_size, view=None):
    """(float32 [M, B, K], labels int [B]) of each batch of a selection, each picture once."""
    inputs = keras.Input(models[0].input.shape[1:])
    named = [keras.Model(m.input, m.output, name=f"member{i}") for i, m in enumerate(models)]
    seer = keras.Model(inputs, [model(inputs) for model in named])
    with as_run_failed(selection.store):
        batches = evaluation_batches(selection, batch_size, view)
        for images, labels, weights in batches.as_numpy_iterator():
            real = weights > 0
            logits = seer.predict_on_batch(images)
            logits = logits if isinstance(logits, list | tuple) else [logits]
            yield np.stack([np.asarray(part) for part in logits])[:, real], labels[real]


def count(logits, labels):
    """{rank of the label, first class, cross-entropy}, each [M, B], of logits [M, B, K].

    Equal logits rank by position, as in `evaluation.metrics`.
    """
    own = np.take_along_axis(logits, labels[None, :, None], axis=2)  # [M, B, 1]
    before = np.arange(logits.shape[2]) < labels[:, None]  # [B, K]
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=2)
    return {
        "rank": rank.astype("int32"),
        "first": logits.argmax(axis=2).astype("int32"),
        "loss": logsumexp(logits, axis=2) - own[..., 0],
    }
