"""The command: what it asks and prints with workers that answer at once, then with real ones."""

import json
import sys
from pathlib import Path

import pytest

from keras_imnet64 import bench
from keras_imnet64.bench import sides
from keras_imnet64.bench.record import BenchMachine, BenchRecord
from keras_imnet64.bench.rounds import measure
from keras_imnet64.core.validation import parse_record, to_json
from keras_imnet64.recipe.loading import load_recipe

FAKE = Path(__file__).parent / "fake_worker.py"
BENCH = ("bench", "--recipe", "small.toml", "--rounds", 2)


@pytest.fixture
def place(small_recipe, tmp_path, monkeypatch):
    """A folder with a recipe, in which workers answer at once.

    PyTorch's take twice as long as ours, and 1.5 times as long if it is tuned.
    """
    (tmp_path / "small.toml").write_text(small_recipe().to_toml())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    log, peer = str(tmp_path / "log"), tmp_path / "peer.py"
    peer.write_text(
        "import runpy, sys\nseconds = '1.5' if '--mode=tuned' in sys.argv else '2.0'\n"
        f"sys.argv[1:1] = [{log!r}, 'peer', seconds]\n"
        f"runpy.run_path({str(FAKE)!r}, run_name='__main__')\n"
    )
    ours = [sys.executable, str(FAKE), log, "ours"]
    monkeypatch.setattr(sides, "module_command", lambda module, arguments: ours)
    monkeypatch.setattr(sides, "PEER", peer)
    monkeypatch.setattr(sides, "find_spec", lambda name: name)
    return tmp_path


def result_of(run, *arguments):
    """The record that `bench --json` prints, and what it says besides."""
    status, out, err = run(*BENCH, "--json", *arguments)
    assert status == 0, err
    assert out.count("\n") == 1
    return parse_record(BenchRecord, out), json.loads(out), err


def test_each_backend_and_dtype_has_its_row(place, run):
    dtypes = ("--dtype", "float32,mixed_bfloat16")
    record, _, _ = result_of(run, "--backend", "tensorflow", "--backend", "jax", *dtypes)
    assert [row.label for row in record.rows] == [
        "tensorflow float32",
        "jax float32",
        "tensorflow mixed_bfloat16",
        "jax mixed_bfloat16",
    ]
    assert record.rows[0].step.rounds == (1.0, 1.0)
    assert record.rows[0].input is None
    assert record.ratios == ()


def test_the_record_says_what_was_measured_where(place, run):
    record, _, err = result_of(run, "--set", "model.depth=14", "--batch-size", 8)
    assert record.subject.batch_size == 8
    assert record.subject.model["depth"] == 14
    assert record.overrides == ("model.depth=14", "data.batch_size=8")
    assert (record.images, record.num_rounds) == ("random", 2)
    assert record.machine.cpu and record.machine.cores >= 1
    assert "keras" in record.versions
    assert "imagenet_resized/16x16 is not packed" in err and "input is not measured" in err


@pytest.mark.parametrize(("load", "is_said"), [(0.1, False), (7.2, True)])
def test_a_busy_machine_is_said_and_recorded(place, run, monkeypatch, load, is_said):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    record, _, err = result_of(run)
    assert record.load == load
    assert ("load average 7.2" in err) == is_said


def test_the_peer_is_measured_in_each_mode(place, run):
    record, _, _ = result_of(run, "--peer", "--backend", "tensorflow")
    assert [row.name for row in record.rows] == [
        "torch eager",
        "torch compile",
        "torch tuned",
        "tensorflow",
    ]
    assert [row.is_peer for row in record.rows] == [True, True, True, False]
    (ratio,) = record.ratios
    assert (ratio.step, ratio.step_as_installed, ratio.forward) == (1.5, 2.0, 1.5)
    assert ratio.memory == 100 / 150


def test_on_a_gpu_no_allocator_of_the_cpu_is_tuned(place, run, monkeypatch):
    monkeypatch.setattr(bench, "this_machine", lambda: BenchMachine("a CPU", 2, ("a GPU",)))
    record, _, _ = result_of(run, "--peer", "--backend", "tensorflow")
    assert [row.name for row in record.rows] == ["torch eager", "torch compile", "tensorflow"]


