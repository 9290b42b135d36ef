"""Compares finished runs and model files: settings, curves, and predictions image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.compare.page import finished_page
from keras_imnet64.compare.result import (
    FinishedCurve,
    FinishedResult,
    Pair,
    ScoredModel,
    Setting,
)
from keras_imnet64.compare.verdict import PairedTest, paired_test
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.paths import check_output_file
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.curves import read_points, scored_images
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.selection import Selection
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.evaluation.evaluate import (
    as_viewed,
    check_model_fits,
    choose_view,
    require_finite,
    select_known_classes,
)
from keras_imnet64.evaluation.prediction_files import (
    StoredPredictions,
    check_alike_images,
    check_predicted_images,
    is_predictions_file,
    read_predictions,
)
from keras_imnet64.evaluation.predictions import predict_branches
from keras_imnet64.models.contract import check_stated_classes, classifier_shape
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.recipe.difference import decisions
from keras_imnet64.recipe.loading import check_recipe
from keras_imnet64.records import Environment, ModelInfo, Scores
from keras_imnet64.runs import Run, model_file, unique_labels


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for the images of a split."""

    scores: Scores
    first_class: np.ndarray  # int32 [N]
    is_right: np.ndarray  # bool [N]


@keras_defaults()
def compare_finished(
    runs_or_models: Sequence[StrPath],
    *,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: Devices | None = None,
    page_file: StrPath | None = None,
    pack_progress: PackProgress | None = None,
) -> FinishedResult:
    """Compares finished runs and model files on the validation split.

    Files of predictions alone are compared on the images of their own split.

    Args:
        runs_or_models: two or more run folders, `.keras` files, or files that `evaluate` has
            written with `predictions`; the others are held against the first.
        page_file: an HTML file to write, which shows the result.
        data_dir, cache_dir, devices, pack_progress: as for `evaluate`.

    Raises:
        UserError: one is no model, is not finished, or is of another data set or other classes.
        RunFailed: the logits of a model are not finite.
    """
    if len(runs_or_models) < 2:
        raise UserError(
            f"a comparison needs two runs or model files, or more; received {len(runs_or_models)}"
        )
    if page_file is not None:
        check_output_file(page_file, ".html")
    stored = list(map(stored_predictions, runs_or_models))
    tables = [each for each in stored if each is not None]
    split = tables[0].split if len(tables) == len(stored) else "validation"
    check_same_split(runs_or_models, stored, split)
    files = [
        Path(path) if each else model_file(path)
        for path, each in zip(runs_or_models, stored, strict=True)
    ]
    labels = unique_labels(runs_or_models)
    infos = infos_of(files, stored, labels)
    dataset = common_dataset(labels, infos)
    environments = [environment_of(path) for path in runs_or_models]
    check_same_images(labels, environments)
    settings = differing_settings(infos, environments)
    curves = [curve_of(label, path) for label, path in zip(labels, runs_or_models, strict=True)]
    if len(tables) == len(stored):  # which hold all that is compared
        found = predictions_in_files(tables, infos[0].wnids or (), labels)
        verified = None
    else:
        store = open_dataset(
            dataset, split, data_dir=data_dir, cache_dir=cache_dir, progress=pack_progress
        )
        check_images_are_here(store, labels, environments)
        found = predictions_of(files, infos, stored, store, devices or take_devices())
        verified = bool(store.verified)
    result = FinishedResult(
        dataset=dataset,
        split=split,
        count=found[0].scores.count,
        verified=verified,
        models=tuple(
            ScoredModel(label, str(file), each.scores)
            for label, file, each in zip(labels, files, found, strict=True)
        ),
        settings=settings,
        pairs=tuple(
            Pair(labels[0], label, paired_predictions(found[0], each))
            for label, each in zip(labels[1:], found[1:], strict=True)
        ),
        curves=tuple(curve for curve in curves if curve is not None),
    )
    if page_file is not None:
        write_atomic(page_file, finished_page(result))
    return result


def stored_predictions(path: StrPath) -> StoredPredictions | None:
    """Returns the content of a file of predictions, None for a run folder or a model file."""
    if not is_predictions_file(path) or Path(path).is_dir():
        return None
    return read_predictions(path)


def check_same_split(
    paths: Sequence[StrPath], stored: Sequence[StoredPredictions | None], split: str
) -> None:
    """Refuses predictions for the images of another split."""
    for path, each in zip(paths, stored, strict=True):
        if each is not None and each.split != split:
            raise UserError(
                f"{path} has predictions for {each.split} images, and those for {split} are "
                "compared"
            )


def infos_of(
    files: Sequence[Path], stored: Sequence[StoredPredictions | None], labels: Sequence[str]
) -> list[ModelInfo]:
    """Returns what model files state; of a file of predictions its data set, in their classes.

    Without model files, the classes are those of all files of predictions: each knows only the
    classes that occur in it.
    """
    stated = [
        None if read else read_model_info(file) for file, read in zip(files, stored, strict=True)
    ]
    known = [info.wnids for info in stated if info is not None and info.wnids]
    in_files = {wnid for read in stored if read is not None for wnid in read.wnids}
    wnids = known[0] if known else tuple(sorted(in_files))
    infos = []
    for label, info, read in zip(labels, stated, stored, strict=True):
        if read is not None:
            read.in_order(wnids, label)
            info = ModelInfo(dataset=read.dataset, wnids=wnids)
        assert info is not None
        infos.append(info)
    return infos


