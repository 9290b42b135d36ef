"""Computes what networks, and mixtures of their logits, predict for the images of a split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.types import Tensor
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation.forward import keras_forward, predictor
from keras_imnet64.evaluation.metrics import rank_of
from keras_imnet64.records import Scores

MAX_LOGIT_BYTES = 2**28  # of all branches and mixtures, for the images of one batch


@dataclass(frozen=True)
class BranchPredictions:
    """Predictions of M branches for N images, and scores of the branches and of C mixtures."""

    is_right: np.ndarray  # bool [M, N], whether the branch's first class is the label
    first_class: np.ndarray  # int32 [M, N], the class with the largest logit
    scores: list[Scores]  # M
    mixture_scores: list[Scores]  # C


def predict_branches(
    models: Sequence[keras.Model],
    selection: Selection,
    devices: Devices,
    batch_size: int,
    view: View | None = None,
    mixtures: Sequence[Sequence[float]] = (),
) -> BranchPredictions:
    """Shows each image of a selection once to all branches.

    Args:
        models: M networks, pixels [B, H, W, 3] -> logits [B, K].
        devices: within whose scope this is called.
        batch_size: the maximum, total over all devices, whose number divides it; batches are
            smaller where the logits would take much memory.
        view: how images are shown, see `stream.evaluation_batches`.
        mixtures: floats [C, M], weights of the branches' logits.
    """
    pixels, logits = _stacked(models)
    num_models, num_classes = logits.shape[1:]
    if len(mixtures):
        mixed = ops.einsum("cm,bmk->bck", np.asarray(mixtures, "float32"), logits)
        logits = ops.concatenate([logits, mixed], axis=1)  # [B, M + C, K]
    largest = max(1, MAX_LOGIT_BYTES // (4 * logits.shape[1] * num_classes))
    batch_size = max(1, min(batch_size, largest) // devices.count) * devices.count
    labels = keras.Input((), dtype="int32")
    outputs = outcomes(logits, labels)
    predict = predictor(keras.Model([pixels, labels], list(outputs.values())))
    batches = [
        [values[is_real] for values in predict([images, truth])]
        for images, truth, is_real in labelled_batches(selection, batch_size, view)
    ]
    columns = (np.concatenate(parts).T for parts in zip(*batches, strict=True))
    found = dict(zip(outputs, columns, strict=True))
    scores = [
        Scores(
            top1=100 * float((rank == 0).mean()),
            top5=100 * float((rank < 5).mean()),
            loss=float(loss.mean(dtype="float64")),
            count=len(rank),
        )
        for rank, loss in zip(found["rank"], found["loss"], strict=True)
    ]
    return BranchPredictions(
        is_right=found["rank"][:num_models] == 0,
        first_class=found["first_class"][:num_models],
        scores=scores[:num_models],
        mixture_scores=scores[num_models:],
    )


def predict_logits(
    models: Sequence[keras.Model],
    selection: Selection,
    batch_size: int,
    view: View | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits float32 [M, N, K], labels int32 [N]) of all images of a selection.

    Args:
        batch_size: total over all devices, whose number divides it.
    """
    forward = keras_forward(keras.Model(*_stacked(models)))
    batches = [
        (forward(images)[is_real], labels[is_real])
        for images, labels, is_real in labelled_batches(selection, batch_size, view)
    ]
    logits, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return np.ascontiguousarray(np.moveaxis(logits, 1, 0)), labels


def outcomes(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Returns the outcome of each image for M networks, as the outputs of a Keras model.

    Args:
        logits: floats [B, M, K].
        labels: integers [B].

    Returns:
        Tensors [B, M]: rank of the label, first_class, loss (the cross-entropy).
    """
    own = ops.take_along_axis(logits, ops.reshape(labels, (-1, 1, 1)), axis=2)  # [B, M, 1]
    return {
        "rank": rank_of(labels, logits),
        "first_class": ops.argmax(logits, axis=2),
        "loss": ops.logsumexp(logits, axis=2) - own[..., 0],
    }


def _stacked(models: Sequence[keras.Model]) -> tuple[Tensor, Tensor]:
    """Returns symbolic pixels [B, H, W, 3], and the logits [B, M, K] of all models for them."""
    pixels = keras.Input(models[0].inputs[0].shape[1:])
    named = [
        keras.Model(model.inputs[0], model.outputs[0], name=f"member{number}")
        for number, model in enumerate(models)  # one from a file may have lists
    ]
    return pixels, ops.stack([model(pixels) for model in named], axis=1)


def labelled_batches(
    selection: Selection, batch_size: int, view: View | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (pixels, labels, bool [B]: which rows are images, not padding) of each batch."""
    store, num_done = selection.store, 0
    with as_run_failed(store), Activity(f"scoring {store.dataset} {store.split}") as scoring:
        batches = evaluation_batches(selection, batch_size, view)
        for images, labels, weights in batches.as_numpy_iterator():
            scoring.count(num_done, len(selection))
            yield images, labels, weights > 0
            num_done += int((weights > 0).sum())
