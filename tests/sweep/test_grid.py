"""Grids: their plans, cells trained by stand-ins and for real, resuming, results and refusals."""

import csv
import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import stand_in_fit
from preflight_in_process import check_in_this_process

from keras_imnet64.cli.sweep import command_line
from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.jobs import running
from keras_imnet64.jobs.machine import Machine
from keras_imnet64.recipe.loading import load_recipe, parse_toml
from keras_imnet64.runs import Run, lock
from keras_imnet64.sweep.axes import parse_axis
from keras_imnet64.sweep.folder import SweepFolder
from keras_imnet64.sweep.grid import fit_cell, representatives, run_grid
from keras_imnet64.sweep.plan import MAX_CELLS, plan_grid
from keras_imnet64.sweep.records import CellRecord
from keras_imnet64.sweep.results import best_setting, ranking, summarize
from keras_imnet64.sweep.slurm import script, write_script

RATES = "optimizer.learning_rate=0.01,0.1,1.0"
DECAYS = "optimizer.weight_decay=0.0,0.001,0.002"
ONE_JOB = Machine()


@pytest.fixture(scope="session")
def content(small_recipe):
    """content(**sections) -> the plain values of a recipe that holds 16 images out."""

    def content(**sections):
        sections["data"] = {"holdout": 16} | sections.get("data", {})
        return parse_toml(small_recipe(**sections).to_toml())

    return content


@pytest.fixture
def plan(content):
    """plan(*lines of --grid, seeds=None)."""

    def plan(*lines, seeds=None, **sections):
        return plan_grid(content(**sections), [parse_axis(line) for line in lines], seeds)

    return plan


def score(recipe):
    """The accuracy of a cell: highest at a rate of 0.1 and a decay of 0.001."""
    rate = {0.01: 40, 0.1: 60, 1.0: 50}.get(recipe.optimizer.learning_rate, 30)
    decay = {0.001: 8, 0.002: 4}.get(recipe.optimizer.weight_decay, 0)
    return float(rate + decay + 2 * recipe.train.seed)


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """trained(plan, **changes of cells) -> outcome of a sweep in tmp_path / "sweep".

    trained.starts lists the cells that were started.
    """
    monkeypatch.setattr("keras_imnet64.jobs.machine.run_preflight", lambda request: [])
    changes = {}

    def plan_of(folder):
        trained.starts.append(folder.name)
        best = score(load_recipe(folder / "recipe.toml"))
        return {"scores": [best - 10, best, best - 1], "ending": "finished"} | changes.get(
            folder.name, {}
        )

    stand_in_fit.use(monkeypatch, plan_of)

    def trained(plan, *, machine=ONE_JOB, fresh=False, **cells):
        changes.clear()
        changes.update({name.replace("_", "-"): change for name, change in cells.items()})
        trained.starts = []
        return run_grid(plan, tmp_path / "sweep", machine, fresh=fresh)

    return trained


# ------------------------------------------------------------------------------------------- plans


def test_cells_are_all_combinations_with_all_seeds(plan):
    made = plan(RATES, DECAYS, seeds=2, train={"seed": 5})
    assert made.seeds == (5, 6) and len(made.cells) == 18
    assert [cell.number for cell in made.cells] == list(range(18))
    assert [cell.values for cell in made.cells[:4]] == [(0.01, 0.0)] * 2 + [(0.01, 0.001)] * 2
    assert [cell.recipe.train.seed for cell in made.cells[:3]] == [5, 6, 5]
    assert made.cells[17].recipe.optimizer.learning_rate == 1.0


def test_values_of_the_seed_are_seeds(plan):
    made = plan(RATES, "train.seed=3,9")
    assert made.seeds == (3, 9) and made.keys == ("optimizer.learning_rate",)
    assert [cell.recipe.train.seed for cell in made.cells] == [3, 9] * 3


def test_seeds_alone_are_a_sweep(plan):
    assert [cell.recipe.train.seed for cell in plan(seeds=3).cells] == [0, 1, 2]


