"""Searches: spaces, trials by stand-ins, pruning, going on after a kill, and Optuna's errors."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stand_in_fit

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.jobs.machine import Machine
from keras_imnet64.recipe.loading import load_recipe, parse_toml
from keras_imnet64.sweep import search
from keras_imnet64.sweep.axes import Axis, parse_axis
from keras_imnet64.sweep.folder import SweepFolder
from keras_imnet64.sweep.search import plan_search, report_study_errors, run_search
from keras_imnet64.sweep.space import Range, make_space, parse_space, rounded

RATE = "optimizer.learning_rate=0.001..1.0:log"
WIDTH = "model.width=0.5,1"


@pytest.fixture
def plan(small_recipe):
    """plan(*lines of --space, trials=6)."""
    pytest.importorskip("optuna")

    def plan(*lines, trials=6, **sections):
        sections["data"] = {"holdout": 16} | sections.get("data", {})
        sections.setdefault("train", {"epochs": 9})
        content = parse_toml(small_recipe(**sections).to_toml())
        return plan_search(content, [parse_space(line) for line in lines], trials)

    return plan


def score(recipe):
    """The accuracy of a cell: the higher, the nearer its rate is to 0.1."""
    return round(80 - 100 * abs(recipe.optimizer.learning_rate - 0.1), 3)


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """searched(plan, pause=0, **changes of cells) -> outcome; searched.starts lists the started.

    pause: the seconds of an epoch, without which a cell is finished before it can be pruned.
    """
    monkeypatch.setattr("keras_imnet64.jobs.machine.run_preflight", lambda request: [])
    changes = {}

    def plan_of(folder):
        searched.starts.append(folder.name)
        recipe = load_recipe(folder / "recipe.toml")
        best, num_epochs = score(recipe), recipe.train.epochs
        scores = [best - num_epochs + epoch for epoch in range(1, num_epochs + 1)]
        change = changes.get(folder.name, {})
        return {"scores": scores, "ending": "finished", "pause": searched.pause} | change

    stand_in_fit.use(monkeypatch, plan_of)

    def searched(plan, *, pause=0.0, fresh=False, **cells):
        changes.clear()
        changes.update({name.replace("_", "-"): change for name, change in cells.items()})
        searched.starts.clear()
        searched.pause = pause
        return run_search(plan, tmp_path / "sweep", Machine(), fresh=fresh)

    searched.starts, searched.pause = [], 0.0
    return searched


# ------------------------------------------------------------------------------------------ spaces


def test_a_drawn_number_is_short_and_stays_in_its_range():
    assert rounded(0.123456, Range(("a",), 0.0, 1.0)) == 0.1235
    assert rounded(0.99999, Range(("a",), 0.0, 0.99995)) == 0.99995


def test_ranges_and_values_are_told_apart():
    assert parse_space(RATE) == Range(("optimizer", "learning_rate"), 0.001, 1.0, True)
    whole = parse_space("train.epochs=1..9")
    assert whole.is_whole and not whole.is_log
    assert not parse_space("model.width=1..2.0").is_whole
    assert parse_space('optimizer.name="a..b","sgd"') == Axis(
        ("optimizer", "name"), ("a..b", "sgd")
    )
    assert parse_space(WIDTH) == parse_axis(WIDTH)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "model.width=1..",
            "--space takes key=value,value in TOML, .* or optimizer.learning_rate=",
        ),
        (
            "model.width=2..1",
            "must be a range whose first number is the smaller one.*received 2..1",
        ),
        ("model.width=0..1:log", "must begin above 0 to be drawn on a logarithmic scale"),
        ("model.width=true..false", "--space takes key=value,value"),
    ],
)
def test_a_line_that_is_no_space_is_refused(line, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_space(line)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "--search has nothing to choose"),
        (["train.seed=0..9"], "cannot choose train.seed, whose effect is chance"),
        (["data.holdout=10..20"], "cannot vary data.holdout"),
        (["model.width=1..2", "model.width=1,2"], "has model.width twice: give all"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(lines, sentence):
    with pytest.raises(UserError, match=sentence):
        make_space([parse_space(line) for line in lines])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("optimizer.lr=0.1..0.2", "optimizer.lr is not an option"),
        ("train.epochs=1.5..2.5", "train.epochs must be a whole number"),
        ("loss.label_smoothing=0.0..1.5", "label_smoothing must be .*received 1.5"),
        (
            'loss.name="cross_entropy","none"',
            'loss.name must be "cross_entropy" or .*received "none"',
        ),
    ],
)
def test_the_edges_of_a_space_are_recipes(plan, line, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(line)


def test_a_recipe_without_held_out_images_is_refused(plan):
    with pytest.raises(UserError, match=r"set data\.holdout to a number"):
        plan(RATE, data={"holdout": 0})


def test_without_optuna_the_sentence_names_the_extra(plan, monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'keras-imnet64\[search\]'"):
        plan(RATE)


# ------------------------------------------------------------------------------------------ trials


def test_a_search_trains_trials_and_prunes_the_hopeless(plan, searched, tmp_path, capsys):
    outcome = searched(plan(RATE, WIDTH, trials=6), pause=0.05)
    outcome.raise_unfinished()
    record = outcome.record
    assert searched.starts == [f"cell-{number:03}" for number in range(6)]
    states = [cell.state for cell in record.cells]
    assert states[0] == "finished" and {*states} == {"finished", "pruned"}
    pruned = [cell for cell in record.cells if cell.state == "pruned"]
    assert all(cell.epochs < 9 for cell in pruned)
    assert "  pruned after epoch 1: other trials are better" in capsys.readouterr().err
    finished = [cell for cell in record.cells if cell.state == "finished"]
    best = record.settings[record.best]
    assert best.mean == max(cell.val_top1 for cell in finished)
    rate = record.cells[best.cells[0]].values["optimizer.learning_rate"]
    folder = SweepFolder(tmp_path / "sweep")
    assert load_recipe(folder.best_file).optimizer.learning_rate == rate == float(f"{rate:.4g}")
    assert folder.read() == record
    assert {path.name for path in folder.path.glob("*.png")} == {"parallel-coordinates.png"}


def test_more_trials_go_on_in_the_same_study(plan, searched):
    first = searched(plan(RATE, trials=3)).record
    again = searched(plan(RATE, trials=5)).record
    assert searched.starts == ["cell-003", "cell-004"]
    assert again.cells[:3] == first.cells and again.trials == 5
    assert searched(plan(RATE, trials=2)).record.trials == 5  # those that there are
    assert searched.starts == []


def test_trials_depend_on_the_seed_and_not_on_interruptions(plan, searched):
    """Behind the random ones too, where TPE has begun."""
    pause = 0.05  # so that the same trials are pruned
    first = searched(plan(RATE, WIDTH, trials=7), pause=pause).record
    searched(plan(RATE, WIDTH, trials=6), pause=pause, fresh=True)
    whole = searched(plan(RATE, WIDTH, trials=7), pause=pause).record
    assert searched.starts == ["cell-006"]
    assert [cell.values for cell in whole.cells] == [cell.values for cell in first.cells]
    seeded = plan(RATE, WIDTH, trials=1, train={"epochs": 9, "seed": 1})
    assert searched(seeded, fresh=True).record.cells[0].values != first.cells[0].values


def test_a_trial_that_was_killed_while_it_was_begun_gets_its_other_values(
    plan, searched, monkeypatch
):
    made = plan(RATE, WIDTH, trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(search, "suggest", lambda trial, space: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            searched(made)
    record = searched(made).record
    assert searched.starts == ["cell-000"]
    assert record.cells[0].values.keys() == {"model.width", "optimizer.learning_rate"}


def test_the_path_of_the_study_may_have_any_character(plan, searched, tmp_path):
    folder = tmp_path / "50% of it? #1"
    run_search(plan(RATE, trials=1), folder, Machine())
    assert (folder / "study.db").exists() and (folder / "cell-000").exists()


def test_a_failed_trial_alone_is_trained_again(plan, searched):
    outcome = searched(plan(RATE, trials=4), cell_000={"ending": "failed"})
    with pytest.raises(RunFailed, match=r"1 of 4 cells failed \(cell-000\)"):
        outcome.raise_unfinished()
    values = [cell.values for cell in outcome.record.cells]
    again = searched(plan(RATE, trials=4))
    again.raise_unfinished()
    assert searched.starts == ["cell-000"]
    assert again.record.cells[0].state in ("finished", "pruned")
    assert [cell.values for cell in again.record.cells] == values


def test_a_trial_that_is_not_finite_is_avoided_and_not_trained_again(plan, searched):
    outcome = searched(plan(RATE, trials=3), cell_000={"scores": [1.0], "ending": "diverged"})
    outcome.raise_unfinished()
    assert outcome.record.cells[0].state == "not finite"
    searched(plan(RATE, trials=3))
    assert searched.starts == []


def test_values_that_make_no_recipe_are_left_out(plan, searched, monkeypatch, capsys):
    made = plan(RATE, trials=3)
    recipe_of = search.Space.recipe

    def recipe(space, content, values):
        if len(searched.starts) == 1:
            searched.starts.append("refused")
            raise UserError("these values exclude each other")
        return recipe_of(space, content, values)

    searched(plan(RATE, trials=1))
    monkeypatch.setattr(search.Space, "recipe", lambda *given: recipe(*given))
    outcome = searched(made)
    assert "cell-002  is left out: these values exclude each other" in capsys.readouterr().err
    assert [cell.state for cell in outcome.record.cells][2] == "pruned"


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import pytest, stand_in_fit
from keras_imnet64.recipe.loading import read_content
from keras_imnet64.jobs import machine
from keras_imnet64.sweep import search
from keras_imnet64.sweep.space import parse_space

machine.run_preflight = lambda request: []
plan = {{"scores": [50.0] * 9, "ending": "finished", "pause": 0.2}}
stand_in_fit.use(pytest.MonkeyPatch(), lambda folder: plan)
made = search.plan_search(read_content({recipe!r}), [parse_space({rate!r})], 4)
search.run_search(made, {folder!r}, machine.Machine())
"""


