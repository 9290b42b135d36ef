"""The page of finished runs: its figures, its pictures, and how it looks in a browser."""

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import browser
import keras
import numpy as np
import pytest
from conftest import WNIDS, learnable_images
from PIL import Image

from keras_imnet64 import pages as page_parts
from keras_imnet64.backend.devices import take_devices
from keras_imnet64.charts import MAX_CELLS
from keras_imnet64.cli.report import reporter
from keras_imnet64.core.errors import UserError, shortened
from keras_imnet64.core.files import write_csv, write_json
from keras_imnet64.core.validation import to_json
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.stores.packing import write_store
from keras_imnet64.evaluation.top_predictions import TopPredictions, top_of
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.init import initialize
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.report import examination, page_of, report
from keras_imnet64.report.card import yaml_of
from keras_imnet64.report.examination import MAX_NAME, examine, short_names
from keras_imnet64.report.image_sections import _distinct, confusion_section
from keras_imnet64.report.network_views import feature_layer, first_filters, grad_cam
from keras_imnet64.report.pictures import png_of
from keras_imnet64.report.reported import ReportedRun
from keras_imnet64.report.subjects import open_subjects
from keras_imnet64.runs import Run
from keras_imnet64.sweep.records import CellRecord, SweepRecord
from keras_imnet64.sweep.results import best_setting, summarize
from keras_imnet64.training.fit import fit

EVIL = '<script>throw "x"</script><img src=x onerror=alert(1)>'
NAMES = [EVIL, "", "a" * 80, "$x_1$", "_b", "\u202eright to left", "c\nd", "e", "f", "f"]
MAX_BYTES = 5_000_000
SCHEMES = ("light", "dark")
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def evil_dir(tmp_path_factory):
    """Images as in `data_dir`, of classes with names that no page should take as they are."""
    folder = tmp_path_factory.mktemp("evil")
    for seed, (split, count) in enumerate({"train": 96, "validation": 40}.items(), start=5):
        write_store(
            folder / "packed" / "imagenet_resized_16x16-unverified" / split,
            [learnable_images(count, 16, seed)],
            dataset="imagenet_resized/16x16",
            split=split,
            count=count,
            image_size=16,
            wnids=WNIDS,
            class_names=NAMES,
            source="drawn by the tests",
            verified=False,
        )
    return folder


@pytest.fixture(scope="module")
def trained(small_recipe, evil_dir, tmp_path_factory):
    """A run of two epochs with 24 images held out."""
    recipe = small_recipe(data={"holdout": 24}, train={"epochs": 2})
    run = fit(recipe, tmp_path_factory.mktemp("runs") / "<b>first", data_dir=evil_dir)
    return run.path


@pytest.fixture(scope="module")
def other(trained):
    """A second run: a copy with the weights of another seed."""
    folder = trained.parent / "second"
    shutil.copytree(trained, folder)
    model = load_model(folder / "model.keras")
    initialize(model, 7)
    ship(model, folder / "model.keras", read_model_info(trained / "model.keras"))
    return folder


@pytest.fixture(scope="module")
def page(trained, evil_dir):
    report([trained], data_dir=evil_dir)
    return (trained / "report.html").read_text()


@pytest.fixture(scope="module")
def two(trained, other, evil_dir, tmp_path_factory):
    """The page of both runs, and what `report` returned."""
    out = tmp_path_factory.mktemp("two") / "two.html"
    return out, report([trained, other], out, data_dir=evil_dir)


@pytest.fixture(scope="module")
def examined(trained, evil_dir):
    (subject,) = open_subjects([trained])
    return examine(subject, store_of(evil_dir), store_of(evil_dir, "train"), take_devices(), 6)


def store_of(data_dir, split="validation"):
    return open_dataset("imagenet_resized/16x16", split, data_dir=data_dir)


def logits_of(run, images):
    return np.asarray(load_model(run / "model.keras")(np.asarray(images)))


