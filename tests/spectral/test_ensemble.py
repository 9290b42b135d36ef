"""Branches joined into one model: weights by hand, the file against its branches, refusals."""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import SPECTRAL
from export_in_process import run_in_this_process
from PIL import Image
from scipy.special import log_softmax, softmax

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.evaluation.evaluate import evaluate
from keras_imnet64.evaluation.predict import predict
from keras_imnet64.evaluation.predictions import outcomes
from keras_imnet64.export import export
from keras_imnet64.models.info import model_info, read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.models.macs import count_macs
from keras_imnet64.models.ship import ship
from keras_imnet64.models.spectral import kernel
from keras_imnet64.recipe.loading import check_recipe, list_recipes, load_recipe
from keras_imnet64.report import report
from keras_imnet64.runs import Run, lock
from keras_imnet64.spectral.branches import bands_of, branch_folder, branch_recipe
from keras_imnet64.spectral.ensemble import ensemble
from keras_imnet64.spectral.fusion import (
    check_fusion,
    fit_weights,
    geometric,
    mixtures_of_best,
    rank,
)
from keras_imnet64.spectral.report import correlation, read_rows
from keras_imnet64.training.fit import fit
from keras_imnet64.training.setup import training_setup

ROOT = Path(__file__).parents[2]


def test_geometric_weights_are_the_published_ones():
    assert geometric([0, 1, 2, 3]) == pytest.approx([0.3948, 0.2764, 0.1934, 0.1354], abs=5e-5)
    first_of_16 = sorted(geometric(range(16)), reverse=True)[:4]
    assert first_of_16 == pytest.approx([0.3010, 0.2107, 0.1475, 0.1032], abs=6e-5)
    assert geometric([2, 0, 1])[2] == max(geometric([2, 0, 1]))  # the best is branch 2


def test_branches_rank_by_accuracy_and_of_equals_the_first_is_before():
    assert rank([10, 30, 20, 30]) == [1, 3, 2, 0]


def test_mixtures_take_the_best_branches_first():
    found = {mixture.name: mixture.weights for mixture in mixtures_of_best([2, 0, 1])}
    assert list(found) == ["avg of 1", "geo of 1", "avg of 2", "geo of 2", "avg of 3", "geo of 3"]
    assert found["geo of 1"] == [0, 0, 1] and found["avg of 2"] == [0.5, 0, 0.5]
    assert found["geo of 3"] == geometric([2, 0, 1])


def test_fitted_weights_find_the_branch_that_knows():
    """Branch 1 is right with logits half as sure as they should be, branch 0 guesses."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 4000)
    truth = 2.0 * np.eye(5)[labels] + rng.gumbel(size=(4000, 5))  # a softmax of 2 x evidence
    noise = rng.normal(size=(4000, 5))
    logits = np.stack([noise, truth / 2]).astype("float32")
    weights = fit_weights(logits, labels)
    assert weights[0] == pytest.approx(0, abs=0.05)

    def loss(w):
        return -log_softmax(np.tensordot(w, logits, 1), axis=1)[np.arange(4000), labels].mean()

    best = loss(np.array(weights))
    for step in ([0.05, 0], [0, 0.05], [0, -0.05]):
        assert loss(np.maximum(0, np.array(weights) + step)) >= best


@pytest.mark.backend
def test_ranks_and_losses_are_those_of_the_metrics():
    shown, asked = keras.Input((3, 4)), keras.Input((), dtype="int32")
    counter = keras.Model([shown, asked], outcomes(shown, asked))
    logits = np.array([[[1, 3, 2, 3], [0, 0, 0, 0], [0, 0, 0, np.nan]]], "float32")
    found = counter.predict([logits, np.array([3])], verbose=0)
    # Behind the equal one in front; last of four alike; not a number.
    assert found["rank"][:, :2].tolist() == [[1, 3]] and found["rank"][0, 2] > 4
    assert found["first_class"][:, :2].tolist() == [[1, 0]]
    assert found["loss"][0, 1] == pytest.approx(np.log(4))


def test_errors_that_coincide_correlate():
    right = np.array([True, True, False, False])
    assert correlation(right, right) == pytest.approx(1)
    assert correlation(right, np.array([True, False, True, False])) == pytest.approx(0)
    assert correlation(right, np.ones(4, bool)) == 0


# ---------------------------------------------------------------------------------- real branches


@pytest.fixture(scope="module")
def recipe(small_recipe):
    return small_recipe(model=SPECTRAL, data={"holdout": 16}, train={"epochs": 1})


@pytest.fixture(scope="module")
def trained(recipe, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spectral")
    for band in range(4):
        fit(branch_recipe(recipe, band), branch_folder(folder, band), data_dir=data_dir)
    return folder


@pytest.fixture
def branches(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def single(small_recipe, data_dir, tmp_path_factory):
    """A run of one network for the whole image."""
    folder = tmp_path_factory.mktemp("single") / "run"
    return fit(small_recipe(train={"epochs": 1}), folder, data_dir=data_dir)


@pytest.fixture(scope="module")
def join(trained, single, data_dir, tmp_path_factory):
    """(folder, result) of an ensemble of all branches by rank, which stays as it is."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("joined") / "geo")
    return folder, ensemble(folder, fusion="geo", single=single.path, data_dir=data_dir)


