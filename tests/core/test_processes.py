"""Child processes: that they find this package, get requests and give replies; why they failed."""

import os
import signal
import sys

import pytest

from keras_imnet64.core import processes
from keras_imnet64.core.errors import RunFailed
from keras_imnet64.core.processes import ChildResult, failure_reason, run_child, start_child


@pytest.fixture
def child_module(tmp_path, monkeypatch):
    """child_module(source) -> name of a module that children can run."""

    def write(source):
        (tmp_path / "the_child.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "the_child"

    return write


ECHO = """
import json, sys
import keras_imnet64
print("a library says hello")
print(json.dumps({"request": json.load(sys.stdin), "words": sys.argv[1:]}))
print("and good bye")
"""


def test_a_request_goes_in_and_a_reply_comes_out(child_module):
    result = run_child(child_module(ECHO), "a", "b", request={"number": 1}, own_session=True)
    assert result.failure is None
    assert result.reply("the child") == {"request": {"number": 1}, "words": ["a", "b"]}


def test_files_of_the_working_directory_are_no_modules(child_module, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "json.py").write_text("raise SystemExit('shadowed')")
    module = child_module(ECHO)
    monkeypatch.chdir(tmp_path / "work")
    assert run_child(module, request={}).failure is None


def test_an_environment_replaces_that_of_this_process(child_module, tmp_path, monkeypatch):
    monkeypatch.setenv("ONLY_HERE", "1")
    module = child_module("import os, json, keras_imnet64; print(json.dumps(dict(os.environ)))")
    found = run_child(module, environment={"PYTHONPATH": str(tmp_path)}).reply("the child")
    assert "ONLY_HERE" not in found
    assert found["PYTHONPATH"].split(os.pathsep)[-1] == str(tmp_path)


def test_an_installed_package_does_not_come_before_what_pythonpath_names(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PACKAGE_PARENT", tmp_path / "site-packages")
    assert processes.environment_with_package({"PYTHONPATH": "mine"})["PYTHONPATH"] == "mine"


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        ("import sys; sys.exit(3)", "it ended with status 3"),
        ("import os; os.kill(os.getpid(), 11)", "it was ended by signal 11"),
        ("import os; os.kill(os.getpid(), 9)", r"signal 9 \(Killed\), as happens where memory"),
        (
            "import os, sys; print('Check failed: x > 0', file=sys.stderr); os.abort()",
            r'ended by signal 6 \(Aborted\): "Check failed: x > 0"',
        ),
        ("import os; os.abort()", r"ended by signal 6 \(Aborted\)$"),
        ("raise ImportError('no libcudart\\n\\nAsk us.')", "ImportError: no libcudart"),
        ("import sys; print('Error: no room', file=sys.stderr); 1 / 0", "no room"),
        ("import sys; sys.exit('out of disk')", "out of disk"),
        ("print('no object')", "it printed no result"),
        ("print('[1]')", "it printed no result"),
    ],
)
def test_a_failure_is_one_sentence(child_module, source, failure):
    result = run_child(child_module(source))
    with pytest.raises(RunFailed, match=f"^the child failed: .*{failure}"):
        result.reply("the child")


def test_a_child_that_hangs_is_killed_and_keeps_what_it_printed(child_module):
    source = "import time; print('{\"begun\": true}', flush=True); time.sleep(60)"
    result = run_child(child_module(source), timeout=2)
    assert result == ChildResult('{"begun": true}\n', "no answer within 2 seconds")
    assert list(result.objects()) == [{"begun": True}]


def test_a_python_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    result = run_child("json.tool")
    assert result.output == "" and "No such file" in result.failure


def test_success_needs_no_reason():
    assert failure_reason(0, "Error: of a process before\n") is None


WAIT = """
import time
from keras_imnet64.core.processes import end_with_parent
end_with_parent()
time.sleep(60)
"""


def test_a_child_ends_when_its_standard_input_closes(child_module, tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    child = start_child(child_module(WAIT), log=log)
    assert os.getsid(child.pid) == child.pid  # a session of its own
    child.stdin.close()
    assert child.wait(timeout=60) == -signal.SIGTERM
    assert log.read_text().startswith("before\n")