def words(page):
    """The text of a page, and its tags."""
    reader = HTMLParser()
    found, tags = [], []
    reader.handle_data = found.append
    reader.handle_starttag = lambda tag, attributes: tags.append(tag)
    reader.feed(page)
    return " ".join(found), tags


# ------------------------------------------------------------------------------------ what it says


def test_predictions_are_those_of_the_model(trained, evil_dir, examined):
    """As Keras alone predicts them, image by image."""
    store, top = store_of(evil_dir), examined.top
    logits = logits_of(trained, store.images)
    shares = np.asarray(keras.ops.softmax(logits))
    assert top.labels.tolist() == store.labels.tolist()
    assert top.first_class.tolist() == logits.argmax(axis=1).tolist()
    assert top.confidence == pytest.approx(shares.max(axis=1), rel=1e-4)
    assert top.label_probability == pytest.approx(shares[np.arange(40), store.labels], rel=1e-3)
    scores = Run(trained).read_metrics().model
    assert 100 * top.is_right.mean() == pytest.approx(scores.top1)
    assert 100 * top.is_in_top5.mean() == pytest.approx(scores.top5)


def test_the_temperature_is_fitted_on_the_images_held_out(trained, evil_dir, examined):
    assert (examined.network.num_train, examined.network.num_held_out) == (72, 24)
    found = examined.temperature
    assert found.count == 24 and found.loss_after <= found.loss_before
    logits = logits_of(trained, store_of(evil_dir).images)
    tempered = np.asarray(keras.ops.softmax(logits / found.value)).max(axis=1)
    assert examined.tempered == pytest.approx(tempered, rel=1e-3)


def test_the_page_has_every_section_and_the_figures_of_the_run(trained, page):
    text, tags = words(page)
    scores = Run(trained).read_metrics().model
    for said in (f"{scores.top1:.2f} %", "NOT VERIFIED", "Most confident mistakes", "72", "24"):
        assert said in text
    for title in ("Curves", "Calibration", "Each class", "What the network sees"):
        assert title in text
    assert f"version of {keras.config.backend()}" in text
    assert tags.count("script") == 1 and EVIL in text
    assert "wide_resnet" in text and "digest of the training images" in text
    assert len(page.encode()) < MAX_BYTES


def test_a_run_without_images_held_out_gets_no_temperature(trained, examined):
    (subject,) = open_subjects([trained])
    without = replace(examined, temperature=None, tempered=None)
    text, _ = words(page_of([ReportedRun(subject, without)]))
    assert "No temperature is fitted" in text and "Logits divided by" not in text


def test_runs_stand_beside_each_other(two, trained, other, evil_dir):
    out, result = two
    assert result["runs"] == ["<b>first", "second"] and result["without_images"] == []
    text, _ = words(out.read_text())
    images = store_of(evil_dir).images
    first, second = (logits_of(run, images).argmax(axis=1) for run in (trained, other))
    agreement = 100 * (first == second).mean()
    assert f"both predict the same class for {agreement:.2f} %" in text
    assert "top-1 (%), second" in text
    assert agreement < 100  # else the figure says little


def test_a_run_is_shown_where_its_images_are_not(trained, tmp_path, run):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "page.html"
    where = ("--data-dir", tmp_path / "empty")
    status, text, errors = run("report", trained, "--out", out, *where, "--json")
    assert status == 0 and json.loads(text)["without_images"] == ["<b>first"]
    assert "the page has no images: imagenet_resized/16x16 is not prepared" in errors
    said, _ = words(out.read_text())
    assert "is not prepared" in said and "Curves" in said and "Calibration" not in said


