"""Processes that take turns: one at a time, and those that wait say for whom."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_imnet64.core.turns import one_at_a_time

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from keras_imnet64.core.turns import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), "drawing", sys.argv[2]):
    print("holds", flush=True)
    sys.stdin.readline()
    if sys.argv[3] == "fail":
        sys.exit("failed")
"""


@pytest.fixture
def hold(tmp_path):
    """hold(work, ending) -> a process that has the turn until it reads a line."""
    started = []

    def hold(work, ending="done"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "a" / "lock", work, ending],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "holds\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def release_soon(process):
    """Lets a process go on once this one waits for it."""
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.5); print()"], stdout=process.stdin
    )


@pytest.mark.parametrize(
    ("work", "ending", "is_done"),
    [("the same", "done", True), ("other", "done", False), ("the same", "fail", False)],
)
def test_a_process_waits_and_learns_whether_its_work_is_done(
    work, ending, is_done, hold, tmp_path, capfd
):
    holder = hold("the same", ending)
    release_soon(holder)
    with one_at_a_time(tmp_path / "a" / "lock", "drawing", work) as found:
        assert holder.wait(timeout=10) == (ending == "fail")
        assert found is is_done
    said = capfd.readouterr().err
    assert re.search(rf"waiting for process {holder.pid} on \S+, which is drawing", said)
    assert not list(tmp_path.rglob("*lock"))


def test_nobody_waits_for_a_killed_process(hold, tmp_path, capfd):
    hold("the same").send_signal(signal.SIGKILL)
    begun = time.monotonic()
    with one_at_a_time(tmp_path / "a" / "lock", "drawing", "the same") as is_done:
        assert not is_done
    assert time.monotonic() - begun < 5
    assert not list((tmp_path / "a").iterdir())


def test_what_fails_leaves_no_folder(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        one_at_a_time(tmp_path / "a" / "b" / "lock", "drawing", ""),
    ):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "file").touch()
    with one_at_a_time(tmp_path / "file" / "lock", "drawing", "") as is_done:
        assert not is_done