def test_a_search_that_was_killed_goes_on_with_its_running_trial(
    plan, searched, small_recipe, tmp_path
):
    """Killed in the middle of the first trial, whose values and epochs stay."""
    recipe = small_recipe(data={"holdout": 16}, train={"epochs": 9})
    (tmp_path / "small.toml").write_text(recipe.to_toml())
    code = KILLED.format(
        tests=str(Path(stand_in_fit.__file__).parent),
        recipe=str(tmp_path / "small.toml"),
        rate=RATE,
        folder=str(tmp_path / "sweep"),
    )
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    history = tmp_path / "sweep" / "cell-000" / "history.csv"
    deadline = time.monotonic() + 60
    while not (history.exists() and len(history.read_text().splitlines()) > 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = load_recipe(tmp_path / "sweep" / "cell-000" / "recipe.toml")
    num_epochs = len(history.read_text().splitlines()) - 1
    assert num_epochs < 9
    outcome = searched(plan(RATE, trials=4), cell_000={"scores": [50.0] * 9})
    outcome.raise_unfinished()
    assert searched.starts == [f"cell-{number:03}" for number in range(4)]
    first = outcome.record.cells[0]
    assert first.values == {"optimizer.learning_rate": before.optimizer.learning_rate}
    assert (first.state, first.epochs) == ("finished", 9)


def test_a_trial_that_ended_before_the_study_was_told_is_not_trained_again(
    plan, searched, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(search.Search, "job_ended", lambda *given: None)
        searched(plan(RATE, trials=1))
    assert searched.starts == ["cell-000"]
    record = searched(plan(RATE, trials=1)).record
    assert searched.starts == [] and record.cells[0].state == "finished"


# ------------------------------------------------------------------------------------------ errors


def test_another_space_does_not_go_on_in_the_folder(plan, searched):
    searched(plan(RATE, trials=1))
    with pytest.raises(UserError, match=r"another sweep \(keys: search .*0.001..1.0:log -> "):
        searched(plan("optimizer.learning_rate=0.01..1.0:log", trials=1))
    with pytest.raises(UserError, match="another sweep"):
        searched(plan("optimizer.learning_rate=0.001..1.0", trials=1))


def test_a_damaged_study_is_one_sentence(plan, searched, tmp_path):
    searched(plan(RATE, trials=1))
    (tmp_path / "sweep" / "study.db").write_bytes(b"this is no database, but a text" * 40)
    with pytest.raises(
        UserError, match=r"study\.db, the study of the search, cannot be used \("
    ) as e:
        searched(plan(RATE, trials=2))
    assert str(e.value).count("\n") == 0 and searched.starts == []


def test_a_missing_study_is_one_sentence(plan, searched, tmp_path):
    searched(plan(RATE, trials=1))
    study = tmp_path / "sweep" / "study.db"
    for lose in (study.unlink, lambda: study.write_bytes(b"x")):  # one byte is an empty database
        lose()
        with pytest.raises(UserError, match=r"study\.db lacks the trial of cell-000: restore it"):
            searched(plan(RATE, trials=2))
    searched(plan(RATE, trials=1), fresh=True)
    assert searched.starts == ["cell-000"]


def test_errors_of_the_database_in_mid_search_are_failures(tmp_path):
    pytest.importorskip("optuna")
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import OperationalError

    for error in (
        StorageInternalError("An exception is raised during the commit.\nmore"),
        OperationalError("INSERT", {}, Exception("database or disk is full")),
    ):
        with (
            pytest.raises(RunFailed, match=r"cannot be used \(.*\): restore it") as caught,
            report_study_errors(tmp_path / "study.db"),
        ):
            raise error
        assert "\n" not in str(caught.value)