def test_other_images_under_the_same_name_are_refused(trained, data_dir, tmp_path, monkeypatch):
    """Before any network sees an image: the last of many runs would cost all others' time."""
    monkeypatch.setattr("keras_imnet64.report.examine", None)
    with pytest.raises(UserError, match=r"are not those of <b>first .*--data-dir"):
        report([trained], tmp_path / "page.html", data_dir=data_dir)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("no room\nfor it"), "no room for it"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_page_that_fails_does_not_fail_its_run(
    error, said, trained, evil_dir, monkeypatch, capsys
):
    from keras_imnet64 import report as module

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(module, "report", fail)
    reporter({"data_dir": evil_dir, "cache_dir": None})(Run(trained), take_devices())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"report   not written ({said}): ")


@pytest.mark.parametrize("option", ["--report", "--no-report"])
def test_fit_ends_with_its_page_unless_it_is_told_not_to(
    option, trained, evil_dir, tmp_path, run, monkeypatch
):
    """The training is that of `trained`."""
    from keras_imnet64.training import fit as module

    folder = tmp_path / "run"
    monkeypatch.setattr(module, "fit", lambda *_, **__: Run(shutil.copytree(trained, folder)))
    where = ("--out", folder, "--data-dir", evil_dir)
    (tmp_path / "small.toml").write_text((trained / "recipe.toml").read_text())
    status, _, errors = run("fit", "--recipe", tmp_path / "small.toml", *where, option)
    assert status == 0
    has_line = f"report   {folder}/report.html" in errors
    assert has_line == (option == "--report")


@pytest.mark.parametrize("suffix", ["parquet", pytest.param("csv", marks=pytest.mark.slow)])
def test_predictions_stand_in_for_a_run(suffix, trained, other, evil_dir, tmp_path, run):
    """In `report` and in `compare`, with the same figures as the runs themselves."""
    file, page = tmp_path / f"second.{suffix}", tmp_path / "page.html"
    data = ("--data-dir", evil_dir)
    assert run("evaluate", other, "--predictions", file, *data)[0] == 0
    status, text, errors = run("compare", trained, file, *data)
    assert status == 0, errors
    (line,) = [line for line in text.splitlines() if "McNemar" in line]
    status, text, _ = run("compare", trained, other, *data)
    (expected,) = [line for line in text.splitlines() if "McNemar" in line]
    assert line.replace(file.name, "second") == expected
    assert run("report", file, trained, "--out", page, *data)[0] == 0
    text, _ = words(page.read_text())
    assert file.name in text and "McNemar" in text
    (tmp_path / "empty").mkdir()
    assert run("report", file, "--out", page, "--data-dir", tmp_path / "empty")[0] == 0
    text, tags = words(page.read_text())
    assert "Predictions for all 40 images" in text and "Calibration" in text
    assert "VERIFIED" not in text  # which a file of predictions does not tell
    assert run("report", file, "--out", page, *data)[0] == 0
    assert "NOT VERIFIED" in words(page.read_text())[0]  # its images are here, and are known
    assert "img" not in tags and "Images to look at" not in text


def test_predictions_for_other_images_are_refused(other, evil_dir, data_dir, tmp_path, run):
    file = tmp_path / "second.csv"
    assert run("evaluate", other, "--predictions", file, "--data-dir", evil_dir)[0] == 0
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    for command in ("report", "compare"):
        runs = (other, file, "--data-dir", evil_dir, "--out", tmp_path / "page.html")
        status, _, error = run(command, *runs)
        assert status == 2
        assert "has predictions for other images than those of imagenet_resized/16x16" in error
    file.write_text(lines[0] + lines[1].replace(WNIDS[0], "n99999999"))
    status, _, error = run("report", other, file, "--data-dir", evil_dir)
    assert status == 2 and "has predictions for other classes: n99999999" in error
    whole = tmp_path / "whole.csv"
    whole.write_text("".join(lines))
    file.write_text("".join(lines[:-1]))
    (tmp_path / "empty").mkdir()
    nowhere = ("--data-dir", tmp_path / "empty", "--out", tmp_path / "page.html")
    status, _, error = run("report", whole, file, *nowhere)
    assert status == 2 and "have predictions for different images (40 and 39" in error
    assert not (tmp_path / "page.html").exists()


