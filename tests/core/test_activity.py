"""What a command says while something takes long: on a terminal, in a log, in which order."""

import contextlib
import os
import pty
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from log_stream import make_log

from keras_imnet64.core import activity
from keras_imnet64.core.activity import Activity, is_active

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("keras", "tensorflow", "jax")
LOADS = "import os\nos.write(2, b'IMPORTED\\n')\nraise ImportError('not in this test')\n"
COMMANDS = (
    "fit --recipe demo",
    "evaluate run",
    "predict run image.jpg",
    "ensemble run",
    "convert --model resnet18 --weights w.safetensors --image-size 64 --out o.keras",
    "data preview --recipe demo --out sheet.png",
    "data prepare shapes",
)


@pytest.fixture
def log(monkeypatch):
    """log(is_terminal) -> the stream; the thread that refreshes the screen does nothing."""
    return partial(make_log, monkeypatch)


def test_a_log_has_a_line_after_two_seconds_and_then_fewer_and_fewer(log):
    stream = log()
    with Activity("compiling the training step"):
        stream.wait(1.5)
        assert stream.getvalue() == ""
        stream.wait(1)
        assert stream.getvalue() == "compiling the training step ... 2 s"
        stream.wait(3600)
    lines = stream.getvalue().splitlines()
    seconds = [int(line.split()[-2]) for line in lines]
    assert seconds == [2, 30, 60, 120, 240, 480, 960, 1920]
    dots = [line.split()[-1].count(".") for line in lines]  # one a second
    assert dots[:4] == [27, 29, 59, 119]


def test_what_has_figures_of_its_own_has_a_line_every_thirty_seconds(log):
    stream = log()
    with Activity("epoch 1/2 0/900", steady=True) as epoch:
        for step in range(1, 121):
            epoch.text = f"epoch 1/2 {step}/900"
            stream.wait(1)
    steps = [line.split()[2] for line in stream.getvalue().splitlines()]
    assert steps == ["2/900", "32/900", "62/900", "92/900"]


def test_a_log_is_never_silent_for_three_seconds(log):
    """Whatever begins, ends and is printed meanwhile."""
    stream = log()
    written, silent = "", 0.0
    with Activity("outer", at_once=True):
        for number in range(60):
            with Activity("inner") if number % 3 else contextlib.nullcontext():
                for _ in range(number % 7):
                    stream.wait(0.5)
                    silent = 0.0 if stream.getvalue() != written else silent + 0.5
                    assert silent < 3
                    written = stream.getvalue()
            if number % 5 == 0:
                with activity.printing():
                    stream.write("a message\n")
    lines = stream.getvalue().splitlines()
    assert lines.count("a message") == 12  # each on a line of its own


def test_a_result_ends_the_line_that_it_begins_with(log):
    for text, result, expected in (
        ("scoring", "scoring ... 2 s: 59.9 %", "scoring ... 2 s...: 59.9 %\n"),
        ("scoring", "top1 59.9", "scoring ... 2 s...\n"),
    ):
        stream, activity = log(), Activity(text)
        activity.start()
        stream.wait(5)
        assert activity.complete(result) == (": 59.9" in expected)
        assert stream.getvalue() == expected
        assert not is_active()


def test_a_result_follows_no_line_on_a_terminal_or_before_there_is_one(log):
    for is_terminal, seconds in ((True, 5), (False, 1)):
        stream, activity = log(is_terminal), Activity("scoring")
        activity.start()
        stream.wait(seconds)
        assert not activity.complete("scoring ... 59.9 %")
        assert "59.9" not in stream.getvalue()


def test_what_is_short_is_not_in_a_log_unless_it_is_the_first_line(log):
    stream = log()
    with Activity("opening shapes"):
        stream.wait(1)
    assert stream.getvalue() == ""
    with Activity("loading jax", at_once=True):
        assert stream.getvalue() == "loading jax ..."
        stream.wait(3)
    assert stream.getvalue() == "loading jax ......\n"


def test_the_innermost_activity_is_shown_with_what_is_done(log):
    stream = log()
    with Activity("outer"):
        with Activity("scoring shapes") as scoring:
            scoring.count(1000, 5000)
            stream.wait(3)
        assert stream.getvalue() == "scoring shapes ... 1,000/5,000 2 s.\n"
        stream.wait(1)
    assert stream.getvalue().splitlines()[1:] == ["outer ... 4 s"]  # 3 s, rounded by half


def test_a_terminal_has_one_line_that_disappears(log):
    stream = log(is_terminal=True)
    with Activity("compiling"):
        stream.wait(5)
    lines = stream.getvalue().split(activity.CLEAR_LINE)
    assert "\n" not in stream.getvalue()
    assert lines[-2:] == ["compiling ... 5 s", ""]


def test_control_characters_do_not_reach_the_terminal(log):
    stream = log(is_terminal=True)
    with Activity("loading \x1b[31mmodel"):
        stream.wait(1)
    assert "\x1b[31m" not in stream.getvalue()


def test_nothing_goes_on_after_an_error(log):
    log()
    with pytest.raises(ValueError, match="stop"), Activity("compiling"):
        raise ValueError("stop")
    assert not is_active()


SAYS = """
import time
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.console import say
from keras_imnet64.core.progress_bars import PackingBar
with Activity("compiling"):
    time.sleep(0.6)
    say("a message")
    time.sleep(0.6)
    with PackingBar() as bar:
        bar("packing", 1, 2)
        time.sleep(0.6)
        bar("packing", 2, 2)
"""


def test_messages_and_bars_are_never_behind_an_activity_on_a_terminal():
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", SAYS], env=environment, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    text = written.decode()
    clear = activity.CLEAR_LINE
    assert f"compiling ...{clear}a message\r\n" in text
    during_bar = text[text.index("packing") : text.rindex("packing")]
    assert "compiling" not in during_bar


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_line_comes_before_the_frameworks(tmp_path, command):
    for name in FRAMEWORKS:
        (tmp_path / f"{name}.py").write_text(LOADS)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    child = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *command.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stderr.startswith("loading tensorflow ...IMPORTED\n"), child.stderr