@pytest.fixture
def joined(join, tmp_path):
    """The folder of that ensemble, to be changed."""
    return shutil.copytree(join[0], tmp_path / "run")


def check_weighted_sum(folder, result):
    """The file of an ensemble computes it of its branches, and states it."""
    bands = [int(name[-2:]) for name in result["weights"]]
    weights = list(result["weights"].values())
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), "uint8")
    files = [branch_folder(folder, band) / "model.keras" for band in bands]
    alone = [load_model(file)(images) for file in files]
    joined = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_allclose(
        joined(images), np.tensordot(weights, alone, 1), rtol=1e-4, atol=1e-5
    )
    assert model_info(folder / "model.keras")["ensemble"] == {
        "fusion": result["fusion"],
        "branches": bands,
        "weights": weights,
    }


def test_the_file_gives_the_weighted_sum_of_its_branches(join):
    """By rank: the last epoch's accuracy on the held-out images."""
    folder, result = join
    assert list(result["weights"]) == [f"branch-{band:02}" for band in range(4)]
    held_out = [float(Run(branch_folder(folder, b)).history[-1]["val_top1"]) for b in range(4)]
    assert list(result["weights"].values()) == pytest.approx(geometric(rank(held_out)))
    check_weighted_sum(folder, result)


def test_an_ensemble_is_a_model_like_any_other(join, data_dir):
    branches, result = join
    again = evaluate(branches, data_dir=data_dir)
    assert {key: again[key] for key in ("top1", "top5", "count")} == {
        key: result["model.keras"][key] for key in ("top1", "top5", "count")
    }
    assert Run(branches).is_finished


def test_an_ensemble_that_was_exported_is_not_replaced(joined, data_dir, monkeypatch):
    """It is served and seen like any other; its file has Keras' own layers alone."""
    run_in_this_process(monkeypatch)
    with zipfile.ZipFile(joined / "model.keras") as archive:
        assert b"keras_imnet64" not in archive.read("config.json")
    exported = export(joined, "keras", data_dir=data_dir)
    assert exported["compared"]["largest_difference"] < 1e-5
    Image.new("RGB", (16, 16), "red").save(joined / "red.png")
    pixels = np.zeros((1, 16, 16, 3), "uint8") + np.uint8([255, 0, 0])
    logits = load_model(joined / "model.keras").predict(pixels, verbose=0)
    (image,) = predict(joined, [joined / "red.png"], top=10)["images"]
    probabilities = [guess["probability"] for guess in image["top"]]
    assert probabilities == pytest.approx(sorted(softmax(logits[0]), reverse=True), rel=1e-4)
    with pytest.raises(UserError, match=r"exported\.keras was exported from the ensemble"):
        ensemble(joined, fusion="geo", data_dir=data_dir)


@pytest.mark.slow  # single networks have both elsewhere
def test_an_ensemble_has_ten_crops_and_a_saved_model(joined, data_dir, monkeypatch):
    run_in_this_process(monkeypatch)
    assert evaluate(joined, data_dir=data_dir, ten_crop=True)["crops"] == 10
    exported = export(joined, "saved_model", data_dir=data_dir)
    assert exported["compared"]["largest_difference"] < 1e-5


def test_a_file_under_another_bands_name_is_refused(branches, data_dir):
    shutil.copy(
        branch_folder(branches, 2) / "model.keras", branch_folder(branches, 1) / "model.keras"
    )
    with pytest.raises(UserError, match=r"branch-01/model.keras holds band 2"):
        ensemble(branches, data_dir=data_dir)