def test_a_sweep_shows_its_settings_and_the_runs_of_the_best(
    trained, evil_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweep"
    shutil.copytree(trained, folder / "cell-001")
    keys = {"optimizer.learning_rate": [0.01, 0.05], "loss.l2": [0.0, 1e-4]}
    settings = [dict(zip(keys, each, strict=True)) for each in product(*keys.values())]
    cells = [
        CellRecord(n, f"cell-{n:03}", values, 0, "finished", val_top1=top1, epochs=2)
        for n, (values, top1) in enumerate(zip(settings, (10.0, 40.0, 30.0, 20.0), strict=True))
    ]
    summary = summarize(cells, 1)
    record = SweepRecord(
        name=EVIL, recipe="", keys=keys, ranges={}, seeds=[0], trials=None, held_out=24,
        cells=cells, settings=summary, best=best_setting(summary),
    )  # fmt: skip
    write_json(folder / "sweep.json", to_json(record))
    result = report([folder], tmp_path / "page.html", data_dir=evil_dir)
    assert result["runs"] == ["cell-001"]
    text, tags = words((tmp_path / "page.html").read_text())
    assert "4 of 4 cells are finished" in text and "40.00" in text and "Calibration" in text
    assert tags.count("script") == 1 and "0.0001" in text
    empty = tmp_path / "empty"  # of images, which the pages below are not about
    empty.mkdir()
    result = report([folder], data_dir=empty)  # a page of its own, and not that of the cell
    assert Path(result["out"]) == folder / "report.html"
    plain = to_json(record)
    few = plain | {"settings": plain["settings"][:1]}
    for damaged, said in (
        (few | {"best": 1}, "its best setting is not among its settings"),
        (plain | {"cells": plain["cells"][:2]}, "the cells of a setting are not among its cells"),
    ):
        write_json(folder / "sweep.json", damaged)
        with pytest.raises(UserError, match=f"damaged .{said}"):
            report([folder], tmp_path / "page.html", data_dir=evil_dir)
    write_json(folder / "sweep.json", plain | {"cells": [], "settings": [], "best": None})
    result = report([folder], tmp_path / "page.html", data_dir=empty)
    text, _ = words((tmp_path / "page.html").read_text())
    assert "have not been summed up yet: run the command that began it" in text
    (folder / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=r"sweep\.json"):
        report([folder], tmp_path / "page.html", data_dir=evil_dir)


def test_curves_say_which_images_they_are_of(page):
    """24 training images are held out, and the scores of epochs are of these."""
    text, _ = words(page)
    assert "held-out images" in text and "validation training" not in text


def test_a_temperature_is_fitted_on_few_of_many_held_out_images(trained, evil_dir, monkeypatch):
    """The page still says how many are held out."""
    monkeypatch.setattr(examination, "MAX_FITTED", 10)
    (subject,) = open_subjects([trained])
    found = examine(subject, store_of(evil_dir), store_of(evil_dir, "train"), take_devices(), 6)
    assert (found.temperature.count, found.network.num_held_out) == (10, 24)


def test_bars_of_classes_with_equal_names_stay_apart():
    assert _distinct(["f", "f (2)", "f"]) == ["f", "f (2)", "f (3)"]


def test_long_names_are_shortened(examined):
    """So that no page grows with them: `NAMES` has one of 80 characters."""
    assert "a" * MAX_NAME in examined.class_names
    assert short_names(["x" * 9000, "short"]) == (shortened("x" * 9000, MAX_NAME), "short")


def test_the_maps_of_ten_runs_leave_room_on_their_page(trained, examined):
    """Of 40 classes that are all taken for each other; a single run shows each count."""
    rng = np.random.default_rng(0)
    labels = np.arange(20_000, dtype="int32") % 40
    logits = rng.normal(size=(len(labels), 40)).astype("float32")
    top = TopPredictions(np.arange(len(labels)), *top_of(logits, labels))
    names = tuple(f"class {number}" for number in range(40))
    (subject,) = open_subjects([trained])
    run = ReportedRun(subject, replace(examined, wnids=names, class_names=names, top=top))
    alone, ten = (confusion_section([run] * count) for count in (1, 10))
    assert "images of class 7 taken for class" in alone and "taken for class" not in ten
    assert len(alone) < 2_000_000 and len(ten) < 2_000_000


def test_both_halves_of_a_pair_keep_their_size():
    """An image of 64 pixels beside its Grad-CAM, and one of 512 pixels."""
    for side, shown in ((64, 64), (512, 96), (8, 8)):
        pair = np.zeros((side, 2 * side, 3), "uint8")
        assert Image.open(io.BytesIO(png_of(pair))).size == (2 * shown, shown)


def test_a_damaged_history_is_refused(trained, evil_dir, tmp_path, run, monkeypatch):
    """By `report` and by `compare`, in one sentence each, before any network is loaded."""
    for module in ("report.examination", "compare.finished"):
        monkeypatch.setattr(f"keras_imnet64.{module}.load_model", None)
    folder = shutil.copytree(trained, tmp_path / "run")
    header, *rows = csv.reader((folder / "history.csv").read_text().splitlines())
    where = ("--data-dir", evil_dir, "--out", tmp_path / "page.html")
    for column, commands in (
        ("val_top1", (("report", folder), ("compare", folder, trained))),
        ("step", [("report", folder)]),
        ("epoch", [("report", folder), ("compare", folder, trained)]),
    ):
        damaged = [dict(zip(header, row, strict=True)) for row in rows]
        damaged[1][column] = "x1"
        write_csv(folder / "history.csv", header, damaged)
        for command in commands:
            status, _, error = run(*command, *where)
            assert status == 2 and f"history.csv is damaged: its column {column}" in error
            assert not (tmp_path / "page.html").exists()


def test_the_card_has_a_head_that_hubs_read(trained, tmp_path, run):
    yaml = pytest.importorskip("yaml")
    file = tmp_path / "README.md"
    options = ("--card", "--out", file, "--license", "cc-by-nc-4.0")
    assert run("report", trained, *options)[0] == 0
    _, head, body = file.read_text().split("---\n", 2)
    found = yaml.safe_load(head)
    scores = Run(trained).read_metrics().model
    (model,) = found.pop("model-index")
    assert found == {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "license": "cc-by-nc-4.0",
        "tags": ["image-classification", "keras", "keras_imnet64"],
        "metrics": ["accuracy"],
    }
    (result,) = model["results"]
    assert model["name"] == "<b>first"
    assert result["dataset"]["name"] == "imagenet_resized/16x16, 10 of its classes (not verified)"
    assert [m["value"] for m in result["metrics"]] == pytest.approx([scores.top1, scores.top5])
    for said in ("# `<b>first`", "NOT VERIFIED", f"| {scores.top1:.2f} |", "Intended use"):
        assert said in body
    assert "`best.keras`, measured, epoch" in body  # chosen on images held out
    metrics = json.loads(Run(trained).metrics_file.read_text())
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    write_json(Run(other).metrics_file, metrics | {"selected_on": "none"})
    assert run("report", other, "--card", "--out", tmp_path / "CARD.md")[0] == 0
    assert "best.keras`, measured" not in (tmp_path / "CARD.md").read_text()
    published = {"dataset": "tiny_imagenet", "verified": True, "crops": 10}
    write_json(Run(other).metrics_file, metrics | published)
    assert run("report", other, "--card", "--out", tmp_path / "TINY.md")[0] == 0
    card = (tmp_path / "TINY.md").read_text()
    assert "of 10 of the 200 classes of tiny_imagenet" in card and "ten crops of each" in card
    assert "zh-plus" not in card  # whose score this is not
    status, _, error = run("report", trained, *options)
    assert status == 2 and "README.md exists and is never overwritten" in error
    assert yaml.safe_load(yaml_of({"name": "demo-\U0001f680 é"})) == {"name": "demo-\U0001f680 é"}


# ---------------------------------------------------------------------------- what a network sees


@pytest.mark.backend
def test_grad_cam_is_the_gradient_of_the_logit():
    """Behind a global pool and a dense layer it is known: the weights of the class."""
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="features")(pixels)
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, keras.layers.Dense(3, name="logits")(pooled))
    initialize(model, 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
    classes = np.array([2, 0])
    features = keras.Model(pixels, x).predict(images, verbose=0)
    weights = keras.ops.convert_to_numpy(model.get_layer("logits").kernel)[:, classes].T  # [B, C]
    expected = np.maximum((features * weights[:, None, None]).sum(axis=3), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    assert expected.any()
    assert grad_cam(model, images, classes) == pytest.approx(expected, abs=1e-4)
    filters = keras.ops.convert_to_numpy(model.get_layer("features").kernel)
    assert first_filters(model)[1] == pytest.approx(filters[..., 1])


def test_networks_of_users_have_grad_cam_or_none():
    pixels, images = keras.Input((8, 8, 3)), np.zeros((1, 8, 8, 3), "uint8")
    first = keras.layers.Conv2D(4, 3)(pixels)
    second = keras.layers.Conv2D(4, 3)(first)
    pooled = [keras.layers.GlobalAveragePooling2D()(x) for x in (first, second)]
    two = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Concatenate()(pooled)))
    assert feature_layer(two) is not None and grad_cam(two, images, np.zeros(1, int)) is None
    inside = keras.Input(first.shape[1:])
    block = keras.Model(inside, keras.layers.Conv2D(4, 3)(inside))
    logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(block(first)))
    assert grad_cam(keras.Model(pixels, logits), images, np.zeros(1, int)).shape == (1, 4, 4)


