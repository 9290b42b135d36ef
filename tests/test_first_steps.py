"""What the pages show works as shown: the first steps, then all Python, in one folder."""

import csv
import json
import re
import shlex
from types import SimpleNamespace

import documents
import first_steps as steps
import pytest
from forks import Forks

from keras_imnet64.recipe.loading import list_recipes

TEXT = steps.PAGE.read_text()
SHOWN = steps.transcript(TEXT)
PYTHON = {block.text: block.page for block in documents.blocks(documents.WRITTEN, "python")}
COMMANDS = [command for command in SHOWN if command != steps.DOCTOR]  # which test_doctor has
SHORTER = " --set train.epochs=1 --set schedule.warmup_epochs=0.0"
SHORTER_CODE = {
    '"train.epochs=2", "optimizer': '"train.epochs=1", "data.steps_per_epoch=5", "optimizer',
    "train.epochs=2": "train.epochs=1",
    "depth=12, width=1": "depth=6, width=0.5, stages=1",
}


EXPORT_IN_PROCESS = """
import export_in_process, pytest
export_in_process.run_in_this_process(pytest.MonkeyPatch())
"""


def program(command):
    """A command of the transcript for `Forks`; the code of cli.py is that of the clone.

    The steps of an export have processes of their own in `test_export`.
    """
    python, *words = shlex.split(command)
    assert python == "python", command
    if words[0] == "-c":
        return {"arguments": words[:1], "code": words[1], "merged": True}
    code = EXPORT_IN_PROCESS * (words[1] == "export") + (steps.ROOT / words[0]).read_text()
    return {"arguments": words, "code": code, "merged": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory, shapes_dir):
    """A newcomer's folder after the transcript; training is shorter there, all else as shown."""
    folder = tmp_path_factory.mktemp("newcomer")
    steps.settle(folder)
    environment = steps.newcomer(folder, shapes_dir)
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"  # as the command sets it before it imports
    printed = {}
    with Forks("keras_imnet64.training.fit", folder=folder, environment=environment) as forks:
        for command in COMMANDS:
            ((status, text, _),) = forks.run(program(command + SHORTER * (" fit " in command)))
            assert status == 0, f"{command}\n{text}"
            printed[command] = text
        yield SimpleNamespace(path=folder, forks=forks, printed=printed)


def printed_by(place, words):
    (found,) = [text for command, text in place.printed.items() if words in command]
    return found


def test_the_transcript_shows_each_of_the_commands_of_the_first_week():
    shown = " ".join(steps.commands(TEXT))
    for words in ("doctor", "recipes", "data preview", "fit", "evaluate", "predict", "export"):
        assert f"cli.py {words} " in f"{shown} ", words


def test_the_recipes_are_shown_as_they_are_now(run):
    """The transcript is stale when the listing has changed."""
    status, out, _ = run("recipes")
    assert status == 0 and "demo" in out
    assert "\n".join(line.rstrip() for line in out.splitlines()) in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_the_transcript_has_every_key_that_is_printed(place, command):
    """A key that is left out or added is stale. A model that is trained for so short confuses
    classes, whose table stands last; the one of the transcript does not."""
    printed = re.split(r"^class +taken for", place.printed[command], flags=re.MULTILINE)[0]
    assert steps.keys(SHOWN[command]) == steps.keys(printed)


def test_keys_are_compared_and_values_are_not():
    said = "loading x ...\nrun     first/1\nepoch 1/5  loss 2.1  lr 3e-07  345 images/s\n"
    said += "seconds 3.5\n"
    keys = ["run", "epoch N/N", "epoch N/N: loss", "epoch N/N: lr", "epoch N/N: N", "seconds N"]
    assert steps.keys(said) == keys
    assert steps.keys(said.replace("2.1", "0.016").replace("1/5", "5/5")) == keys
    assert steps.keys(said.replace("1/5 ", "1/5 ..... ")) == keys  # as in a log
    assert steps.keys("epoch 1/5 ..\n" + said) == keys
    for line in said.splitlines()[1:]:
        assert steps.keys(said.replace(line, "")) != keys
    assert steps.keys(said.replace("lr 3e-07  ", "")) != keys
    assert steps.keys(said + "new  1\n") != keys


