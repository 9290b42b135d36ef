"""From trained branches to one model: which belong together, what each weighs, and the file.

A weight is of a branch's logits. "avg" weighs all alike; "geo" by rank, best first, p (1 - p)^rank
with p = 0.3, as published; "fit" minimises the cross-entropy of held-out images. The test split
ranks and fits nothing, unless the recipe selects on it and says so (`train.select_on`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.files import write_atomic, write_json
from keras_imnet64.core.validation import to_json
from keras_imnet64.evaluation.evaluate import BATCH_SIZE, evaluate
from keras_imnet64.export.formats import FORMATS
from keras_imnet64.models import name_of_band
from keras_imnet64.models.joined import fill_members, join
from keras_imnet64.models.ship import load_model, model_info, ship
from keras_imnet64.recipe.difference import difference
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import Run, classes_text, lock, not_finished, open_run
from keras_imnet64.spectral.branches import bands_of, folder_of, is_one_run, with_band
from keras_imnet64.spectral.predictions import logits_of, predict_branches
from keras_imnet64.spectral.report import row_of_single, rows_for, write_report
from keras_imnet64.training.data import load_data
from keras_imnet64.training.scoring import describe_scores, score_file

FUSIONS = ("avg", "geo", "fit")
GEO_P = 0.3
FIT_BYTES = 2**31  # of the logits that weights are fitted on


@dataclass(frozen=True)
class Member:
    """A branch that is trained."""

    band: int
    run: Run
    recipe: Recipe
    info: dict  # of its model file

    @property
    def name(self):
        return self.run.path.name


@keras_defaults()
def ensemble(
    run_dir,
    *,
    fusion="avg",
    branches=None,
    allow_missing=False,
    single=None,
    data_dir=None,
    cache_dir=None,
    devices=None,
    pack_progress=None,
):
    """Join the trained branches of a run folder into its model.keras, and report on them.

    Args:
        run_dir: the folder of `branch-00` and so on.
        fusion: one of FUSIONS.
        branches: numbers of those to join; None for all that the recipe has.
        allow_missing: join those that are finished.
        single: run folder of one network for the whole image, to be compared in the report.
        devices: what `take_devices` gave; None takes all.

    Returns:
        dict: what metrics.json holds: the score of the file, its branches and weights, the images
        that ranked or fitted them.

    Raises:
        UserError: a branch is missing, not finished, or of another recipe, data set or class order;
            `single` is of another data set; or there are no images to rank or fit by.
    """
    run = Run(Path(run_dir))
    members, left_out = find_members(run, branches, allow_missing)
    recipe = members[0].recipe
    check_fusion(fusion, recipe)
    single = single and open_single(single, members[0])
    devices = devices or take_devices()
    with lock(run):
        check_replaceable(run)
        data = load_data(recipe, data_dir, cache_dir, pack_progress)
        check_same_images(members, data)
        models = {member.name: load_model(member.run.model) for member in members}
        judge = BranchScorer(list(models.values()), data, recipe)
        ranking = judge.ranking()
        weights = judge.weights(fusion, ranking)
        report = judge.report(members, ranking, weights)
        if single:
            where = {"data_dir": data_dir, "cache_dir": cache_dir, "devices": devices}
            report.append(row_of_single(single, evaluate(single.path, ten_crop=False, **where)))
        joined = join(models, weights)
        fill_members(joined, models)
        write_run(run, members, joined, fusion, weights, data)
        write_report(run.path, report)
        with devices.scope():
            scores = score_file(run.model, data, devices)
        result = to_json(describe_scores(recipe, data, devices)) | {
            "fusion": fusion,
            "weights": {m.name: w for m, w in zip(members, weights, strict=True)},
            "left_out": left_out,
            "model.keras": to_json(scores, omit_none=True),
        }
        write_json(run.metrics_file, result)
    return result


# ---------------------------------------------------------------------------------------- members


def find_members(run, branches, allow_missing):
    """The finished branches of a folder, of one recipe and one class order; names of the others."""
    if is_one_run(run):
        raise UserError(f"{run.path} holds a run of its own: name the folder that holds branches")
    found = sorted(run.path.glob("branch-*/recipe.toml"))
    present = [file for file in found if file.parent.suffix == ""]  # not those that --fresh keeps
    if not present:
        raise UserError(
            f"{run.path} has no branches: train them with `fit` and a recipe of band all"
        )
    first = load_recipe(present[0])
    there = bands_of(with_band(first, "all"))
    if not there:
        raise UserError(f"{present[0].parent} holds a run of an ordinary recipe, and no branch")
    wanted = sorted(set(branches)) if branches else there
    for band in wanted:
        if band not in there:
            raise UserError(f"--branches takes 0 to {there[-1]} of {first.name}; received {band}")
    missing = [band for band in wanted if not Run(folder_of(run.path, band)).is_finished]
    names = [name_of_band(band) for band in missing]
    if missing and not allow_missing:
        raise UserError(
            f"{', '.join(names)} of {run.path} are not finished: train them with `fit --branch`, "
            "name others with --branches, or join the rest with --allow-missing"
        )
    members = [member_of(run, band) for band in wanted if band not in missing]
    if not members:
        raise UserError(f"no branch of {run.path} is finished")
    for member in members[1:]:
        check_belongs(member, members[0])
    if names:
        say(f"left out, not finished: {', '.join(names)}")
    return members, names


def open_single(path, first):
    """The finished run to compare with; UserError if its scores are not of the same images."""
    run = open_run(path)
    if not run.is_finished:
        raise not_finished(run)
    run.metrics  # noqa: B018 (which is refused now, where it is damaged)
    info = model_info(run.model)
    for what, key in (("data", "dataset"), ("classes", "wnids")):
        if info.get(key) != first.info.get(key):
            raise UserError(
                f"--single {path} was trained on other {what} than the branches: only scores of "
                "the same images compare"
            )
    return run


def member_of(run, band):
    branch = Run(folder_of(run.path, band))
    recipe = load_recipe(branch.recipe_file)
    info = model_info(branch.model)
    in_file = info.get("recipe", {}).get("model", {}).get("band")
    for found, what in ((recipe.model.options.get("band"), branch.path), (in_file, branch.model)):
        if found != band:
            raise UserError(f"{what} holds band {found}: its folder must be named after it")
    return Member(band, branch, recipe, info)


def check_belongs(member, first):
    """Refuse a branch of another recipe or class order than the first."""
    changes = difference(with_band(first.recipe, 0), with_band(member.recipe, 0))
    if changes:
        raise UserError(
            f"{member.run.path} was trained with another recipe than {first.name} "
            f"({'; '.join(changes[:4])}): branches of one recipe belong together"
        )
    if member.info.get("wnids") != first.info.get("wnids"):
        raise UserError(
            f"{member.run.path} has its classes in another order than {first.name}: branches of "
            "one data set belong together"
        )


def check_same_images(members, data):
    """Refuse branches that were trained on other images than those that are here."""
    here = {"train": data.train.store.digest, "validation": data.final.store.digest}
    for member in members:
        found = member.run.environment["digest"]
        changed = [split for split, digest in here.items() if found[split] != digest]
        if changed:
            raise UserError(
                f"{member.run.path} was trained on other {changed[0]} images than those that are "
                "here: branches of the same images belong together"
            )


def check_fusion(fusion, recipe):
    """Refuse weights that there are not, or for which the recipe keeps no images."""
    if fusion not in FUSIONS:
        raise UserError(f'there is no fusion "{fusion}"; {nearest(fusion, FUSIONS)}')
    if fusion == "geo" and recipe.selection == "none":
        raise UserError(
            "--fusion geo ranks branches by accuracy: the recipe needs data.holdout, images kept "
            'aside for it, or train.select_on = "validation", to repeat a paper that ranked on it'
        )
    if fusion == "fit" and recipe.selection != "holdout":
        raise UserError(
            "--fusion fit needs images that no branch was trained on and no score is taken on: set "
            "data.holdout in the recipe"
        )


def check_replaceable(run):
    """Refuse to replace an ensemble that something else was made of."""
    for row in FORMATS.values():
        exported = run.path / row.default_name
        if exported.exists():
            raise UserError(
                f"{exported} was exported from the ensemble that this would replace: move it away"
            )


def write_run(run, members, joined, fusion, weights, data):
    """The files that make the folder a run like any other: recipe, classes, model.

    It is a finished one with its metrics.json, which is deleted first and written last.
    """
    if run.is_finished:
        say("the ensemble that was there is replaced")
        run.metrics_file.unlink()
    first = members[0]
    recipe = with_band(first.recipe, "all")
    info = first.info | {
        "recipe": recipe.model_dump(exclude_none=True, exclude={"reference", "measured"}),
        "ensemble": {
            "fusion": fusion,
            "branches": [member.band for member in members],
            "weights": weights,
        },
    }
    write_atomic(run.recipe_file, recipe.to_toml())
    write_atomic(run.classes_file, classes_text(data.final.class_names))
    ship(joined, run.model, info)


# ---------------------------------------------------------------------------------------- weights


class BranchScorer:
    """Shows the branches the images that rank and fit them, and those of the test split.

    On one device: several would each see the whole of a batch.
    """

    def __init__(self, models, data, recipe):
        self.models, self.data, self.recipe = models, data, recipe
        self.view = data.one_crop_view

    def ranking(self):
        """Positions of the branches, best first, by what the recipe selects on; None without."""
        if self.recipe.selection == "none":
            return None
        found = self.look(self.data.validation, [])
        return rank(found.top1)

    def weights(self, fusion, ranking):
        if fusion == "geo":
            return geometric(ranking)
        if fusion == "fit":
            return self.fitted()
        return [1 / len(self.models)] * len(self.models)

    def fitted(self):
        num_classes, held_out = self.data.num_classes, self.data.validation
        most = max(1, FIT_BYTES // (4 * len(self.models) * num_classes))
        some = held_out.evenly_spaced(most)
        return fit_weights(*logits_of(self.models, some, BATCH_SIZE, self.view))

    def report(self, members, ranking, weights):
        """Rows for `report.COLUMNS`, all scored on the test split with one crop.

        Without images to rank by the order is that of the scores themselves, and says so.
        """
        final = self.data.final
        ranked_on = self.recipe.selection
        if ranking is None:
            ranking, ranked_on = rank(self.look(final, []).top1), "these scores"
        mixtures = {"joined": weights}
        for count in range(1, len(ranking) + 1):
            few = ranking[:count]
            for fusion, shares in (("avg", [1 / count] * count), ("geo", geometric(range(count)))):
                mixture = np.zeros(len(ranking))
                mixture[few] = shares
                mixtures[f"{fusion} of {count}"] = mixture
        found = self.look(final, list(mixtures.values()))
        return rows_for(members, self.models, found, weights, ranked_on, mixtures)

    def look(self, selection, mixtures):
        return predict_branches(self.models, selection, BATCH_SIZE, self.view, mixtures)


def rank(top1):
    """Positions, best first; of equals the one in front."""
    return np.argsort(-np.asarray(top1), kind="stable").tolist()


def geometric(ranking, p=GEO_P):
    """p (1 - p)^rank of each position, made to sum to 1."""
    weights = np.empty(len(ranking))
    weights[ranking] = p * (1 - p) ** np.arange(len(ranking))
    return (weights / weights.sum()).tolist()


def fit_weights(logits, labels):
    """Weights of at least 0 that minimise the mean cross-entropy of weighted sums: a convex task.

    They need not sum to 1: the sum is how sure the ensemble is of itself, the inverse of a
    temperature.

    Args:
        logits: float32 [M, N, K].
        labels: integers [N].
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    count = len(labels)
    own = logits[:, np.arange(count), labels].sum(axis=1, dtype="float64")  # [M]

    def loss(weights):
        mixed = np.tensordot(weights.astype("float32"), logits, 1)  # [N, K]
        value = -log_softmax(mixed, axis=1)[np.arange(count), labels].sum(dtype="float64")
        expected = np.tensordot(logits, softmax(mixed, axis=1), ([1, 2], [0, 1]))  # [M]
        return value / count, (expected - own) / count

    start = np.full(len(logits), 1 / len(logits))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(logits))
    return found.x.tolist()