def test_networks_without_a_last_map_have_no_grad_cam():
    pixels = keras.Input((4, 4, 3))
    flat = keras.layers.Dense(2)(keras.layers.Flatten()(pixels))
    assert feature_layer(keras.Model(pixels, flat)) is None
    mapped = keras.layers.Conv2D(4, 3)(pixels)
    tokens = keras.layers.Reshape((4, 4))(mapped)
    mixed = keras.layers.MultiHeadAttention(1, 2)(tokens, tokens)
    attentive = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Flatten()(mixed)))
    assert feature_layer(attentive) is None
    assert first_filters(keras.Model(pixels, flat)) is None
    bands = keras.Input((4, 4, 6))  # which are no colours
    assert first_filters(keras.Model(bands, keras.layers.Conv2D(4, 1)(bands))) is None


# ---------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def tab():
    """A page of headless Chromium."""
    program = browser.find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed: `apt-get install chromium` lets this test look")
    with browser.chromium(program) as page:
        yield page


@pytest.fixture(scope="module")
def thousand(trained, examined, tmp_path_factory):
    """The page of a run as it would be with 1,000 classes and 5,000 images."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(1000, dtype="int32"), 5)
    logits = rng.normal(size=(5000, 1000)).astype("float32")
    logits[np.arange(5000), labels] += 4
    ids = tuple(f"n{number:08}" for number in range(1000))
    names = tuple(f"class {name}, also x" for name in ids)
    top = TopPredictions(np.arange(5000), *top_of(logits, labels))
    (subject,) = open_subjects([trained])
    many = replace(examined, wnids=ids, class_names=names, top=top, tempered=top.confidence)
    file = tmp_path_factory.mktemp("thousand") / "page.html"
    file.write_text(page_of([ReportedRun(subject, many)]))
    return file


@pytest.fixture(scope="module")
def pages(page, trained, two, thousand):
    return {"one": trained / "report.html", "two": two[0], "thousand": thousand}


CLICK = """
(() => {
  const clicked = document.querySelectorAll("summary, th button, .tabs label, nav a");
  for (const each of clicked) each.click();
  return clicked.length;
})()
"""
OVERFLOW = """
document.documentElement.scrollWidth > document.documentElement.clientWidth
  ? [...document.querySelectorAll("body *")]
      .filter(e => e.getBoundingClientRect().right > innerWidth && !e.closest(".scroll, pre"))
      .map(e => e.outerHTML.slice(0, 80))
  : []