def test_an_interrupted_ensemble_is_not_finished(joined, data_dir, monkeypatch):
    monkeypatch.setattr("keras_imnet64.spectral.ensemble.score_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensemble(joined, branches=[0, 1], data_dir=data_dir)
    assert not Run(joined).is_finished
    with lock(Run(joined)), pytest.raises(UserError, match="another process"):
        ensemble(joined, data_dir=data_dir)


def interrupted(*_):
    raise KeyboardInterrupt


def test_shipped_spectral_recipes_can_be_joined_by_rank(branches, data_dir):
    """Every shipped recipe of branches can be joined by rank, as its help and reference say."""
    for name in list_recipes():
        recipe = load_recipe(name)
        if bands_of(recipe):
            check_fusion("geo", recipe)
    with pytest.raises(UserError, match='no fusion "gio"; did you mean "geo"'):
        ensemble(branches, fusion="gio", data_dir=data_dir)


def test_the_report_has_a_row_for_each_branch_mixture_and_pair(join, single, data_dir):
    branches, result = join
    rows = list(csv.DictReader((branches / "ensemble.csv").open()))
    kinds = [row["kind"] for row in rows]
    assert [kinds.count(kind) for kind in ("branch", "mixture", "pair")] == [4, 9, 6]
    named = {row["name"]: row for row in rows}
    assert float(named["joined"]["top1"]) == pytest.approx(result["model.keras"]["top1"])
    assert float(named["joined"]["top1"]) == float(named["geo of 4"]["top1"])
    for band in range(4):
        metrics = Run(branch_folder(branches, band)).metrics["model.keras"]
        row = named[f"branch-{band:02}"]
        assert float(row["top1"]) == pytest.approx(metrics["top1"])
        assert float(row["loss"]) == pytest.approx(metrics["loss"], rel=1e-4)
    alone = {}
    images = open_dataset("imagenet_resized/16x16", "validation", data_dir=data_dir)
    for band in range(4):
        model = load_model(branch_folder(branches, band) / "model.keras")
        alone[band] = model.predict(np.asarray(images.images), verbose=0).argmax(axis=1)
        assert int(named[f"branch-{band:02}"]["macs"]) == count_macs(model)
    for row in rows:
        if row["kind"] == "pair":
            a, b = (int(name[-2:]) for name in row["name"].split())
            assert float(row["agreement"]) == pytest.approx(100 * (alone[a] == alone[b]).mean())
            right = [alone[band] == np.asarray(images.labels) for band in (a, b)]
            assert float(row["error_correlation"]) == pytest.approx(correlation(*right), abs=1e-5)
    assert {row["ranked_on"] for row in rows if row["kind"] == "mixture"} == {"holdout"}
    assert (branches / "ensemble.png").read_bytes()[:4] == b"\x89PNG"
    (row,) = [row for row in rows if row["kind"] == "single"]
    assert float(row["top1"]) == pytest.approx(single.metrics["model.keras"]["top1"])
    assert int(row["parameters"]) == 2450
    assert float(row["peak_memory_mb"]) == single.metrics["peak_memory_mb"] > 100


def test_the_page_of_an_ensemble_shows_its_plots(join, data_dir, tmp_path):
    branches, result = join
    rows = read_rows(branches / "ensemble.csv")
    joined = next(row for row in rows if row.name == "joined")
    assert joined.top1 == pytest.approx(result["model.keras"]["top1"]) and joined.weight is None
    report([branches], tmp_path / "page.html", data_dir=data_dir)
    text = (tmp_path / "page.html").read_text()
    for said in ("Mixtures of the best branches.", "branch-03", "errors that agree", "Calibration"):
        assert said in text
    assert f"branch-00: {rows[0].top1:.4g} %</title>" in text
    whole = (branches / "ensemble.csv").read_text()
    for damaged in (
        "kind,name\nbranch,one\n",
        whole.splitlines()[0],
        whole.replace('"branch-00 branch-01"', '"branch-00 branch-09"'),
        whole[: whole.rindex(",")],
    ):
        (tmp_path / "ensemble.csv").write_text(damaged)
        with pytest.raises(UserError, match=r"ensemble.csv is damaged .*run `ensemble` again"):
            read_rows(tmp_path / "ensemble.csv")


def test_branches_of_two_backends_are_joined(branches, recipe, data_dir, tmp_path):
    """One trained by another process under JAX, the rest here: the same sum under either."""
    shutil.rmtree(branch_folder(branches, 1))
    file = tmp_path / "small.toml"
    file.write_text(recipe.to_toml())
    where = ["--data-dir", str(data_dir), "--backend", "jax", "--json"]
    lines = [
        [
            "fit",
            "--recipe",
            str(file),
            "--branch",
            "1",
            "--out",
            str(branches),
            "--no-report",
            *where,
        ],
        ["ensemble", str(branches), "--branches", "0,1", "--no-report", *where],
    ]
    command = [sys.executable, "-c", COMMANDS, json.dumps(lines)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    under_jax = json.loads(done.stdout.splitlines()[-1])
    backends = [Run(branch_folder(branches, band)).metrics["backend"] for band in (0, 1)]
    assert backends == ["tensorflow", "jax"]

    result = ensemble(branches, branches=[1, 0], data_dir=data_dir)
    assert result["weights"] == {"branch-00": 0.5, "branch-01": 0.5}
    check_weighted_sum(branches, result)
    rows = list(csv.DictReader((branches / "ensemble.csv").open()))
    (row,) = [row for row in rows if row["name"] == "branch-01"]
    alone = Run(branch_folder(branches, 1)).metrics["model.keras"]
    assert float(row["top1"]) == pytest.approx(alone["top1"])
    assert float(row["loss"]) == pytest.approx(alone["loss"], rel=1e-4)
    assert (under_jax["backend"], result["backend"]) == ("jax", "tensorflow")
    assert under_jax["model.keras"] == pytest.approx(result["model.keras"], rel=1e-4)


COMMANDS = """
import json, sys
from keras_imnet64.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
"""


def test_a_part_of_the_branches_is_joined_on_request(joined, data_dir, capsys):
    """In the place of an earlier ensemble of all, with weights that are fitted."""
    shutil.rmtree(branch_folder(joined, 2))
    with pytest.raises(UserError, match=r"branch-02 of .* not finished"):
        ensemble(joined, data_dir=data_dir)
    capsys.readouterr()
    Run(joined).report_file.write_text("the page about the earlier one")
    result = ensemble(joined, fusion="fit", allow_missing=True, data_dir=data_dir)
    assert list(result["weights"]) == ["branch-00", "branch-01", "branch-03"]
    assert result["left_out"] == ["branch-02"]
    said = capsys.readouterr().err
    assert "left out, not finished: branch-02" in said
    assert "the earlier ensemble is replaced" in said
    assert not Run(joined).report_file.exists()
    check_weighted_sum(joined, result)


def test_branches_that_do_not_belong_together_are_refused(branches, recipe, data_dir, tmp_path):
    other = Run(branch_folder(branches, 1))
    text = other.recipe_file.read_text()
    other.recipe_file.write_text(text.replace("learning_rate = 0.05", "learning_rate = 0.04"))
    with pytest.raises(UserError, match="branch-01 was trained with another recipe than branch-00"):
        ensemble(branches, data_dir=data_dir)
    other.recipe_file.write_text(text)

    file = branches / "aside.keras"
    other.model.rename(file)
    info = read_model_info(file)
    ship(load_model(file), other.model, replace(info, wnids=info.wnids[::-1]))
    with pytest.raises(UserError, match="branch-01 has its classes in another order than branch-"):
        ensemble(branches, data_dir=data_dir)
    file.rename(other.model)

    environment = other.environment
    changed = environment | {"digest": environment["digest"] | {"train": "0" * 64}}
    other.environment_file.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="branch-01 was trained on other train images"):
        ensemble(branches, data_dir=data_dir)


def test_a_folder_under_another_bands_name_is_refused(branches, data_dir):
    branch_folder(branches, 3).rename(branches / "aside")
    branch_folder(branches, 1).rename(branch_folder(branches, 3))
    (branches / "aside").rename(branch_folder(branches, 1))
    with pytest.raises(UserError, match="branch-01 holds band 3"):
        ensemble(branches, data_dir=data_dir)


@pytest.mark.parametrize("numbers", [[4], [-1, 2], [0, 9]])
def test_numbers_of_no_branch_are_refused(numbers, branches, data_dir):
    with pytest.raises(UserError, match="--branches must be from 0 to 3 for small"):
        ensemble(branches, branches=numbers, data_dir=data_dir)


def test_a_single_network_of_other_classes_is_refused(branches, single, data_dir, tmp_path):
    fewer = Run(shutil.copytree(single.path, tmp_path / "fewer"))
    info = read_model_info(fewer.model)
    ship(load_model(fewer.model), fewer.model, replace(info, wnids=info.wnids[::-1]))
    with pytest.raises(UserError, match=r"--single .*fewer was trained on other classes than the"):
        ensemble(branches, single=fewer.path, data_dir=data_dir)
    with pytest.raises(UserError, match="is not a run folder"):
        ensemble(branches, single=tmp_path / "nowhere", data_dir=data_dir)


def without_holdout(branches, **train):
    """Makes the branches those of a recipe that holds no images out."""
    for band in range(4):
        run = Run(branch_folder(branches, band))
        content = load_recipe(run.recipe_file).model_dump(exclude_none=True)
        content["data"]["holdout"] = 0
        content["train"] |= train
        run.recipe_file.write_text(check_recipe(content).to_toml())


def test_a_paper_that_ranked_on_the_test_split_can_be_repeated(branches, data_dir):
    without_holdout(branches, select_on="validation")
    result = ensemble(branches, fusion="geo", branches=[0, 1], data_dir=data_dir)
    assert result["selected_on"] == "validation"
    final = [Run(branch_folder(branches, b)).metrics["model.keras"]["top1"] for b in (0, 1)]
    assert list(result["weights"].values()) == pytest.approx(geometric(rank(final)))
    with pytest.raises(UserError, match="no score is computed"):
        ensemble(branches, fusion="fit", branches=[0, 1], data_dir=data_dir)


def test_weights_to_begin_with_leave_the_band_as_it_is(trained, recipe, data_dir):
    first = branch_folder(trained, 0) / "model.keras"
    content = branch_recipe(recipe, 2).model_dump(exclude_none=True)
    content["train"] |= {"initial_weights": str(first)}
    network = training_setup(check_recipe(content), data_dir=data_dir).network
    convolution = "stage1_block1_conv1"
    for layer, expected in (
        ("band", kernel(2, 2)),
        (convolution, load_model(first).get_layer(convolution).kernel),
    ):
        found = keras.ops.convert_to_numpy(network.get_layer(layer).kernel)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("normalization", ["dataset", "mean_image"])
def test_a_band_is_normalised_by_what_is_measured_on_it(normalization, small_recipe, data_dir):
    """The inputs of the network behind the band, over all training images."""
    model = SPECTRAL | {"normalization": normalization, "band": 1}
    network = training_setup(small_recipe(model=model), data_dir=data_dir).network
    seen = keras.Model(network.input, network.get_layer("normalization").output)
    images = open_dataset("imagenet_resized/16x16", "train", data_dir=data_dir).images
    values = keras.ops.convert_to_numpy(seen(np.asarray(images)))
    if normalization == "dataset":
        np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(values.std(axis=(0, 1, 2)), 1, atol=1e-4)
    else:
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)


def test_without_images_to_rank_by_only_the_mean_works(branches, data_dir):
    without_holdout(branches)
    for band in (1, 2, 3):
        shutil.rmtree(branch_folder(branches, band))
    for fusion in ("geo", "fit"):
        with pytest.raises(UserError, match=r"data\.holdout"):
            ensemble(branches, fusion=fusion, allow_missing=True, data_dir=data_dir)
    result = ensemble(branches, allow_missing=True, data_dir=data_dir)
    assert result["selected_on"] == "none"


@pytest.mark.parametrize("band", [4, -1])
def test_an_unknown_band_is_refused(band, recipe):
    with pytest.raises(UserError, match="--branch must be from 0 to 3"):
        branch_recipe(recipe, band)


def test_all_bands_are_no_single_run(recipe, data_dir, tmp_path):
    with pytest.raises(UserError, match="has 4 branches, each a run of its own"):
        fit(recipe, tmp_path / "run", data_dir=data_dir)


def test_an_ordinary_recipe_has_no_branches(small_recipe):
    with pytest.raises(UserError, match="recipe small has no branches"):
        branch_recipe(small_recipe(), 0)
