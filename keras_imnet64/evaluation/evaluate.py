"""Scores models on every image of a selection exactly once, for any batch size and device count."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, UserError, first_few, nearest
from keras_imnet64.core.parts import WHOLE, Part
from keras_imnet64.core.paths import check_output_file, expand
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.images.views import View, check_filter
from keras_imnet64.data.selection import Selection, select
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.data.stream import evaluation_batches
from keras_imnet64.evaluation.forward import keras_forward
from keras_imnet64.evaluation.metrics import accuracy_metrics, cross_entropy
from keras_imnet64.evaluation.per_class import ConfusionMatrix, report_classes
from keras_imnet64.evaluation.prediction_files import check_predictions_file, write_predictions
from keras_imnet64.evaluation.top_predictions import predict_top
from keras_imnet64.evaluation.views import NUM_CROPS, WEIGHTS, with_ten_crops, with_views
from keras_imnet64.models.contract import check_stated_classes, classifier_shape, with_logits
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.records import ModelInfo, Scores, ViewScores, ViewSet
from keras_imnet64.runs import Run, model_file

BATCH_SIZE = 256
FULL_SIZE = 256  # pixels per side up to which a batch has so many images


@keras_defaults()
def evaluate(
    run_or_model: StrPath,
    *,
    dataset: str | None = None,
    split: str = "validation",
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: Devices | None = None,
    pack_progress: PackProgress | None = None,
    per_class: StrPath | None = None,
    predictions: StrPath | None = None,
    ten_crop: bool | None = None,
    views: ViewSet | None = None,
) -> JsonObject:
    """Scores a run's model.keras or any `.keras` file on a split of a data set.

    Args:
        run_or_model: a run folder or a model file.
        dataset: default: the one that the model was trained on.
        split: "train" or "validation".
        data_dir: the folder of data sets; None: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        cache_dir: the folder whose `packed` holds the packed stores; None: the data dir.
        devices: what `take_devices` returned; None takes all.
        pack_progress: called as (description, done, total) while a data set is packed.
        ten_crop: whether the model sees each image as its centre, its corners and the mirror image
            of each, and the ten softmax outputs are averaged (Krizhevsky et al., 2012); None
            follows the model's recipe.
        views: "mirror" or "shift" also scores the average over such views of each image, see
            `evaluation.views`; "none" does not; None follows the model's recipe where its data
            and `ten_crop` allow it.
        per_class: a CSV file to write, with the scores of each class; see `per_class.ClassRow`.
        predictions: a .parquet or .csv file to write, with the most probable classes of each image;
            see `prediction_files`.

    Returns:
        dict: top1, top5 (percent), loss (nats), count, classes compared and whether they were
        matched by class id or, for a file without ids, by position; dataset, split, crops (1 or
        10), views, verified. Images of classes that the model does not know are left out, and
        counted in left_out unless its recipe has chosen these classes. With views also top1_views,
        top5_views and loss_views; top1, top5 and loss are those of the image itself all the same.
        With `per_class` also balanced_top1 (percent) and most_confused, see `per_class`; with
        `predictions` also that path.

    Raises:
        UserError: the file is not a model or does not fit the data, or a file cannot be written; or
            `views` is for images of one size, and for one crop of them.
        RunFailed: the model's logits are not finite.
    """
    path = model_file(run_or_model)
    if per_class:
        per_class = expand(per_class)
        check_output_file(per_class, ".csv")
    if predictions:
        predictions = expand(predictions)
        check_predictions_file(predictions)
    if per_class and predictions and Path(per_class).resolve() == Path(predictions).resolve():
        raise UserError(f"per_class and predictions are both {per_class}: give each its own file")
    info = read_model_info(path)
    dataset = dataset_of(info, dataset, path)
    devices = devices or take_devices()
    store = open_dataset(
        dataset, split, data_dir=data_dir, cache_dir=cache_dir, progress=pack_progress
    )
    selection = select_known_classes(info, store, path)
    left_out = 0 if _chose_classes(info, store) else _say_left_out(selection, store, path)
    _say_other_images(Run(expand(run_or_model)), store)
    with devices.scope():
        model = load_model(path)
        shape = classifier_shape(model, path)
        check_stated_classes(info, shape.num_classes, path)
        view = choose_view(info, store, shape.height, ten_crop, path)
        views = choose_views(info, store, view, views)
        check_model_fits(model, selection, path, view)
        confusion = ConfusionMatrix(selection.num_classes) if per_class else None
        extra_metrics = [confusion] if confusion else []
        scores = score_model(model, selection, devices, view, extra_metrics)
        require_finite(scores, path)
        result = asdict(scores)
        if views != "none":
            result |= asdict(score_views(model, selection, devices, views))
        if per_class and confusion:
            result |= report_classes(confusion, selection, per_class)
        if predictions:
            network, batch_size = as_viewed(model, devices, view)
            forward = keras_forward(network)
            found = predict_top(forward, selection, batch_size, view, path)
            write_predictions(predictions, found, selection)
            result["predictions"] = str(predictions)
    if left_out:
        result["left_out"] = left_out
    return {
        **result,
        "matched_by": "class id" if info.wnids else "position",
        "classes": len(set(selection.wnids) & set(store.wnids)),
        "dataset": dataset,
        "split": split,
        "crops": NUM_CROPS if view and view.ten_crop else 1,
        "views": views,
        "verified": bool(store.verified),
        "model": str(path),
    }


# ------------------------------------------------------------------------------ images and classes


def select_known_classes(info: ModelInfo, store: Store, path: StrPath) -> Selection:
    """Returns the images of a store whose classes the model knows.

    Classes are matched by id, and those that the store lacks keep their names in the model. A model
    without ids is assumed to have the store's classes in the store's order.
    """
    if not info.wnids:
        return select(store)
    if not set(info.wnids) & set(store.wnids):
        raise UserError(
            f"{path} and {store.dataset} have no class id in common: the model has "
            f"{info.wnids[0]}, ..., the data {store.wnids[0]}, ..."
        )
    known = select(store, list(info.wnids))
    if not len(known):
        raise UserError(
            f"{store.dataset} {store.split} has no image of a class that {path} knows, so there is "
            "nothing to score"
        )
    names = zip(info.wnids, info.class_names or info.wnids, known.class_names, strict=True)
    in_store = set(store.wnids)
    return replace(
        known, class_names=[theirs if wnid in in_store else own for wnid, own, theirs in names]
    )


def _chose_classes(info: ModelInfo, store: Store) -> bool:
    """Whether the model's recipe takes only some classes of these images (`data.classes`)."""
    data = (info.recipe or {}).get("data")
    return isinstance(data, dict) and "classes" in data and data.get("dataset") == store.dataset


