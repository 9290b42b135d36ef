"""Scoring: every image of a selection exactly once, under any batch size and device count."""

import math
from dataclasses import replace

import keras

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.paths import check_output_file
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.images.views import View, check_filter
from keras_imnet64.data.selection import select
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation import per_class as classwise
from keras_imnet64.evaluation.metrics import accuracy_metrics, cross_entropy
from keras_imnet64.models.contract import contract_of, names_of, with_logits
from keras_imnet64.models.ship import load_model, model_info
from keras_imnet64.runs import model_file

BATCH_SIZE = 256


def make_scorer(model, extra_metrics=()):
    """A compiled model that shares the layers of `model`, for `score` to run again and again.

    The model itself stays uncompiled, so that nothing of ours is written into its file.

    Args:
        extra_metrics: Keras metrics that see the same labels, logits and weights.
    """
    scorer = keras.Model(model.inputs, model.outputs)
    loss = keras.metrics.MeanMetricWrapper(cross_entropy, "cross_entropy")
    scorer.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[loss, *accuracy_metrics(), *extra_metrics],
        jit_compile=keras.config.backend() == "jax",
    )
    return scorer


def score(scorer, selection, batch_size=BATCH_SIZE, view=None):
    """Top-1, top-5 and cross-entropy over all images of a selection.

    Args:
        scorer: what `make_scorer` made of a model, pixels [B, H, W, 3] -> logits [B, K].
        selection: a `Selection` whose labels are the model's classes.
        batch_size: over all devices, which must divide it.
        view: how images are shown, see `stream.evaluation_batches`; with ten crops `scorer` is
            one of a model `with_ten_crops`.

    Returns:
        dict: top1 and top5 in percent, loss in nats, count of images.

    Raises:
        RuntimeError: if the weights that were summed are not one for each image.
    """
    batches = evaluation_batches(selection, batch_size, view)
    with as_run_failed(selection.store):
        result = scorer.evaluate(batches, verbose=0, return_dict=True)
    metrics = {m.name: m for group in scorer.metrics for m in getattr(group, "metrics", [group])}
    counted = round(float(keras.ops.convert_to_numpy(metrics["top1"].count)))
    if counted != len(selection):
        raise RuntimeError(f"scored {counted} images of {len(selection)}")
    return {
        "top1": 100 * round(result["top1"] * counted) / counted,  # a whole number of images
        "top5": 100 * round(result["top5"] * counted) / counted,
        "loss": float(result["cross_entropy"]),
        "count": counted,
    }


def view_for(info, store, model_size, ten_crop, path):
    """How images of a store are shown to a model, or None: as they are stored.

    Args:
        info: what the model's file says about itself.
        model_size: pixels per side that the model takes, None for any.
        ten_crop: as for `evaluate`.
    """
    size = store.image_size or model_size or info.get("image_size")
    if not size:
        raise UserError(
            f"{path} takes images of any size and does not say which it was trained on; a model "
            "with a fixed input size is needed"
        )
    view = View.of(info, size)
    check_filter(view.resize_filter)
    if ten_crop is not None:
        view = replace(view, ten_crop=ten_crop)
    if store.image_size and "resize" not in info:
        view = replace(view, resize_filter="bilinear")  # to enlarge; a box repeats pixels
    return view if store.image_size is None or view.ten_crop else None


def with_ten_crops(model, image_size):
    """A model that averages the softmax of ten crops: [B, 10, S, S, 3] -> log-probabilities."""
    crops = keras.Input((10, image_size, image_size, 3))
    logits = model(keras.ops.reshape(crops, (-1, image_size, image_size, 3)))
    num_classes = logits.shape[-1]
    answers = keras.ops.softmax(keras.ops.reshape(logits, (-1, 10, num_classes)))
    return keras.Model(crops, keras.ops.log(keras.ops.mean(answers, axis=1) + 1e-30))