def test_a_session_may_leave_out_lines_where_it_says_so():
    printed = "run  first\nresumes  in epoch 2\nnote: 3 of 4\ntop1  3.5\ncount  7\n"
    for shown in (
        printed,
        "run  second\n...\nnote: 1 of 9\ntop1  0.1\ncount  1\n",
        "...\nnote: 1 of 9\n...\n",
    ):
        assert steps.shows(shown, printed)
    for shown in (
        printed.replace("count", "number"),
        "run  second\nnote: 1 of 9\ntop1  0.1\ncount  1\n",
        "...\nnote: 1 of 9\n",
        "...\nnote: 1 of\n...\n",
        "...\ntop1  3.5\n...\nnote: 1 of 9\n...\n",
    ):
        assert not steps.shows(shown, printed)


def test_the_recipes_are_listed(place):
    for name in list_recipes():
        assert re.search(rf"^{name} ", printed_by(place, "cli.py recipes"), re.MULTILINE)


def test_the_steps_leave_their_files(place):
    run_folder = place.path / "saved_models" / "first"
    assert (place.path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run_folder / "metrics.json").read_text())["model.keras"]["count"] == 1000
    with open(place.path / "classes.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 10
    assert (run_folder / "saved_model" / "saved_model.pb").is_file()


def test_one_epoch_shows_that_the_demo_learns(place):
    """Ten times its rate leaves it at chance by then: 10 %, and a loss of ln 10 = 2.303."""
    pattern = r"^model\.keras +top1 ([\d.]+) .* loss ([\d.]+)"
    ((top1, loss),) = re.findall(pattern, printed_by(place, " fit "), re.MULTILINE)
    assert float(top1) > 15
    assert float(loss) < 2.2


def test_predict_names_five_classes_with_probabilities(place):
    lines = printed_by(place, "cli.py predict").splitlines()
    guesses = [re.fullmatch(r" *(\d+\.\d\d) %  \w+", line) for line in lines]
    guesses = [guess for guess in guesses if guess]
    assert len(guesses) == 5
    percent = [float(guess[1]) for guess in guesses]
    assert percent == sorted(percent, reverse=True)
    assert sum(percent) <= 100.03


@pytest.fixture(scope="module")
def python_examples(place):
    """{code: (how its process ended, what it printed)}, in the pages' order."""
    (place.path / "saved_models" / "imagenet64").symlink_to("first")  # as the README names it
    assert all(any(shown in code for code in PYTHON) for shown in SHORTER_CODE)
    ends = {}
    for code in PYTHON:
        shortened = code
        for shown, shorter in SHORTER_CODE.items():
            shortened = shortened.replace(shown, shorter)
        example = {"arguments": [""], "code": shortened, "merged": True}
        ((status, printed, _),) = place.forks.run(example)
        ends[code] = (status, printed)
    return ends


@pytest.mark.parametrize("code", PYTHON, ids=PYTHON.values())
def test_each_python_example_runs(python_examples, code):
    status, printed = python_examples[code]
    assert status == 0, printed[-3000:]


@pytest.mark.slow
def test_the_transcript_in_full(tmp_path):
    """As in a shell, with no data prepared and nothing shortened; the demo learns its shapes."""
    steps.settle(tmp_path)
    environment = steps.newcomer(tmp_path)
    printed = {command: steps.run(command, tmp_path, environment) for command in SHOWN}
    place = SimpleNamespace(printed=printed)
    (top1,) = re.findall(r"^model\.keras +top1 ([\d.]+)", printed_by(place, " fit "), re.MULTILINE)
    assert float(top1) >= 97
