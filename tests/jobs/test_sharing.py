"""Several real processes share out the cells of a sweep, and go on when one is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_imnet64.sweep.folder import SweepFolder

TESTS = Path(__file__).parents[1]
EPOCH = re.compile(r"epoch (\d+) by (\d+)")


@pytest.fixture
def start(small_recipe, tmp_path):
    """start(rates, machine) -> one of the processes that share out a sweep; killed at the end."""
    recipe, started = tmp_path / "small.toml", []
    recipe.write_text(small_recipe(data={"holdout": 16}).to_toml())

    def start(rates, *machine):
        command = [TESTS / "sharing_sweep.py", recipe, tmp_path / "sweep", rates, *machine]
        path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def cells(tmp_path):
    """cells() -> {cell: process ids of its epochs}, which must be trained once each."""

    def cells():
        found = {}
        for file in sorted((tmp_path / "sweep").glob("cell-*/trained.txt")):
            epochs = EPOCH.findall(file.read_text())
            assert [int(epoch) for epoch, _ in epochs] == list(range(1, len(epochs) + 1))
            found[file.parent.name] = {pid for _, pid in epochs}
        return found

    return cells


def wait_until(is_true, process):
    deadline = time.monotonic() + 60
    while not is_true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


ONE, TWO = ((), ()), (("a",), ("b",))


@pytest.mark.parametrize(
    "machines", [pytest.param(ONE, marks=pytest.mark.slow), TWO], ids=["one_machine", "two"]
)
def test_each_cell_is_trained_once_and_one_process_writes_the_results(
    machines, start, cells, tmp_path
):
    rates = ",".join(str(0.61 + number / 100) for number in range(6))
    both = [start(rates, *machine) for machine in machines]
    for process in both:  # each has a cell before any is finished
        wait_until(lambda: len(cells()) == 2, process)
    (tmp_path / "sweep.gate").touch()
    out, errors = zip(*(process.communicate(timeout=120) for process in both), strict=True)
    assert [process.returncode for process in both] == [0, 0], errors
    assert sorted(out) == ["\n", "wrote the results\n"]
    assert len(cells()) == 6 and all(len(pids) == 1 for pids in cells().values())
    record = SweepFolder(tmp_path / "sweep").read()
    assert [cell.state for cell in record.cells] == ["finished"] * 6
    started = [re.findall(r"(cell-\d+)  started", text) for text in errors]
    assert sorted(started[0] + started[1]) == list(cells()) and started[0] and started[1]
    for own, other, text in zip(started, reversed(started), errors, strict=True):
        assert f"trained here: {len(own)} (" in text
        assert re.search(rf"by process \d+ on \S+: {len(other)} \(", text)
    assert len([text for text in errors if "another process has written the results" in text]) == 1


@pytest.mark.parametrize(
    "machines", [ONE, pytest.param(TWO, marks=pytest.mark.slow)], ids=["one_machine", "two"]
)
def test_what_a_killed_process_leaves_is_taken_over(machines, start, cells, tmp_path):
    """Its cell goes on behind the epochs that it has trained."""
    first = start("0.6,0.01", *machines[0])
    wait_until(lambda: "cell-000" in cells(), first)
    second = start("0.6,0.01", *machines[1])
    wait_until((tmp_path / "sweep" / "cell-001" / "metrics.json").exists, second)
    time.sleep(1)  # so that it finds nothing more to take
    first.send_signal(signal.SIGKILL)
    (tmp_path / "sweep.gate").touch()
    out, text = second.communicate(timeout=120)
    assert second.returncode == 0 and out == "wrote the results\n", text
    assert "nothing left to take, waiting for cell-000 (process" in text
    assert f"cell-000  taken over from process {first.pid} on" in text
    assert [len(pids) for pids in cells().values()] == [2, 1]
    record = SweepFolder(tmp_path / "sweep").read()
    assert [cell.epochs for cell in record.cells] == [10, 10]


def test_a_cell_that_fails_is_tried_once_and_reported_by_all(start, cells):
    both = [start("0.02,0.03,1.1", machine) for machine in ("a", "b")]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], errors
    assert sum(text.count("cell-002  started") for text in errors) == 1
    for text in errors:
        assert "1 of 3 cells failed (cell-002), the first with: the loss is not finite" in text
    again = start("0.02,0.03,1.1")
    assert "cell-002  started" in again.communicate(timeout=120)[1]


def test_a_machine_on_which_everything_fails_leaves_cells_to_the_others(start, cells, tmp_path):
    """It takes three, and the others train the rest, also those behind which it has waited."""
    healthy = start("0.6,0.01,0.02,0.03,0.04,0.05,0.06", "a")
    wait_until(lambda: "cell-000" in cells(), healthy)
    broken = start("0.6,0.01,0.02,0.03,0.04,0.05,0.06", "broken")
    wait_until((tmp_path / "sweep" / "claims" / "cell-003.1").exists, broken)
    time.sleep(3)  # it looks ten times, and would have tried all
    (tmp_path / "sweep.gate").touch()
    errors = [process.communicate(timeout=120)[1] for process in (healthy, broken)]
    assert [healthy.returncode, broken.returncode] == [1, 1], errors
    assert re.findall(r"(cell-\d+)  started", errors[1]) == ["cell-001", "cell-002", "cell-003"]
    sentence = "cell-001, cell-002, cell-003 have failed here one after another, so this process"
    assert errors[1].count(sentence) == 1 and sentence not in errors[0]
    finished = re.findall(r"(cell-\d+)  finished", errors[0])
    assert finished == ["cell-000", "cell-004", "cell-005", "cell-006"]
    for text in errors:
        assert "3 of 7 cells failed (cell-001, cell-002, cell-003), the first with: " in text


def test_a_process_without_others_tries_all_cells(start):
    alone = start("1.1,1.2,1.3,1.4,0.01", "a")
    _, text = alone.communicate(timeout=120)
    assert alone.returncode == 1 and "4 of 5 cells failed" in text, text
    assert "cell-004  finished" in text and "takes nothing more" not in text


def test_a_process_that_was_suspended_gives_its_cell_up(start, cells, tmp_path):
    """Another machine takes it for dead; when it wakes up, it kills what trains the cell."""
    first = start("0.6", "a")
    wait_until(lambda: "cell-000" in cells(), first)
    (child,) = map(int, cells()["cell-000"])
    for process in (first.pid, child):
        os.kill(process, signal.SIGSTOP)
    second = start("0.6", "b")
    wait_until((tmp_path / "sweep" / "claims" / "cell-000.2").exists, second)
    first.send_signal(signal.SIGCONT)
    (tmp_path / "sweep.gate").touch()
    texts = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], texts
    assert "cell-000  given up: another process took this one for dead" in texts[0]
    assert "cell-000  taken over from process" in texts[1]


def test_what_is_stopped_is_taken_by_the_others(start, cells, tmp_path):
    first = start("0.6,0.01")
    wait_until(lambda: "cell-000" in cells(), first)
    second = start("0.6,0.01")
    wait_until(lambda: "cell-001" in cells(), second)
    first.send_signal(signal.SIGTERM)
    out, text = first.communicate(timeout=60)
    (tmp_path / "sweep.gate").touch()
    assert first.returncode == 75 and out == "\n", text
    out, text = second.communicate(timeout=120)
    assert second.returncode == 0 and out == "wrote the results\n", text
    assert len(cells()["cell-000"]) == 2
