"""Workers take turns, in alternating order; none outlives the benchmark, whatever happens."""

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from keras_imnet64.bench.rounds import Side, measure
from keras_imnet64.core import activity
from keras_imnet64.core.errors import RunFailed, UserError

FAKE = Path(__file__).parent / "fake_worker.py"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def side(log, name, *arguments, **changes):
    command = [sys.executable, str(FAKE), str(log), name, *map(str, arguments)]
    return Side(name, "float32", command, **changes)


def events(log, word):
    """(name, line) of the events of a kind, in their order."""
    lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
    return [(name, rest[0]) for name, what, *rest in lines if what == word]


def is_running(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def all_have_ended(log):
    pids = [pid for _, pid in events(log, "is")]
    assert pids
    return not any(map(is_running, pids))


def test_the_seconds_are_of_one_batch_in_each_round(log):
    a, b = measure([side(log, "a", 1.0), side(log, "b", 3.0)], num_rounds=2, block_seconds=1)
    assert a.seconds == {"forward": [0.25, 0.25], "step": [1.0, 1.0]}
    assert b.seconds == {"forward": [0.75, 0.75], "step": [3.0, 3.0]}
    assert (a.memory_mb, b.memory_mb) == (100.0, 300.0)
    assert a.facts["compile_seconds"] == 2.0


def test_rounds_alternate_and_reverse(log):
    measure([side(log, "a"), side(log, "b")], num_rounds=3, block_seconds=1)
    order = events(log, "begins")
    # Memory is that of steps: no forward pass was made before.
    start = ["step 3", "memory", "forward 3", "forward 3", "step 3", "step 3"]
    assert order[:12] == [(name, line) for name in ("a", "b") for line in start]
    there = [("a", "forward 4"), ("b", "forward 4"), ("a", "step 3"), ("b", "step 3")]
    back = [("b", "forward 4"), ("a", "forward 4"), ("b", "step 3"), ("a", "step 3")]
    assert order[12:] == there + back + there


def test_a_block_takes_as_long_as_asked(log):
    """Of batches of 0.01 seconds, forward 0.0025, a block of half a second has 50 and 200."""
    measure([side(log, "a", 0.01)], num_rounds=1, block_seconds=0.5)
    assert [line for _, line in events(log, "begins")][-2:] == ["forward 200", "step 50"]


def test_only_one_works_at_a_time(log):
    measure([side(log, "a"), side(log, "b"), side(log, "c")], num_rounds=2, block_seconds=1)
    lines = [line for line in log.read_text().splitlines() if " is " not in line]
    begun, ended = lines[::2], lines[1::2]
    assert len(begun) == 3 * (6 + 2 * 2)
    assert [line.replace("begins", "ends") for line in begun] == ended


def test_a_side_that_does_not_warm_up_is_asked_twice(log):
    peer = side(log, "peer", warms_up=False)
    measure([peer, side(log, "ours")], num_rounds=1, block_seconds=1)
    asked = events(log, "begins")
    assert asked.count(("peer", "step 3")) == 1 + 2 * 2 + 2
    assert asked.count(("ours", "step 3")) == 1 + 2 + 1


def test_the_request_is_the_first_line(log):
    (found,) = measure([side(log, "a", request={"recipe": "x"})], num_rounds=1, block_seconds=1)
    assert found.seconds["step"] == [1.0]


@pytest.mark.parametrize(
    ("when", "status", "last_words", "kind", "sentence"),
    [
        ("start", 2, "Error: no such network", UserError, "no such network"),
        ("start", 1, "Error: disk full", RunFailed, "b float32 failed: disk full"),
        ("step 3", 1, "ValueError: odd", RunFailed, "b float32 failed: ValueError: odd"),
        ("memory", -9, "", RunFailed, "signal 9 .* as happens where memory runs out"),
        ("forward 3", 0, "", RunFailed, "it ended without an answer"),
    ],
)
def test_a_worker_that_ends_is_explained_and_the_others_end(
    log, when, status, last_words, kind, sentence
):
    sides = [side(log, "a"), side(log, "b", 1.0, when, status, last_words)]
    with pytest.raises(UserError, match=sentence) as caught:
        measure(sides, num_rounds=1, block_seconds=1)
    assert type(caught.value) is kind
    assert all_have_ended(log)


def test_workers_end_when_all_is_measured(log):
    measure([side(log, "a"), side(log, "b")], num_rounds=1, block_seconds=1)
    assert all_have_ended(log)


@pytest.fixture
def interrupt_when():
    """interrupt_when(is_so) presses Ctrl-C when a condition holds.

    Processes of a parallel test run ignore that otherwise.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield _interrupt_when
    signal.signal(signal.SIGINT, before)


def _interrupt_when(is_so):
    def wait():
        while not is_so():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_workers_that_ignore_ctrl_c_end_with_it(log, interrupt_when):
    interrupt_when(lambda: log.exists() and len(events(log, "is")) == 2)
    with pytest.raises(KeyboardInterrupt):
        measure([side(log, "a"), side(log, "b", 1.0, "hang")], num_rounds=1, block_seconds=1)
    assert all_have_ended(log)


def test_a_worker_that_is_just_starting_ends_with_ctrl_c(log, monkeypatch):
    def interrupted(_):
        while not log.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure([side(log, "a", 1.0, "hang")], num_rounds=1, block_seconds=1)
    assert all_have_ended(log)


def test_waiting_is_not_silent(log, monkeypatch, interrupt_when):
    written = io.StringIO()
    monkeypatch.setattr(activity._screen, "stream", written)
    monkeypatch.setattr(activity, "REFRESH_SECONDS", 0.02)
    monkeypatch.setattr(activity, "DOT_SECONDS", 0.1)
    interrupt_when(lambda: "......" in written.getvalue())
    with pytest.raises(KeyboardInterrupt):
        measure([side(log, "a", 1.0, "hang")], num_rounds=1, block_seconds=1)
    assert written.getvalue().rstrip(".\n") == "starting a float32 "


def test_what_a_peer_cannot_measure_is_said(log, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        "print('{}', flush=True)\nfor line in __import__('sys').stdin:\n"
        '    print(\'{"error": "unknown"}\', flush=True)\n'
    )
    odd = Side("odd", "float32", [sys.executable, str(other)])
    with pytest.raises(RunFailed, match="odd float32 has not measured forward: unknown"):
        measure([odd], num_rounds=1, block_seconds=1)