def _say_left_out(selection: Selection, store: Store, path: StrPath) -> int:
    """Says which classes of a store the model does not know; returns the number of their images."""
    known, names = set(selection.wnids), dict(zip(store.wnids, store.class_names, strict=True))
    counts = np.bincount(store.labels, minlength=len(store.wnids))
    unknown = [
        names[wnid]
        for wnid, count in zip(store.wnids, counts, strict=True)
        if count and wnid not in known
    ]
    num_images = len(store) - len(selection)
    if num_images:
        say(
            f"note: {num_images:,} of {len(store):,} images of {store.dataset} {store.split} are "
            f"left out: they are of classes that {path} does not know ({first_few(unknown)})"
        )
    return num_images


def dataset_of(info: ModelInfo, dataset: str | None, path: StrPath) -> str:
    """Returns the data set that the caller names, or else that of a model's file."""
    found = dataset or info.dataset
    if not found:
        raise UserError(f"{path} does not state its data set; name one with --dataset")
    return found


def _say_other_images(run: Run, store: Store) -> None:
    """Says so if a run was begun with other images of this data set than a store has."""
    if not run.environment_file.is_file():
        return
    environment = run.read_environment()
    digest = environment.digest.of(store.split)
    if environment.dataset == store.dataset and digest != store.digest:
        say(
            f"note: these are not the images of {store.dataset} {store.split} with which the run "
            f"began (digest {store.digest[:8]}, then {digest[:8]})"
        )


