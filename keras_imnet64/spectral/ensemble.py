"""Joins the trained branches of a run folder into one model file.

`members` finds the branches, `fusion` weights them, `report` shows how much each contributes.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import keras

from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_atomic, write_json
from keras_imnet64.core.types import JsonObject, PackProgress, StrPath
from keras_imnet64.core.validation import to_json
from keras_imnet64.evaluation.evaluate import evaluate
from keras_imnet64.export.formats import FORMATS
from keras_imnet64.models.join import fill_members, join
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import EnsembleInfo, Scores
from keras_imnet64.runs import Run, classes_text, lock
from keras_imnet64.spectral.branches import with_band
from keras_imnet64.spectral.fusion import BranchScorer, Fusion, check_fusion
from keras_imnet64.spectral.members import Member, check_same_images, find_members, open_single
from keras_imnet64.spectral.report import single_row, write_report
from keras_imnet64.training.data import Data, load_data
from keras_imnet64.training.scoring import describe_scores, score_file


@keras_defaults()
def ensemble(
    run_dir: StrPath,
    *,
    fusion: Fusion = "avg",
    branches: Sequence[int] | None = None,
    allow_missing: bool = False,
    single: StrPath | None = None,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: Devices | None = None,
    pack_progress: PackProgress | None = None,
) -> JsonObject:
    """Joins the trained branches of a run folder into its model.keras, and reports on them.

    Args:
        run_dir: the folder of `branch-00` and so on.
        fusion: one of FUSIONS.
        branches: numbers of the branches to join; None for all branches of the recipe.
        allow_missing: join only the branches that are finished.
        single: run folder of one network for the whole image, for comparison in the report.
        data_dir, cache_dir: folders of data sets and their stores, see `datasets.open_dataset`.
        devices: what `take_devices` returned; None takes all.
        pack_progress: called as (description, done, total) while a data set is packed.

    Returns:
        dict: the content of metrics.json: the scores of the file, its branches and weights, and
        the images that ranked the branches or fitted their weights.

    Raises:
        UserError: a branch is missing, not finished, or of another recipe, data set or class order;
            `single` is of another data set; or the recipe has no images to rank or fit with.
    """
    run = Run(Path(run_dir))
    members, left_out = find_members(run, branches, allow_missing)
    recipe = members[0].recipe
    check_fusion(fusion, recipe)
    single_run = open_single(single, members[0]) if single else None
    devices = devices or take_devices()
    with lock(run):
        _check_replaceable(run)
        data = load_data(recipe, data_dir, cache_dir, pack_progress)
        check_same_images(members, data)
        with devices.scope():
            models = {member.name: load_model(member.run.model) for member in members}
            scorer = BranchScorer(list(models.values()), data, recipe, devices)
            ranking = scorer.ranking()
            weights = scorer.weights(fusion, ranking)
            rows = scorer.report_rows(members, ranking, weights)
        if single_run:
            scores = evaluate(
                single_run.path,
                ten_crop=False,
                views="none",
                data_dir=data_dir,
                cache_dir=cache_dir,
                devices=devices,
            )
            of_single = Scores(**{field.name: scores[field.name] for field in fields(Scores)})
            rows.append(single_row(single_run, of_single))
        with Activity("joining the branches"):
            joined = join(models, weights)
            fill_members(joined, models)
            _write_run(run, members, joined, fusion, weights, data)
            write_report(run.path, rows)
        with devices.scope():
            file_score = score_file(run.model, data, devices, recipe.evaluation.views)
        result: JsonObject = to_json(describe_scores(recipe, data, devices)) | {
            "fusion": fusion,
            "weights": {m.name: w for m, w in zip(members, weights, strict=True)},
            "left_out": left_out,
            "model.keras": to_json(file_score, omit_none=True),
        }
        write_json(run.metrics_file, result)
    return result


def _check_replaceable(run: Run) -> None:
    """Refuses to replace an ensemble that was exported."""
    for row in FORMATS.values():
        exported = run.path / row.default_name
        if exported.exists():
            raise UserError(
                f"{exported} was exported from the ensemble that this would replace; move it away"
            )


def _write_run(
    run: Run,
    members: Sequence[Member],
    joined: keras.Model,
    fusion: Fusion,
    weights: Sequence[float],
    data: Data,
) -> None:
    """Writes the files that every run folder has: recipe, classes, model.

    A run with a metrics.json counts as finished, so that file is deleted first, and the caller
    writes it last. The page about an earlier ensemble goes with it.
    """
    if run.is_finished:
        say("the earlier ensemble is replaced")
        run.metrics_file.unlink()
        run.report_file.unlink(missing_ok=True)
    first = members[0]
    recipe = with_band(first.recipe, "all")
    bands = tuple(member.band for member in members)
    info = replace(
        first.info,
        recipe=recipe.without_results(),
        ensemble=EnsembleInfo(fusion, bands, tuple(weights)),
    )
    write_atomic(run.recipe_file, recipe.to_toml())
    write_atomic(run.classes_file, classes_text(data.final.class_names))
    ship(joined, run.model, info)
