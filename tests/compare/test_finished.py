"""Finished runs and model files, held against each other image by image; whole runs of sides."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import WNIDS

from keras_imnet64.compare import scores as module
from keras_imnet64.compare import whole_runs
from keras_imnet64.compare.finished import compare_finished
from keras_imnet64.compare.folder import Comparison
from keras_imnet64.compare.page import finished_page
from keras_imnet64.compare.result import FinalScores, SeedScores
from keras_imnet64.compare.scores import final_scores
from keras_imnet64.compare.sides import Side
from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.files import write_csv, write_json
from keras_imnet64.core.processes import ChildResult
from keras_imnet64.core.validation import to_json
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.evaluation.evaluate import evaluate
from keras_imnet64.models.init import initialize
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import Environment, ModelInfo, PerSplit, ProcessEntry
from keras_imnet64.training.build import make_network

DIGESTS = {}  # of the splits on which runs are scored


@pytest.fixture(scope="module", autouse=True)
def digests(data_dir):
    store = open_dataset("imagenet_resized/16x16", "validation", data_dir=data_dir)
    DIGESTS["validation"] = store.digest


def make_run(folder, recipe, seed, backend="tensorflow", digest="a" * 64):
    """A finished run that nobody has trained: its weights are those of a seed."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    info = ModelInfo(
        dataset="imagenet_resized/16x16", wnids=tuple(WNIDS), recipe=recipe.without_results()
    )
    model = make_network(recipe, image_size=16, num_classes=10)
    initialize(model, seed)
    ship(model, folder / "model.keras", info)
    rows = [{"epoch": epoch, "val_top1": 10.0 * epoch + seed} for epoch in (1, 2, 3)]
    write_csv(folder / "history.csv", ["epoch", "val_top1"], rows)
    environment = Environment(
        dataset="imagenet_resized/16x16",
        verified=PerSplit(False, False),
        digest=PerSplit(digest, DIGESTS["validation"]),
        processes=(ProcessEntry(0, 0, backend, ("CPU:0",), "3.12.1", {"keras": "3.15.1"}),),
    )
    write_json(folder / "environment.json", to_json(environment))
    (folder / "metrics.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def plain_recipe(small_recipe):
    return small_recipe(model={"normalization": "imagenet"})


@pytest.fixture(scope="module")
def runs(plain_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train = plain_recipe.train.model_copy(update={"seed": 1, "epochs": 5})
    other = plain_recipe.model_copy(update={"train": train})
    return [
        make_run(folder / "<b>first", plain_recipe, 0),
        make_run(folder / "second", other, 1, backend="jax"),
    ]


@pytest.fixture(scope="module")
def finished(runs, data_dir):
    """Both runs and the file of the first, held against each other."""
    return compare_finished([*runs, runs[0] / "model.keras"], data_dir=data_dir)


def predicted(run, images):
    return np.argmax(load_model(run / "model.keras").predict(images, verbose=0), axis=1)


def test_predictions_are_compared_image_by_image(finished, runs, data_dir):
    """As counted here from what the two models predict."""
    result = finished
    store = open_dataset("imagenet_resized/16x16", "validation", data_dir=data_dir)
    first, second = (predicted(run, store.images) for run in runs)
    right = first == store.labels, second == store.labels
    test = result.pairs[0].test
    assert result.count == len(store) == 40
    assert test.only_first == (right[0] & ~right[1]).sum()
    assert test.only_second == (right[1] & ~right[0]).sum()
    assert test.agreement == pytest.approx((first == second).mean())
    assert [m.scores.top1 for m in result.models[:2]] == [100 * each.mean() for each in right]
    assert test.only_first + test.only_second > 0  # else the counts say nothing


def test_other_images_than_those_of_the_run_are_noticed(
    plain_recipe, data_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(DIGESTS, "validation", "b" * 64)
    run = make_run(tmp_path / "run", plain_recipe, 0)
    with pytest.raises(UserError, match=r"are not those of run .*and bbbbbbbb\): name the folder"):
        compare_finished([run, run / "model.keras"], data_dir=data_dir)
    evaluate(run, data_dir=data_dir)
    said = capsys.readouterr().err.replace("\n", " ")
    assert "not the images of imagenet_resized/16x16 validation with which the run began" in said
    assert "then bbbbbbbb)" in said and "left out" not in said
    evaluate(run / "model.keras", data_dir=data_dir)
    assert "began" not in capsys.readouterr().err


def test_settings_and_curves_of_runs_stand_beside_each_other(finished):
    result = finished
    assert [m.label for m in result.models] == ["<b>first", "second", "<b>first/model.keras"]
    found = {setting.key: setting.values for setting in result.settings}
    assert found.pop("backend") == ("tensorflow", "jax", None)
    for key in ("devices", "version of keras"):  # which a model file alone does not state
        assert found.pop(key)[2] is None
    assert found == {"train.epochs": ("3", "5", "3"), "train.seed": ("0", "1", "0")}
    assert [(c.label, c.val_top1) for c in result.curves] == [
        ("<b>first", (10.0, 20.0, 30.0)),
        ("second", (11.0, 21.0, 31.0)),
    ]
    same = result.pairs[1].test
    assert (same.only_first, same.only_second, same.p_value, same.agreement) == (0, 0, 1.0, 1.0)


def test_a_curve_says_which_images_it_is_of(runs, plain_recipe, small_recipe, data_dir, tmp_path):
    held_out = small_recipe(model={"normalization": "imagenet"}, data={"holdout": 16})
    other = make_run(tmp_path / "held", held_out, 0)
    result = compare_finished([runs[0], other], data_dir=data_dir)
    assert [c.images for c in result.curves] == ["validation images", "held-out images"]
    assert "Top-1 of the scored images" in finished_page(result)
    assert "held, held-out images" in finished_page(result)


def test_files_of_predictions_are_compared_without_their_images(finished, runs, data_dir, tmp_path):
    """As they are with them, though each file knows only the classes that occur in it."""
    files = []
    for number, folder in enumerate(runs):
        files.append(tmp_path / f"{number}.csv")
        evaluate(folder, data_dir=data_dir, predictions=files[-1])
    expected = finished
    (tmp_path / "empty").mkdir()
    found = compare_finished(files, data_dir=tmp_path / "empty")
    assert found.pairs[0].test == expected.pairs[0].test
    assert [m.scores.top1 for m in found.models] == [m.scores.top1 for m in expected.models[:2]]
    assert (found.count, found.verified) == (40, None) and expected.verified is False
    trains = []
    for file in files:
        trains.append(file.with_name(f"train_{file.name}"))
        trains[-1].write_text(file.read_text().replace('"validation"', '"train"'))
    assert compare_finished(trains).split == "train"
    with pytest.raises(UserError, match="for train images, and those for validation are compared"):
        compare_finished([files[0], trains[1]])
    lines = files[0].read_text().splitlines(keepends=True)
    header = lines[0].strip().split(",")
    last = header.index("class_5")
    rows = list(csv.reader(lines[1:]))
    rows[0][last], rows[0][last + 1] = "n99999999", "seen here alone"
    write_csv(files[0], header, [dict(zip(header, row, strict=True)) for row in rows])
    assert compare_finished(files).pairs[0].test == expected.pairs[0].test
    files[1].write_text("".join(files[1].read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"0.csv and 1.csv have predictions for different images"):
        compare_finished(files)


def test_runs_on_other_images_are_refused(runs, plain_recipe, data_dir, tmp_path):
    other = make_run(tmp_path / "other", plain_recipe, 0, digest="c" * 64)
    with pytest.raises(UserError, match=r"first and other were trained on other images .*aaaaaaaa"):
        compare_finished([runs[0], other], data_dir=data_dir)


def test_the_command_prints_them_and_writes_a_page(runs, data_dir, run, tmp_path):
    command = ("compare", *runs, "--data-dir", data_dir, "--out", tmp_path / "page.html")
    status, text, _ = run(*command)
    assert status == 0
    assert "second against <b>first: no difference" in text and "McNemar's p = " in text
    assert any(line.split() == ["train.epochs", "3", "5"] for line in text.splitlines())
    tags = []
    page = HTMLParser()
    page.handle_starttag = lambda tag, attributes: tags.append(tag)
    page.feed((tmp_path / "page.html").read_text())
    assert tags.count("svg") == 1 and "b" not in tags
    status, text, _ = run(*command, "--json")
    assert json.loads(text)["pairs"][0]["test"]["p_value"] <= 1


# ---------------------------------------------------------------------------- whole runs of sides


@pytest.fixture
def comparison(plain_recipe, data_dir, tmp_path):
    found = Comparison(
        folder=tmp_path / "out",
        recipe=plain_recipe,
        sides=(Side("tensorflow"), Side("jax", devices="2")),
        num_steps=3,
        virtual_devices=2,
        data_dir=str(data_dir),
    )
    found.prepare()
    return found


@pytest.fixture
def fits(monkeypatch, plain_recipe):
    """The command lines of `fit`, in place of whose runs models with drawn weights are made."""
    made, failures = [], {}

    def fit(*command, environment, show_errors):
        options = dict(zip(command[2::2], command[3::2], strict=False))
        made.append(command)
        backend = environment["KERAS_BACKEND"]
        if backend in failures:
            return ChildResult("", failures[backend])
        make_run(Path(options["--out"]), plain_recipe, seed=len(made))
        return ChildResult("{}", None)

    monkeypatch.setattr(module, "run_child", fit)
    fit.made, fit.failures = made, failures
    return fit


def test_each_seed_of_each_side_is_a_run_of_fit(comparison, fits):
    scores = final_scores(comparison, num_epochs=2, num_seeds=2)
    assert [command[1] for command in fits.made] == ["fit"] * 4
    last = " ".join(fits.made[-1])
    assert "--set train.epochs=2 --set train.seed=1" in last
    assert "--backend jax --devices 2 --virtual-devices 2 --data-dir" in last
    assert "--num-processes 1" in last  # also within a launcher's step of several
    assert [side.seeds for side in scores.sides] == [(0, 1), (0, 1)]
    assert [(p.first, p.second) for p in scores.pairs] == [
        ("tensorflow seed 0", "jax@2 seed 0"),
        ("tensorflow seed 1", "jax@2 seed 1"),
    ]
    one, other = scores.sides[0].top1
    assert scores.sides[0].spread == pytest.approx(abs(one - other) / 2**0.5)  # of two
    assert (scores.count, scores.epochs) == (40, 2)
    assert (scores.after, replace(scores, epochs=1).after) == ("2 epochs", "1 epoch")


def test_finished_runs_are_not_trained_again(comparison, fits):
    fits.failures["jax"] = "it ended with status 1"
    with pytest.raises(RunFailed, match=r"side jax@2 with seed 0 failed: .* is kept in"):
        final_scores(comparison, num_epochs=2, num_seeds=1)
    fits.failures.clear()
    final_scores(comparison, num_epochs=2, num_seeds=1)
    assert [command[command.index("--backend") + 1] for command in fits.made] == [
        "tensorflow",
        "jax",
        "jax",
    ]


def test_a_report_shows_the_first_seeds_of_many_runs(comparison):
    """Those of a seed together, in the order of the sides: at most ten runs fit on a page."""
    for seed in range(11):
        for index in (0, 1):
            run = module.run_of(comparison, index, 3, seed).path
            run.mkdir(parents=True)
            (run / "metrics.json").write_text("{}")
    earlier = module.run_of(comparison, 0, 1, 0).path
    earlier.mkdir(parents=True)
    (earlier / "metrics.json").write_text("{}")
    sides = (SeedScores("tensorflow", tuple(range(11)), (0.0,) * 11, (0.0,) * 11),)
    scores = FinalScores(3, "shapes", "validation", 40, True, sides, ())
    assert whole_runs(comparison.folder, None) == []
    found = [f"{run.parent.name}/{run.name}" for run in whole_runs(comparison.folder, scores)]
    assert found[:3] == [
        "1-tensorflow/3-epochs-seed-0",
        "2-jax@2/3-epochs-seed-0",
        "1-tensorflow/3-epochs-seed-1",
    ]
    assert found[-1] == "2-jax@2/3-epochs-seed-10"


def test_a_side_has_its_own_dtype_in_its_runs(comparison, fits):
    sides = (Side("tensorflow"), Side("tensorflow", "mixed_bfloat16"))
    other = replace(comparison, sides=sides, folder=comparison.folder / "other")
    other.prepare()
    final_scores(other, num_epochs=1, num_seeds=1)
    texts = [(other.side_folder(index) / "recipe.toml").read_text() for index in (0, 1)]
    assert ['dtype = "mixed_bfloat16"' in text for text in texts] == [False, True]