def choose_view(
    info: ModelInfo,
    store: Store,
    model_size: int | None,
    ten_crop: bool | None,
    path: StrPath,
) -> View | None:
    """Returns how images of a store are shown to a model; None shows them as they are stored.

    Args:
        info: of the model's file.
        model_size: pixels per side that the model takes, None for any size.
        ten_crop: as for `evaluate`.
    """
    view = View.of(info, store.image_size or image_size_of(info, model_size, path))
    check_filter(view.resize_filter)
    if ten_crop is not None:
        view = replace(view, ten_crop=True) if ten_crop else view.one_crop
    if store.image_size and info.resize is None and not info.ten_crop:
        view = replace(view, resize_filter="bilinear")  # enlarges; "box" would repeat pixels
    return view if store.image_size is None or view.ten_crop else None


def choose_views(
    info: ModelInfo, store: Store, view: View | None, views: ViewSet | None
) -> ViewSet:
    """Returns which views of an image are averaged beside its single view; see `evaluate`.

    Raises:
        UserError: the caller asks for views that these images do not have.
    """
    ten_crop = bool(view and view.ten_crop)
    if views is None:
        return "none" if ten_crop or store.image_size is None else info.views or "none"
    if views not in ("none", *WEIGHTS):
        raise UserError(f'there are no views "{views}": {nearest(views, ("none", *WEIGHTS))}')
    if views != "none" and store.image_size is None:
        raise UserError(
            f'views "{views}" are for images of one size, and those of {store.dataset} have any '
            "size: average ten crops of them with --ten-crop"
        )
    if views != "none" and ten_crop:
        raise UserError(
            f'views "{views}" and ten crops exclude each other; average one of the two, with '
            "--views none or with --one-crop"
        )
    return views


def image_size_of(info: ModelInfo, model_size: int | None, path: StrPath) -> int:
    """Returns the pixels per side that a model takes, or was trained on if it takes any size."""
    size = model_size or info.image_size
    if size is None:
        raise UserError(
            f"{path} takes images of any size and does not state the size that it was trained on; "
            "a model with a fixed input size is needed"
        )
    return size


def check_model_fits(
    model: keras.Model, selection: Selection, name: StrPath, view: View | None = None
) -> None:
    """Refuses a model that cannot be scored on these images; `name` is its name in messages."""
    shape = classifier_shape(model, name)
    dataset = selection.store.dataset
    shape.check_size(view.image_size if view else selection.image_size, name, dataset)
    if shape.num_classes != selection.num_classes:
        raise UserError(
            f"{name} gives {shape.num_classes} logits; {dataset} needs one for each of "
            f"{selection.num_classes} classes"
        )


# ---------------------------------------------------------------------------------------- scoring


def score_model(
    model: keras.Model,
    selection: Selection,
    devices: Devices,
    view: View | None = None,
    extra_metrics: Sequence[keras.metrics.Metric] = (),
) -> Scores:
    """Scores a model, which may end in a softmax, as `score_selection` does."""
    network, batch_size = as_viewed(model, devices, view)
    scorer = make_scorer(network, extra_metrics)
    return score_selection(scorer, selection, batch_size, view, devices.cluster.part)


def require_finite(scores: Scores, path: StrPath) -> None:
    """Raises a RunFailed if a model's loss is infinite or no number."""
    if not math.isfinite(scores.loss):
        raise RunFailed(f"{path} gives logits that are not finite")