def test_a_table_for_people(place, run):
    _, out, _ = run(*BENCH, "--peer", "--backend", "tensorflow")
    assert "small at 16 images of 16 px per step" in out
    assert "16 ± 0.0 %" in out  # of 16 in a second
    assert (
        "tensorflow float32 / PyTorch's best: step 1.50 times as fast (2.00 beside PyTorch as"
        in out
    )


def test_a_row_of_markdown(place, run):
    _, out, _ = run(*BENCH, "--peer", "--backend", "tensorflow", "--markdown")
    assert out.splitlines()[0].startswith("| network, batch | dtype | PyTorch eager |")
    theirs = "8, 200 MB | 8, 200 MB | 10.7, 150 MB"
    assert f"| `small`, 16 | float32 | {theirs} | 16, 2.00 and 1.50 times, 100 MB |" in out

    _, out, _ = run(*BENCH, "--markdown", "--set", "model.depth=14", "--batch-size", 8)
    assert "| `small --set model.depth=14`, 8 | float32 |" in out


def test_the_change_since_a_result(place, run):
    _, content, _ = result_of(run, "--backend", "tensorflow")
    for row in content["rows"]:
        row["step"]["median"] = 0.5
    Path("before.json").write_text(json.dumps(content))
    again = ("--backend", "tensorflow", "--against", "before.json")
    _, content, _ = result_of(run, *again)
    changes = {change["figure"]: change["ratio"] for change in content["changes"]}
    assert changes == {"forward": 1.0, "step": 2.0, "compile": 1.0, "memory": 1.0}
    _, out, _ = run(*BENCH, *again)
    assert "below 1 is better" in out


def test_the_recipe_of_the_file_must_be_the_same(place, run):
    _, content, _ = result_of(run)
    Path("before.json").write_text(json.dumps(content))
    status, out, err = run(*BENCH, "--batch-size", 8, "--against", "before.json")
    assert (status, out) == (2, "")
    assert "before.json is of small at 16 images" in err.splitlines()[-1]
    assert "starting" not in err  # said before anything is measured


def test_a_network_is_the_same_in_a_file_of_results():
    """Whose options may be lists."""
    subject = bench.subject_of(load_recipe("tiny200_150min"), 200)
    assert json.loads(json.dumps(to_json(subject)))["model"] == subject.model
    assert subject.model["blocks"] == [2, 2, 2, 2]


@pytest.mark.parametrize("missing", ["file", "torch"])
def test_a_peer_that_is_not_there(place, run, monkeypatch, missing):
    if missing == "file":  # as beside an installed package
        monkeypatch.setattr(sides, "PEER", place / "nowhere" / "torch_peer.py")
    else:
        monkeypatch.setattr(sides, "find_spec", lambda name: None)
    status, _, err = run(*BENCH, "--peer")
    assert status == 2
    expected = {"file": "needs a checkout of the repository", "torch": "pip install torch"}
    assert err.startswith("Error: --peer needs") and expected[missing] in err


def test_a_real_worker_on_images(small_recipe, data_dir, tmp_path, run, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(bench, "measure", lambda sides, rounds, _: measure(sides, rounds, 0.1))
    (tmp_path / "small.toml").write_text(small_recipe().to_toml())
    monkeypatch.chdir(tmp_path)
    options = ("--data-dir", data_dir, "--batch-size", 4)
    options += ("--backend", "tensorflow", "--dtype", "mixed_bfloat16")
    record, _, err = result_of(run, *options)
    assert record.images == "imagenet_resized/16x16"
    (row,) = record.rows
    for timing in (row.forward, row.step, row.input, row.both):
        assert len(timing.rounds) == 2 and min(timing.rounds) > 0
    assert row.compile_seconds > row.step.median
    assert row.devices == ("CPU:0",)
    assert "note" not in err and "measuring round 2 of 2 ..." in err