def test_cells_have_no_results_of_the_recipe(plan):
    (cell, _) = plan(seeds=2, reference={"top1": 99.0}, measured={"jax": {"top1": 98.0}}).cells
    assert cell.recipe.reference is None and cell.recipe.measured == {}


def test_grid_replaces_a_list_of_the_recipe(content):
    values = content()
    values["optimizer"]["learning_rate"] = [0.5, 0.6]
    made = plan_grid(values, [parse_axis("optimizer.learning_rate=0.1,0.2,0.3")], None)
    assert [cell.values for cell in made.cells] == [(0.1,), (0.2,), (0.3,)]
    assert len(plan_grid(values, [], None).cells) == 2


MILLION = [f"optimizer.{key}={','.join(map(str, range(1000)))}" for key in ("a", "b")]


@pytest.mark.parametrize(
    ("lines", "seeds", "sections", "sentence"),
    [
        ([], None, {}, "there is nothing to vary"),
        (MILLION, None, {}, r"at most 1,000 cells; received 1,000,000 \(1,000 x 1,000 x 1\)"),
        ([RATES], MAX_CELLS, {}, "received 3,000"),
        (["optimizer.lr=1,2"], None, {}, "recipe small: optimizer.lr is not an option"),
        (["train.epochs=1,1.5"], None, {}, "train.epochs must be a whole number.*received 1.5"),
        (["train.seed=1,2"], 2, {}, "both set the seeds"),
        ([RATES], None, {"data": {"holdout": 0}}, "set data.holdout .*received data.holdout = 0"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(plan, lines, seeds, sections, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(*lines, seeds=seeds, **sections)


def test_a_recipe_that_selects_on_the_test_split_is_refused(plan):
    sections = {"data": {"holdout": 0}, "train": {"select_on": "validation"}}
    with pytest.raises(UserError, match=r'and train\.select_on to "auto"; received'):
        plan(RATES, **sections)


# ------------------------------------------------------------------------------------------ results


def cells(*scores, num_seeds=1):
    return [
        CellRecord(n, f"cell-{n:03}", {"a.b": n // num_seeds}, n % num_seeds, state, val_top1=value)
        for n, (state, value) in enumerate(scores)
    ]


def test_a_setting_has_the_mean_and_spread_of_its_seeds():
    found = summarize(
        cells(
            ("finished", 50.0), ("finished", 52.0), ("finished", 60.0), ("begun", 70.0), num_seeds=2
        ),
        2,
    )
    assert [setting.mean for setting in found] == [51.0, 60.0]
    assert found[0].spread == pytest.approx(2**0.5) and found[1].spread is None
    assert [setting.num_finished for setting in found] == [2, 1]
    assert best_setting(found) == 0  # a seed of the other is not finished


def test_the_earlier_of_equal_settings_is_the_best():
    found = summarize(cells(("waiting", None), ("finished", 5.0), ("finished", 5.0)), 1)
    assert ranking(found) == [1, 2, 0] and best_setting(found) == 1
    assert best_setting(summarize(cells(("not finite", 3.0)), 1)) is None


def test_all_cells_are_trained_and_the_best_is_chosen(plan, trained, tmp_path):
    outcome = trained(plan(RATES, DECAYS, seeds=2), machine=Machine(jobs=4))
    record = outcome.record
    outcome.raise_unfinished()
    assert sorted(trained.starts) == [f"cell-{number:03}" for number in range(18)]
    best = record.settings[record.best]
    assert best.values == {"optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.001}
    assert (best.mean, best.spread) == (69.0, pytest.approx(2**0.5))
    assert (record.best_scores.top1, record.best_scores.num_images) == (64.0, 100)
    assert record.cells[best.cells[0]].epoch == 2  # whose score is the highest
    folder = SweepFolder(tmp_path / "sweep")
    assert folder.read() == record
    recipe = load_recipe(folder.best_file)
    assert (recipe.name, recipe.optimizer.learning_rate) == ("small-best", 0.1)
    assert folder.best_file.read_text().startswith(
        "# The best of 9 combinations of small, chosen on 16 held-out images:\n"
        "# top-1 69.00 ± 1.41 % over 2 of 2 seeds.\n"
    )
    rows = list(csv.DictReader(folder.table_file.open()))
    assert len(rows) == 18 and rows[8]["optimizer.learning_rate"] == "0.1"
    assert (rows[8]["cell"], rows[8]["state"], rows[8]["val_top1"]) == (
        "cell-008",
        "finished",
        "68.0",
    )
    pictures = {path.name for path in folder.path.glob("*.png")}
    assert pictures == {"heat-map-optimizer.learning_rate-optimizer.weight_decay.png"}


def test_only_what_failed_or_is_missing_is_trained_again(plan, trained, tmp_path):
    made = plan(RATES, seeds=2)
    outcome = trained(made, cell_001={"ending": "failed"}, cell_004={"ending": "failed"})
    assert (tmp_path / "sweep" / "best.toml").exists()  # of the cells that are finished
    with pytest.raises(RunFailed, match=r"2 of 6 cells failed \(cell-001, cell-004\), the first"):
        outcome.raise_unfinished()
    trained(made).raise_unfinished()
    assert trained.starts == ["cell-001", "cell-004"]
    record = trained(made).record
    assert trained.starts == [] and record.settings[record.best].mean == 61.0


def test_a_cell_that_is_not_finite_is_an_answer(plan, trained):
    made = plan(RATES, seeds=2)
    outcome = trained(made, cell_003={"ending": "diverged"})
    outcome.raise_unfinished()
    assert [cell.state for cell in outcome.record.cells][2:4] == ["finished", "not finite"]
    assert outcome.record.settings[outcome.record.best].values == {"optimizer.learning_rate": 1.0}
    trained(made)
    assert trained.starts == []


def test_a_sweep_in_which_nothing_finishes_says_so(plan, trained, tmp_path):
    ends = {f"cell_00{number}": {"ending": "diverged"} for number in range(3)}
    outcome = trained(plan(RATES), **ends)
    with pytest.raises(RunFailed, match=r"no cell has come to its end \(3 not finite\)"):
        outcome.raise_unfinished()
    assert not (tmp_path / "sweep" / "best.toml").exists()


def test_a_signal_stops_the_cells_and_the_same_call_resumes_them(plan, trained, tmp_path):
    made = plan(RATES)
    say = running.say

    def say_and_stop(text):
        say(text)
        if "cell-001  epoch 1" in text:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "say", say_and_stop)
        outcome = trained(made, cell_001={"scores": [50.0] * 100, "pause": 0.2})
    assert [cell.state for cell in outcome.record.cells] == ["finished", "begun", "waiting"]
    with pytest.raises(Stopped, match="the cells' states are saved, and the same command resumes"):
        outcome.raise_unfinished()
    record = trained(made).record
    assert trained.starts == ["cell-001", "cell-002"]
    assert [cell.state for cell in record.cells] == ["finished"] * 3


def test_another_sweep_does_not_go_on_in_the_folder(plan, trained, tmp_path):
    trained(plan(RATES))
    with pytest.raises(UserError, match=r"another sweep \(keys: .*1.0\] -> .*0.2\]\): choose"):
        trained(plan("optimizer.learning_rate=0.1,0.2"))
    with pytest.raises(UserError, match=r"another sweep \(seeds: \[0\] -> \[0, 1\]\)"):
        trained(plan(RATES, seeds=2))
    with pytest.raises(UserError, match=r"another sweep \(train.epochs: 3 -> 4\)"):
        trained(plan(RATES, train={"epochs": 4}))
    trained(plan("optimizer.learning_rate=0.1,0.2"), fresh=True)
    assert SweepFolder(tmp_path / "sweep.1").read().keys == {
        "optimizer.learning_rate": [0.01, 0.1, 1.0]
    }
    assert len(trained.starts) == 2


def test_a_folder_of_something_else_is_left_alone(plan, trained, tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    for fresh in (False, True):
        with pytest.raises(UserError, match="is not empty and holds no sweep"):
            trained(plan(RATES), fresh=fresh)
    (folder / "recipe.toml").touch()
    with pytest.raises(UserError, match="holds a run and cannot hold a sweep too"):
        trained(plan(RATES))
    assert {path.name for path in folder.iterdir()} == {"thesis.tex", "recipe.toml"}


def test_a_damaged_record_is_one_sentence(plan, trained, tmp_path):
    trained(plan(RATES))
    (tmp_path / "sweep" / "sweep.json").write_text('{"kind": "something else"}')
    with pytest.raises(UserError, match=r"sweep\.json is missing or damaged .* with --fresh"):
        trained(plan(RATES))
    trained(plan(RATES), fresh=True)
    assert len(trained.starts) == 3


def test_a_cell_of_another_recipe_is_not_overwritten(plan, trained, tmp_path, small_recipe):
    made = plan(RATES)
    trained(made, cell_001={"ending": "failed"})
    file = tmp_path / "sweep" / "cell-001" / "recipe.toml"
    file.write_text(small_recipe().to_toml())
    with pytest.raises(UserError, match="cell-001 holds a run of another recipe than this cell's"):
        trained(made)
    assert load_recipe(file).data.holdout == 0


def test_a_sweep_begins_anew_only_if_no_process_works_on_it(plan, trained, tmp_path):
    made = plan(RATES)
    trained(made)
    for fresh in (False, True):
        with lock(Run(tmp_path / "sweep")), pytest.raises(UserError, match="another process is"):
            trained(made, fresh=fresh)
    with lock(Run(tmp_path / "sweep"), shared=True):
        with pytest.raises(UserError, match="another process is"):
            trained(made, fresh=True)
        trained(made)
    with (
        lock(Run(tmp_path / "sweep" / "cell-001")),
        pytest.raises(UserError, match=r"another process is working in .*cell-001"),
    ):
        trained(made, fresh=True)


def test_networks_and_data_are_checked_once_each(plan):
    made = plan(RATES, "model.width=0.5,1", seeds=2)
    checked = representatives([cell.recipe for cell in made.cells])
    assert [recipe.model.width for recipe in checked] == [0.5, 1]
    other = plan("train.remeasure_statistics=1,2", "optimizer.lookahead.steps=2,3")
    assert len(representatives([cell.recipe for cell in other.cells])) == 4
    for axis in ('loss.l2_of="all","weights"', "optimizer.weight_decay=0.0,0.1"):
        recipes = [cell.recipe for cell in plan(axis, loss={"l2": 0.1}).cells]
        assert len(representatives(recipes)) == 2, axis  # groups of variables depend on it


def test_jobs_and_virtual_devices_exclude_each_other(plan, trained):
    with pytest.raises(UserError, match="--virtual-devices is for one job at a time"):
        trained(plan(RATES), machine=Machine(jobs=2, virtual_devices=2))


# -------------------------------------------------------------------------------------- job arrays


def test_the_script_of_a_job_array_trains_every_cell(plan, tmp_path):
    made = plan(RATES, seeds=2)
    folder = SweepFolder(tmp_path / "of 100%")
    command = ["python", "cli.py", "sweep", "--grid", "a b"]
    text = script(made, folder, command, Path("/home/a b"))
    assert "#SBATCH --array=0-5\n" in text
    assert f'#SBATCH --output="{tmp_path}/of 100%%/cell-%3a.slurm.log"\n' in text
    assert "\ncd '/home/a b'\n" in text
    line = text.splitlines()[-1]
    assert shlex.split(line) == ["srun", *command, "--cell", "$SLURM_ARRAY_TASK_ID"]


def test_the_script_begins_the_sweep(plan, tmp_path):
    made = plan(RATES)
    file = write_script(made, tmp_path / "sweep", ["sweep"])
    assert file.name == "sweep.slurm" and SweepFolder(tmp_path / "sweep").read().keys
    assert write_script(made, tmp_path / "sweep", ["sweep"]) == file
    with pytest.raises(UserError, match="holds another sweep"):
        write_script(plan(DECAYS), tmp_path / "sweep", ["sweep"])
    with pytest.raises(UserError, match="has a quotation mark, a backslash or a line break"):
        write_script(made, tmp_path / 'of "100"', ["sweep"])
    assert not (tmp_path / 'of "100"').exists()


def test_the_command_is_repeated_without_slurm(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/keras-imnet64", "sweep", "--slurm", "--seeds", "2"])
    assert command_line() == ["/bin/keras-imnet64", "sweep", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["cli.py", "sweep", "--slurm"])
    python, program, *rest = command_line()
    assert "python" in python and Path(program).is_absolute() and rest == ["sweep"]


def test_a_single_cell_is_an_ordinary_run(plan, trained, data_dir, tmp_path):
    made = plan(RATES, train={"epochs": 1}, data={"steps_per_epoch": 2})
    machine = Machine(data_dir=data_dir)
    result = fit_cell(made, 1, tmp_path / "sweep", machine)
    run = Run(tmp_path / "sweep" / "cell-001")
    assert result == {"run": str(run.path), **run.metrics}
    assert load_recipe(run.recipe_file).optimizer.learning_rate == 0.1
    assert fit_cell(made, 1, tmp_path / "sweep", machine) == result  # finished before
    record = trained(made).record  # the others
    assert trained.starts == ["cell-000", "cell-002"]
    assert record.cells[1].val_top1 == run.metrics["best.keras"]["val_top1"]
    run.metrics_file.unlink()
    run.not_finite_file.write_text("{}")
    with pytest.raises(RunFailed, match="cell-001 diverged before"):
        fit_cell(made, 1, tmp_path / "sweep", machine)
    for number in (-1, 3):
        with pytest.raises(UserError, match=f"--cell must be from 0 to 2; received {number}"):
            fit_cell(made, number, tmp_path / "sweep", machine)


# ---------------------------------------------------------------------------------- the command


def test_the_command_trains_cells_for_real(run, content, data_dir, tmp_path, monkeypatch):
    """Two cells of a step each: one alone, as on a cluster; the other in a process of its own.

    Then the table and JSON from disk. `test_branches` has the check before in its process.
    """
    check_in_this_process(monkeypatch)
    import tomli_w

    values = content(train={"epochs": 1}, data={"steps_per_epoch": 1})
    values["optimizer"]["learning_rate"] = [0.01, 0.1]
    (tmp_path / "grid.toml").write_text(tomli_w.dumps(values))
    command = ["sweep", "--recipe", tmp_path / "grid.toml", "--out", tmp_path / "sweep"]
    command += ["--data-dir", data_dir]
    assert run(*command, "--cell", 0)[0] == 0
    status, out, err = run(*command)
    assert status == 0, err
    assert "1 cells were done before" in err and err.count("  finished\n") == 1
    assert "learning_rate=0.1 seed=0" in err
    heads = r"^learning_rate +held-out top-1 +finished +epochs trained +cells$"
    assert re.search(heads, out, re.MULTILINE)
    assert re.search(r"^ *0\.0?1 .* % +1 of 1 +1 +cell-00[01]$", out, re.MULTILINE)
    assert "of 16 images, by which it was chosen" in out
    assert "of 40 images of the validation split" in out
    status, out, err = run(*command, "--json")
    assert status == 0 and "2 cells were done before" in err
    found = json.loads(out)
    assert found == {
        "sweep": str(tmp_path / "sweep"),
        **json.loads((tmp_path / "sweep" / "sweep.json").read_text()),
    }
    assert run("recipes", "show", tmp_path / "sweep" / "best.toml")[0] == 0


def test_the_command_writes_a_script(run, content, tmp_path):
    import tomli_w

    (tmp_path / "one.toml").write_text(tomli_w.dumps(content()))
    command = ["sweep", "--recipe", tmp_path / "one.toml", "--out", tmp_path / "sweep"]
    status, out, _ = run(*command, "--seeds", "3", "--slurm", "--json")
    assert (status, json.loads(out)) == (
        0,
        {"script": str(tmp_path / "sweep" / "sweep.slurm"), "cells": 3},
    )
    assert "--seeds 3 --json --cell" in (tmp_path / "sweep" / "sweep.slurm").read_text()