def as_viewed(model: keras.Model, devices: Devices, view: View | None) -> tuple[keras.Model, int]:
    """Returns a network from images as they are shown to logits, and the size of its batches."""
    if view and view.ten_crop:
        crops = with_ten_crops(with_logits(model), view.image_size)
        return crops, scoring_batch_size(devices, NUM_CROPS, view.image_size)
    size = view.image_size if view else None
    return with_logits(model), scoring_batch_size(devices, image_size=size)


def score_views(
    model: keras.Model, selection: Selection, devices: Devices, views: ViewSet
) -> ViewScores:
    """Scores the average over views of each image, as they are stored; see `evaluation.views`."""
    assert selection.image_size is not None  # recipes and `choose_views` refuse images of any size
    averaged = with_views(with_logits(model), selection.image_size, views)
    batch_size = scoring_batch_size(devices, len(WEIGHTS[views]))
    scorer, part = make_scorer(averaged), devices.cluster.part
    scores = score_selection(scorer, selection, batch_size, part=part)
    return ViewScores(scores.top1, scores.top5, scores.loss)


def make_scorer(
    model: keras.Model, extra_metrics: Sequence[keras.metrics.Metric] = ()
) -> keras.Model:
    """Returns a compiled model that shares the layers of `model`, for `score_selection`.

    The model itself stays uncompiled, so that nothing of the scoring is written into its file.

    Args:
        extra_metrics: Keras metrics that receive the same labels, logits and weights.
    """
    scorer = keras.Model(model.inputs, model.outputs)
    loss = keras.metrics.MeanMetricWrapper(cross_entropy, "cross_entropy")
    scorer.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[loss, *accuracy_metrics(), *extra_metrics],
        jit_compile=keras.config.backend() == "jax",
    )
    return scorer


def score_selection(
    scorer: keras.Model,
    selection: Selection,
    batch_size: int = BATCH_SIZE,
    view: View | None = None,
    part: Part = WHOLE,
) -> Scores:
    """Returns top-1, top-5 and cross-entropy over all images of a selection.

    Args:
        scorer: what `make_scorer` returned for a model, pixels [B, H, W, 3] -> logits [B, K].
        selection: images whose labels are the model's classes.
        batch_size: total over all devices, whose number divides it.
        view: how images are shown, see `stream.evaluation_batches`; for ten crops, `scorer` belongs
            to a model `with_ten_crops`.
        part: the rows of each batch that this process reads, as one of several that score together
            on the devices of all of them.

    Raises:
        RuntimeError: the sum of the images' weights is not the number of images.
    """
    batches = evaluation_batches(selection, batch_size, view, part)
    total, store = len(selection), selection.store
    with as_run_failed(store), Activity(f"scoring {store.dataset} {store.split}") as scoring:
        counter = keras.callbacks.LambdaCallback(
            on_test_batch_begin=lambda batch, logs: scoring.count(batch * batch_size, total)
        )
        result = scorer.evaluate(batches, verbose=0, return_dict=True, callbacks=[counter])
    metrics = {m.name: m for group in scorer.metrics for m in getattr(group, "metrics", [group])}
    count = round(float(keras.ops.convert_to_numpy(metrics["top1"].count)))
    if count != len(selection):
        raise RuntimeError(f"scored {count} images of {len(selection)}")
    return Scores(
        top1=100 * round(result["top1"] * count) / count,  # a whole number of images
        top5=100 * round(result["top5"] * count) / count,
        loss=float(result["cross_entropy"]),
        count=count,
    )


def scoring_batch_size(devices: Devices, num_views: int = 1, image_size: int | None = None) -> int:
    """Returns how many images of `num_views` views each a batch has.

    The views are at most BATCH_SIZE, and fewer if they have more than FULL_SIZE pixels per side,
    unless each device gets a single image; the number of images is a multiple of the number of
    devices.
    """
    enlarged = max(1.0, (image_size or FULL_SIZE) / FULL_SIZE) ** 2
    per_device = int(BATCH_SIZE / enlarged) // devices.count // num_views
    return max(1, per_device) * devices.count
