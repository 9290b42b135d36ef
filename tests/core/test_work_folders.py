"""Working folders: whose one is, when it goes, and that no other machine's is ever touched."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from keras_imnet64.core.work_folders import living_writer, new_beside, remove_dead


@pytest.fixture
def on_host(monkeypatch):
    """on_host("node"): this machine has that name from now on."""
    return lambda name: monkeypatch.setattr("socket.gethostname", lambda: name)


@pytest.fixture
def other():
    """A process that lives while the test does."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


def begun_by(pid, path, on_host, host="node"):
    """The working folder that a process of a host makes for `path`."""
    on_host(host)
    folder = new_beside(path, "writing")
    return folder.rename(folder.with_name(folder.name.replace(f"@{os.getpid()}@", f"@{pid}@")))


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_new_folder_is_empty_and_lies_beside(tmp_path):
    first, second = (new_beside(tmp_path / "store", "writing") for _ in range(2))
    assert first != second and first.parent == second.parent == tmp_path
    assert first.name.startswith(".store.writing@") and list(first.iterdir()) == []


def test_those_of_the_dead_go_when_a_new_one_is_made(tmp_path, on_host, other):
    pids = dead_process(), other.pid
    dead, alive = [begun_by(pid, tmp_path / "store", on_host) for pid in pids]
    other_word = dead.with_name(dead.name.replace("writing", "exporting"))
    other_result = dead.with_name(dead.name.replace("store", "stores"))
    for folder in (dead, other_word, other_result):
        folder.mkdir(exist_ok=True)
    mine = new_beside(tmp_path / "store", "writing")
    assert set(tmp_path.iterdir()) == {alive, other_word, other_result, mine}


@pytest.mark.parametrize("theirs", ["node-999999999", "node.999999999", "other", "nod", "Node"])
def test_those_of_another_host_are_never_ours(tmp_path, on_host, theirs):
    """Here 999999999 is no process: a name cut at the wrong mark would be deleted as its own."""
    folder = begun_by(dead_process(), tmp_path / "store", on_host, theirs)
    living = begun_by(os.getppid(), tmp_path / "store", on_host, f"{theirs}-2")
    on_host("node")
    remove_dead(tmp_path / "store", "writing")
    assert folder.is_dir() and living.is_dir()
    assert living_writer(tmp_path / "store", "writing") is None


def test_a_host_of_any_name_has_its_own(tmp_path, on_host):
    folder = begun_by(dead_process(), tmp_path / "store[1]", on_host, "a@b/c [x]*")
    assert folder.is_dir()
    remove_dead(tmp_path / "store[1]", "writing")
    assert not folder.exists()


def test_another_living_writer_is_named_and_we_are_not(tmp_path, on_host, other):
    assert living_writer(tmp_path / "nowhere" / "store", "writing") is None
    on_host("node")
    new_beside(tmp_path / "store", "writing")
    assert living_writer(tmp_path / "store", "writing") is None
    begun_by(other.pid, tmp_path / "store", on_host)
    assert living_writer(tmp_path / "store", "writing") == other.pid
    assert living_writer(tmp_path / "store", "exporting") is None


def test_a_later_process_of_the_same_number_is_not_the_writer(tmp_path, on_host, other):
    """Clocks of files may lag a little; a folder of an hour ago is of somebody else."""
    folder = begun_by(other.pid, tmp_path / "store", on_host)
    started = psutil.Process(other.pid).create_time()
    os.utime(folder, (started - 2, started - 2))
    assert living_writer(tmp_path / "store", "writing") == other.pid
    os.utime(folder, (started - 3600, started - 3600))
    assert living_writer(tmp_path / "store", "writing") is None
    remove_dead(tmp_path / "store", "writing")
    assert not folder.exists()


def test_a_process_that_we_may_not_look_at_is_taken_to_live(tmp_path, on_host, other, monkeypatch):
    def refuse(_):
        raise psutil.AccessDenied

    folder = begun_by(other.pid, tmp_path / "store", on_host)
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    remove_dead(tmp_path / "store", "writing")
    assert folder.is_dir() and living_writer(tmp_path / "store", "writing") == other.pid


def test_a_killed_process_that_nobody_waits_for_is_dead(tmp_path, on_host, other):
    folder = begun_by(other.pid, tmp_path / "store", on_host)
    other.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    remove_dead(tmp_path / "store", "writing")
    assert not folder.exists()


def test_names_that_are_almost_of_ours_are_left_alone(tmp_path, on_host):
    on_host("node")
    for end in ("", "x@a", "-1@a", "@a", "²@a"):
        (tmp_path / f".store.writing@node@{end}").mkdir()
    before = set(tmp_path.iterdir())
    (tmp_path / f".store.writing@node@{10**30}@a").mkdir()  # no process has it
    remove_dead(tmp_path / "store", "writing")
    assert set(tmp_path.iterdir()) == before