"""


def test_the_browser_sees_what_is_wrong_with_a_page(tab, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text(
        '<img src="http://127.0.0.1:9/x.png"><p style="width: 3000px">wide</p>'
        "<script>throw Error('thrown')</script><script>console.error('said')</script>"
    )
    tab.show(file, 390, "light")
    assert any("<p" in each for each in tab.run(OVERFLOW))
    assert {"thrown", "said"} <= {w for m in tab.messages for w in re.findall(r"\w+", m)}
    assert "http://127.0.0.1:9/x.png" in tab.requests


LOOKS = list(product(SCHEMES, WIDTHS, ("one", "two", "thousand")))
SEEN = LOOKS[:3] + LOOKS[-3:]  # light and narrow, dark and wide; the others are slow


@pytest.mark.parametrize(
    ("scheme", "width", "name"),
    [pytest.param(*look, marks=[] if look in SEEN else [pytest.mark.slow]) for look in LOOKS],
)
def test_the_page_fits_and_asks_for_nothing(name, width, scheme, tab, pages):
    file = pages[name]
    assert file.stat().st_size < MAX_BYTES
    tab.show(file, width, scheme)
    assert tab.run(OVERFLOW) == []
    assert tab.run(CLICK) > 15
    assert tab.run(OVERFLOW) == []
    assert tab.messages == []
    assert [r for r in tab.requests if not r.startswith("data:")] == [file.resolve().as_uri()]
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    dark = [int(number) < 128 for number in re.findall(r"\d+", paper)]
    assert all(dark) == (scheme == "dark") and len(set(dark)) == 1
    assert tab.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_texts_with_numbers_are_sorted_by_these(tab, tmp_path):
    texts = ["100.00 %", "9.87 %", "57.30 ± 0.82 %", "1,024 MB"]
    body = page_parts.table([{"a": text} for text in texts], {"a": "A"})
    file = tmp_path / "page.html"
    file.write_text(page_parts.document("t", "", [page_parts.Section("s", "S", body)]))
    tab.show(file, 1280, "light")
    tab.run('document.querySelector("th button").click()')
    found = tab.run('[...document.querySelectorAll("tbody td")].map(cell => cell.innerText)')
    assert found == ["9.87 %", "57.30 ± 0.82 %", "100.00 %", "1,024 MB"]


def test_a_click_sorts_and_a_switch_changes_the_axis(tab, pages):
    tab.show(pages["thousand"], 1280, "light")
    column = """
    [...document.querySelectorAll("#classes tbody tr")].map(r => parseFloat(r.cells[3].innerText))
    """
    click = 'document.querySelectorAll("#classes th button")[3].click()'
    before = tab.run(column)
    assert before == sorted(before) and before[0] < before[-1]
    for order in (1, -1):
        tab.run(click)
        after = tab.run(column)
        assert after == sorted(before)[::order]
    visible = 'getComputedStyle(document.querySelectorAll(".tabs .panel")[1]).display'
    assert tab.run(visible) == "none"
    tab.run('document.querySelectorAll(".tabs label")[1].click()')
    assert tab.run(visible) == "block"


def test_a_thousand_classes_are_a_map_and_groups(thousand):
    text, tags = words(thousand.read_text())
    assert "A cell stands for 4 classes in each direction." in text
    assert "Groups that are taken for each other" in text
    assert len(re.findall(r"<tr", thousand.read_text())) > 1000 > MAX_CELLS
    assert tags.count("image") == 1  # the map, in its chart
