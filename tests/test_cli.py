"""The command line as users meet it: help, output, exit statuses, and the README's two commands."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner
from conftest import WNIDS
from PIL import Image

from keras_imnet64.cli import cli
from keras_imnet64.core.errors import EXIT_STATUSES, RunFailed, Stopped
from keras_imnet64.models import build_model
from keras_imnet64.models.init import initialize
from keras_imnet64.models.ship import ship
from keras_imnet64.recipe.loading import list_recipes, load_recipe
from keras_imnet64.records import ModelInfo

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def all_commands(group=cli, path=()):
    """[("fit",), ("data",), ("data", "prepare"), ...]."""
    found = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += all_commands(command, (*path, name))
    return found


def help_of(path):
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0, result.output
    return result.output


def command_lines(text):
    """Argument lists of what follows `cli.py` in a text, up to the line's or the code's end."""
    lines = re.findall(r"cli\.py ([^`\n#>]+)", text)
    return [arguments for line in lines if (arguments := shlex.split(line)) and "..." not in line]


def assert_is_understood(arguments):
    """The words name a command that exists and options that it has."""
    command = cli
    words = list(arguments)
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert command is not cli, arguments
    known = {o for p in command.params for o in p.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known, arguments


# -------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("path", [(), *all_commands()], ids=" ".join)
def test_help_has_an_example_that_works(path):
    text = help_of(path)
    (example,) = [line for line in text.splitlines() if line.strip().startswith("Example: ")]
    (arguments,) = command_lines(example)
    assert tuple(arguments[: len(path)]) == path
    assert_is_understood(arguments)


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_help_explains_every_option(path):
    command = cli
    for name in path:
        command = command.commands[name]
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_no_summary_is_cut_short():
    for path in [(), ("data",), ("recipes",), ("programs",)]:
        summaries = help_of(path).partition("Commands:")[2]
        assert summaries
        assert "..." not in summaries


# ------------------------------------------------------------------------------------------ README


def test_ci_runs_the_readmes_own_test_command():
    (pattern,) = re.findall(r"grep --max-count=1 '(.*?)'", (ROOT / ".ci" / "run").read_text())
    (command,) = re.findall(pattern, README, re.MULTILINE)
    make, install, tests = command.split(" && ")
    assert make == "python3 -m venv .venv"
    assert install == '.venv/bin/pip install -c constraints.txt -e ".[test]"'
    assert tests == ".venv/bin/python -m pytest"


# ----------------------------------------------------------------------------------- what is shown


def test_recipes_as_json_is_one_line_with_all_of_them(run):
    status, out, err = run("recipes", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    listed = json.loads(out)
    assert list(listed) == list_recipes()
    assert listed["wrn36_5"]["published_top1"] == pytest.approx(67.66)


def test_recipes_lists_one_line_each_below_its_data_set(run):
    status, out, _ = run("recipes")
    assert status == 0
    for name in list_recipes():
        assert len(re.findall(rf"^{name} .*", out, re.MULTILINE)) == 1
    for line in out.splitlines():
        assert len(line) <= 80 and line == line.rstrip()
    shown = r"^wrn36_5 +40 +37\.6 M +7\.05 G +67\.66 % +-$"
    assert re.search(shown, out, re.MULTILINE)
    shown = r"^demo +5 +0\.309 M +0\.0657 G +- +100\.00 %$"  # the best of what was measured
    assert re.search(shown, out, re.MULTILINE)
    below = re.split(r"^(?=\S+$)", out, flags=re.MULTILINE)
    (larger,) = [part for part in below if part.startswith("imagenet_resized/64x64\n")]
    assert "\nwrn36_5 " in larger and "\nresnet50_64 " in larger
    assert "\nwrn28_10 " not in larger and "\ntiny_cnn1 " not in larger
    assert out.count("imagenet_resized/64x64\n") == 1


def test_recipes_are_filtered(run):
    _, out, _ = run("recipes", "--json", "--dataset", "tiny_imagenet", "--model", "wide_resnet")
    assert list(json.loads(out)) == ["spectral_tiny20_sub4", "tiny20_wrn", "tiny20_wrn_cutout"]
    _, out, _ = run("recipes", "--model", "resnet50")
    assert re.findall(r"^(\w+) +\d", out, re.MULTILINE) == sorted(
        [name for name in list_recipes() if re.search("(^|spectral_|tiny_)resnet50", name)],
        key=lambda name: (load_recipe(name).data.dataset, name),
    )
    status, _, err = run("recipes", "--dataset", "tiny_imagnet")
    assert (status, "no shipped recipe has --dataset tiny_imagnet" in err) == (2, True)
    assert 'did you mean "tiny_imagenet"?' in err


def test_the_listing_builds_no_network_and_loads_nothing_heavy():
    """Costs are in a table, so that it answers at once."""
    heavy = {"keras", "tensorflow", "jax", "numba", "scipy", "matplotlib", "tensorflow_datasets"}
    code = (
        "import sys; sys.argv[1:] = ['recipes']; import keras_imnet64.cli as c; c.main(); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *listing, loaded = child.stdout.splitlines()
    assert len(listing) > len(list_recipes())
    assert loaded == "[]"


def test_recipes_show_prints_a_recipe_that_says_what_it_costs(run, tmp_path):
    status, out, _ = run("recipes", "show", "demo")
    assert status == 0
    assert out.endswith((ROOT / "recipes" / "demo.toml").read_text())
    assert re.search(r"^# parameters +308,874$", out, re.MULTILINE)
    assert re.search(r"^# MACs +0\.066 G ", out, re.MULTILINE)
    assert re.search(r"^# measured +jax: top-1 100 %;", out, re.MULTILINE)
    (tmp_path / "demo.toml").write_text(out)
    assert load_recipe(tmp_path / "demo.toml") == load_recipe("demo")


def test_recipes_show_prints_what_comes_of_overrides(run, tmp_path):
    settings = ("--set", "train.epochs=3", "--set", "augment.0.padding=2")
    status, out, _ = run("recipes", "show", "demo", *settings)
    (tmp_path / "mine.toml").write_text(out)
    expected = load_recipe("demo", settings[1::2])
    assert status == 0
    assert load_recipe(tmp_path / "mine.toml") == expected != load_recipe("demo")


def test_recipes_show_tells_a_recipe_that_has_not_been_run(run):
    _, out, _ = run("recipes", "show", "wrn36_5_modern")
    assert re.search(r"^# measured +not yet run$", out, re.MULTILINE)
    assert re.search(r"^# published +nothing$", out, re.MULTILINE)


def test_recipes_show_as_json_holds_every_setting(run):
    status, out, _ = run("recipes", "show", "wrn36_5", "--json")
    shown = json.loads(out)
    assert (status, out.count("\n"), shown["parameters"]) == (0, 1, 37_638_264)
    assert round(shown["macs"] / 1e9, 3) == 7.054  # published, of the paper's network
    assert shown["settings"]["schedule"]["epochs"] == [10, 20, 30]
    assert shown["published"]["top5_error"] == 12.64
    assert shown["measured"] == {}


def test_a_recipe_of_ones_own_is_counted_too(run, tmp_path):
    recipe = (ROOT / "recipes" / "demo.toml").read_text().replace("width = 1", "width = 2")
    (tmp_path / "wide.toml").write_text(recipe)
    status, out, _ = run("recipes", "show", tmp_path / "wide.toml", "--json")
    assert (status, json.loads(out)["parameters"]) == (0, 1_223_994)  # worked by hand


def test_data_info_of_what_is_not_prepared(run, tmp_path):
    status, out, err = run("data", "info", "tiny_imagenet", "--data-dir", tmp_path, "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    info = json.loads(out)
    assert (info["state"], info["verified"], info["store_bytes"]) == ("not prepared", None, 0)
    assert info["splits"] == {"train": 100_000, "validation": 10_000}
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------- users' mistakes: see test_mistakes too


def test_data_that_is_not_prepared_is_refused_with_the_command_that_prepares_it(run, tmp_path):
    places = ("--data-dir", tmp_path / "data", "--out", tmp_path / "run")
    status, out, err = run("fit", "--recipe", "tiny20_wrn", *places)
    assert (status, out) == (2, "")
    assert err.startswith("Error: ") and err.count("\n") == 1
    (command,) = command_lines(err)
    assert command[:3] == ["data", "prepare", "tiny_imagenet"]
    assert_is_understood(command)


@pytest.mark.parametrize("arguments", ["fitt", "data infos", "fit", "fit --recipe", "recipes shw"])
def test_a_line_that_is_no_command_gets_status_2(run, arguments):
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RunFailed("disk full"), 1), (Stopped("stopped at step 3"), 75), (KeyboardInterrupt(), 130)],
)
def test_the_other_exit_statuses(run, monkeypatch, error, expected):
    def fail(*_):
        raise error

    monkeypatch.setattr("keras_imnet64.recipe.loading.find_recipe", fail)
    status, out, err = run("recipes", "show", "demo")
    assert (status, out) == (expected, "")
    assert str(error) in err
    assert expected in EXIT_STATUSES


# ------------------------------------------------------------------- predict, evaluate, export, ...


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file of 10 classes at 16 pixels, as of the images in `data_dir`; not trained."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    network = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    initialize(network, 0)
    names = [f"class {wnid[-2:]}" for wnid in WNIDS]
    names[3] = "a\x1b[31m, \nred cat"
    info = ModelInfo(tuple(WNIDS), tuple(names), dataset="imagenet_resized/16x16")
    ship(network, path, info)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), "uint8")).save(folder / name)
    return folder


def test_predict_in_its_three_forms(run, model, images):
    status, out, err = run("predict", model, images, "--json", "--top", 10)
    assert (status, err, out.count("\n")) == (0, "", 1)
    first, second = json.loads(out)["images"]
    assert (first["file"], second["file"]) == (str(images / "a.png"), str(images / "b.jpg"))
    assert sum(guess["probability"] for guess in first["top"]) == pytest.approx(1, abs=1e-5)
    assert sorted(guess["class_id"] for guess in first["top"]) == sorted(WNIDS)

    status, out, err = run("predict", model, images, "--csv", "--top", 10)
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert [row["class_id"] for row in rows[:10]] == [g["class_id"] for g in first["top"]]
    assert "a\x1b[31m, \nred cat" in {row["class_name"] for row in rows}

    status, out, _ = run("predict", model, images, "--top", 10)
    lines = out.splitlines()
    assert (status, len(lines), lines[0], lines[11]) == (
        0,
        22,
        str(images / "a.png"),
        str(images / "b.jpg"),
    )
    assert r"a\x1b[31m, \nred cat (n00000027)" in out


def test_predict_lists_what_it_skipped(run, model, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no more")
    status, out, err = run("predict", model, broken, images, "--skip-corrupt", "--json")
    assert status == 0
    assert [entry["file"] for entry in json.loads(out)["skipped"]] == [str(broken)]
    assert err.startswith(f"skipped: {broken} is not ") and err.count("\n") == 1


def test_evaluate_per_class(run, model, data_dir, tmp_path):
    table = tmp_path / "classes.csv"
    arguments = ("evaluate", model, "--data-dir", data_dir, "--per-class", table)
    status, out, _ = run(*arguments, "--json")
    result = json.loads(out)
    assert (status, result["count"]) == (0, 40)
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class_id"] for row in rows] == WNIDS
    assert sum(int(row["count"]) for row in rows) == 40
    assert np.mean([float(row["top1"]) for row in rows]) == pytest.approx(result["balanced_top1"])
    (worst, *_) = result["most_confused"]
    status, out, _ = run(*arguments)
    assert status == 0
    row = [line for line in out.splitlines() if line.endswith(f" {worst['share']:g}")]
    assert row and row[0].startswith(worst["class_name"])


def test_doctor_ends_with_status_1_where_something_is_wrong(run, monkeypatch):
    for problems, expected in (([], 0), ([{"what": "no disk", "mend": "buy one"}], 1)):
        content = {"problems": problems}
        report = SimpleNamespace(problems=problems, to_json=lambda content=content: content)
        monkeypatch.setattr("keras_imnet64.doctor.examine", lambda report=report, **_: report)
        status, out, _ = run("doctor", "--json")
        assert (status, json.loads(out)) == (expected, content)


def test_prepare_lists_what_it_skipped(run, tmp_path, monkeypatch):
    def prepare(*_, skipped, skip_corrupt, **__):
        assert skip_corrupt
        skipped.append(("train/a\x1b.JPEG", "is not a whole image"))
        return {}

    monkeypatch.setattr("keras_imnet64.data.datasets.prepare", prepare)
    arguments = ("--data-dir", tmp_path, "--skip-corrupt", "--json")
    status, out, err = run("data", "prepare", "tiny_imagenet", *arguments)
    assert (status, json.loads(out)["name"]) == (0, "tiny_imagenet")
    assert err == "skipped: train/a\\x1b.JPEG is not a whole image\n"
    assert json.loads(out)["skipped"][0]["file"] == "train/a\x1b.JPEG"


# -------------------------------------------------------------------------- messages and completion


VERBOSE = pytest.param(["-v"], False, marks=pytest.mark.slow)  # the next test has its loggers


@pytest.mark.parametrize(("options", "quiet"), [([], True), VERBOSE])
def test_other_libraries_speak_only_when_asked(model, images, options, quiet):
    child = subprocess.run(
        [sys.executable, ROOT / "cli.py", "predict", model, images, "--json", *options],
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(child.stdout)["images"]
    lines = child.stderr.splitlines()
    assert lines[0].startswith("loading tensorflow ...") or not quiet
    assert all(re.search(r" \.\.\.( \d+ s)?\.*$", line) for line in lines) == quiet  # ours
    assert ("oneDNN" in child.stderr) != quiet


@pytest.mark.parametrize(
    ("words", "level"),
    [("recipes show demo", 40), ("recipes show demo -v", 0), ("-v recipes show demo", 0)],
)
def test_loggers_are_set_by_the_command_that_runs(words, level):
    code = (
        f"import sys, logging; sys.argv[1:] = {words.split()}; import keras_imnet64.cli as c; "
        "c.main(); print(logging.getLogger('jax').level)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert child.stdout.splitlines()[-1] == str(level)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ev", "evaluate"),
        ("data p", "preview"),
        ("fit --rec", "--recipe"),
        ("fit --recipe wrn36", "wrn36_5_modern"),
        ("data info tiny", "tiny_imagenet"),
        ("evaluate run --backend j", "jax"),
        ("export run --format s", "saved_model"),
        ("recipes show de", "demo"),
    ],
)
def test_the_shell_completes(words, expected):
    complete = BashComplete(cli, {}, "keras-imnet64", "_KERAS_IMNET64_COMPLETE")
    *args, incomplete = words.split()
    assert expected in [item.value for item in complete.get_completions(args, incomplete)]


def test_a_file_is_offered_where_no_recipe_fits():
    complete = BashComplete(cli, {}, "keras-imnet64", "_KERAS_IMNET64_COMPLETE")
    (item,) = complete.get_completions(["fit", "--recipe"], "./mi")
    assert item.type == "file"


def test_the_console_script_completes_as_the_first_steps_say():
    page = (ROOT / "docs" / "first-steps.md").read_text()
    line, *_ = re.findall(r'eval "\$\((.*)\)"', page)
    name, command = line.split(" ")
    variable, wanted = name.split("=")
    child = subprocess.run(
        [Path(sys.executable).parent / command],
        env=os.environ | {variable: wanted},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"complete -o nosort -F _keras_imnet64_completion {command}" in child.stdout


def test_output_that_nobody_reads_is_no_error(tmp_path):
    child = subprocess.run(
        f"set -o pipefail; {sys.executable} {ROOT / 'cli.py'} recipes show demo | true",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stderr == ""