def predictions_of(
    files: Sequence[Path],
    infos: Sequence[ModelInfo],
    stored: Sequence[StoredPredictions | None],
    store: Store,
    devices: Devices,
) -> list[Predictions]:
    """Returns what models and files of predictions predict for the images of a store."""
    found = []
    with devices.scope():
        for file, info, read in zip(files, infos, stored, strict=True):
            selection = select_known_classes(info, store, file)
            if read is None:
                found.append(predict_file(file, info, selection, devices))
            else:
                found.append(predictions_in(read, selection, file))
    return found


def predictions_in_files(
    tables: Sequence[StoredPredictions], wnids: Sequence[str], labels: Sequence[str]
) -> list[Predictions]:
    """Returns the predictions of files for the same images, which need not be on this machine."""
    tops = [table.in_order(wnids, label) for table, label in zip(tables, labels, strict=True)]
    for label, top in zip(labels, tops, strict=True):
        check_alike_images(labels[0], tops[0], label, top)
    return [Predictions(top.scores, top.first_class, top.is_right) for top in tops]


def predictions_in(stored: StoredPredictions, selection: Selection, name: StrPath) -> Predictions:
    """Returns the predictions of a file for the images of a selection."""
    top = stored.in_order(selection.wnids, name)
    check_predicted_images(name, top, selection)
    return Predictions(top.scores, top.first_class, top.is_right)


def common_dataset(labels: Sequence[str], infos: Sequence[ModelInfo]) -> str:
    """Returns the data set that all models state; refuses models of other images or classes."""
    for label, info in zip(labels, infos, strict=True):
        if info.dataset is None:
            raise UserError(
                f"{label} does not state its data set, so it cannot be compared image by image: "
                "compare models that this program has trained"
            )
        if info.dataset != infos[0].dataset:
            raise UserError(
                f"{labels[0]} was trained on {infos[0].dataset} and {label} on {info.dataset}: "
                "compare models of one data set"
            )
        if info.wnids != infos[0].wnids:
            classes = [len(each.wnids or ()) for each in (infos[0], info)]
            raise UserError(
                f"{labels[0]} and {label} have other classes ({classes[0]} and {classes[1]} ids, "
                "or another order): compare models of the same classes"
            )
    assert infos[0].dataset is not None
    return infos[0].dataset


def environment_of(path: StrPath) -> Environment | None:
    """Returns what a run folder states about its processes and images; None for a model file."""
    run = Run(Path(path))
    return run.read_environment() if run.environment_file.is_file() else None


def check_images_are_here(
    store: Store, labels: Sequence[str], environments: Sequence[Environment | None]
) -> None:
    """Refuses other images of a split than those that a run began with."""
    for label, environment in zip(labels, environments, strict=True):
        digest = environment.digest.of(store.split) if environment else store.digest
        if digest != store.digest:
            raise UserError(
                f"the {store.split} images of {store.dataset} are not those of {label} (their "
                f"digests begin with {store.digest[:8]} and {digest[:8]}): name the folder of its "
                "data with --data-dir"
            )


def check_same_images(labels: Sequence[str], environments: Sequence[Environment | None]) -> None:
    """Refuses runs that were trained on other images of a data set of the same name."""
    known = [(label, e.digest.train) for label, e in zip(labels, environments, strict=True) if e]
    for label, digest in known:
        if digest != known[0][1]:
            raise UserError(
                f"{known[0][0]} and {label} were trained on other images (the digests of their "
                f"train splits begin with {known[0][1][:8]} and {digest[:8]}): compare runs on the "
                "same images"
            )


def predict_file(
    file: Path, info: ModelInfo, selection: Selection, devices: Devices
) -> Predictions:
    """Returns what a model file predicts for the images of a selection, in its recipe's view."""
    model = load_model(file)
    shape = classifier_shape(model, file)
    check_stated_classes(info, shape.num_classes, file)
    view = choose_view(info, selection.store, shape.height, None, file)
    check_model_fits(model, selection, file, view)
    network, batch_size = as_viewed(model, devices, view)
    found = predict_branches([network], selection, devices, batch_size, view)
    require_finite(found.scores[0], file)
    return Predictions(found.scores[0], found.first_class[0], found.is_right[0])


def paired_predictions(first: Predictions, second: Predictions) -> PairedTest:
    """Compares the predictions of two models for the same images."""
    return paired_test(first.first_class, second.first_class, first.is_right, second.is_right)


def differing_settings(
    infos: Sequence[ModelInfo], environments: Sequence[Environment | None]
) -> tuple[Setting, ...]:
    """Returns what is not the same in all models: settings of recipes, backends, versions."""
    tables = [
        settings_of(info, environment)
        for info, environment in zip(infos, environments, strict=True)
    ]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [(key, [table.get(key) for table in tables]) for key in keys]
    return tuple(
        Setting(key, tuple(None if value is None else str(value) for value in values))
        for key, values in rows
        if any(value != values[0] for value in values)
    )


def settings_of(info: ModelInfo, environment: Environment | None) -> JsonObject:
    """Returns the settings of a model's recipe and of the process that ended its run, by key."""
    found = decisions(check_recipe(dict(info.recipe))) if info.recipe else {}
    if environment is not None:
        last = environment.processes[-1]
        found |= {"backend": last.backend, "devices": ", ".join(last.devices)}
        found |= {f"version of {name}": version for name, version in last.versions.items()}
    return found


def curve_of(label: str, path: StrPath) -> FinishedCurve | None:
    """Returns the curve of a run folder with scored epochs; None for anything else."""
    run = Run(Path(path))
    if not run.history_file.is_file():
        return None
    curve = read_points(run, "epochs", "val_top1", label)
    if not curve.y:
        return None
    return FinishedCurve(label, scored_images(path), curve.x, curve.y)