def ten_crop_batch_size(devices):
    """A tenth of the usual one, or one image for each device."""
    return max(devices.count, scoring_batch_size(devices) // 10 // devices.count * devices.count)


def scoring_batch_size(devices):
    """The largest batch size up to BATCH_SIZE that the devices divide."""
    return BATCH_SIZE // devices.count * devices.count


def check_model_fits(model, selection, who, view=None):
    """Refuse, in a sentence, a model that cannot be scored on these images."""
    height, width, classes = contract_of(model, who)
    size, data = view.image_size if view else selection.image_size, selection.store.dataset
    if (height, width) not in [(size, size), (None, None)]:
        raise UserError(f"{who} takes images of {height} x {width}; {data} has {size} x {size}")
    if classes != selection.num_classes:
        raise UserError(
            f"{who} gives {classes} logits; {data} needs one for each of {selection.num_classes} "
            "classes"
        )


def select_for(info, store, path):
    """The images of a store that a model with this `model_info` can be right about.

    Classes are matched by id, never by position; a model without ids is taken to have the store's.
    """
    if not info.get("wnids"):
        return select(store)
    known = [wnid for wnid in info["wnids"] if wnid in set(store.wnids)]
    if not known:
        raise UserError(
            f"{path} and {store.dataset} have no class id in common: the model has "
            f"{info['wnids'][0]}, ..., the data {store.wnids[0]}, ..."
        )
    return select(store, info["wnids"])


@keras_defaults()
def evaluate(
    run_or_model,
    *,
    dataset=None,
    split="validation",
    data_dir=None,
    cache_dir=None,
    devices=None,
    pack_progress=None,
    per_class=None,
    ten_crop=None,
):
    """Score a run's model.keras or any `.keras` file on a split of a data set.

    Args:
        run_or_model: a run folder or a model file.
        dataset: default: the one that the model was trained on.
        split: "train" or "validation".
        devices: what `take_devices` gave; None takes all.
        ten_crop: whether each image is shown as its centre, its corners and the mirror image of
            each, and the ten softmax outputs are averaged (Krizhevsky et al., 2012); None does as
            the recipe of the model said.
        per_class: a CSV file to write, with the scores of each class; see `per_class.COLUMNS`.

    Returns:
        dict: top1, top5 (percent), loss (nats), count, classes compared and whether they were
        matched by class id or, for a file without ids, by position; dataset, split, crops
        (1 or 10), verified. With `per_class` also balanced_top1 (percent) and most_confused, see
        `per_class`.

    Raises:
        UserError: the file is no model, does not fit the data, or the CSV cannot be written there.
        RunFailed: its logits are not finite.
    """
    path = model_file(run_or_model)
    if per_class:
        check_output_file(per_class, ".csv")
    info = model_info(path)
    dataset = dataset or info.get("dataset")
    if not dataset:
        raise UserError(f"{path} does not say what it was trained on; name a --dataset")
    devices = devices or take_devices()
    where = {"data_dir": data_dir, "cache_dir": cache_dir, "progress": pack_progress}
    store = open_dataset(dataset, split, **where)
    selection = select_for(info, store, path)
    with devices.scope():
        model = load_model(path)
        height, _, num_classes = contract_of(model, path)
        names_of(info, num_classes, path)
        view = view_for(info, store, height, ten_crop, path)
        check_model_fits(model, selection, path, view)
        model = with_logits(model)
        if view and view.ten_crop:
            model = with_ten_crops(model, view.image_size)
        confusion = [classwise.ConfusionMatrix(selection.num_classes)] if per_class else []
        scorer = make_scorer(model, confusion)
        batch_size = scoring_batch_size(devices)
        if view and view.ten_crop:
            batch_size = ten_crop_batch_size(devices)
        result = score(scorer, selection, batch_size, view)
        if not math.isfinite(result["loss"]):
            raise RunFailed(f"{path} gives logits that are not finite")
        if per_class:
            result |= classwise.report(*confusion, selection, per_class)
    return result | {
        "matched_by": "class id" if info.get("wnids") else "position",
        "classes": len(set(selection.wnids) & set(store.wnids)),
        "dataset": dataset,
        "split": split,
        "crops": 10 if view and view.ten_crop else 1,
        "verified": bool(store.verified),
        "model": str(path),
    }
