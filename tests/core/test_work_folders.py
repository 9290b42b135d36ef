"""Work folders: which process owns a folder, when it is deleted, and how a result is published."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.work_folders import (
    abandoned,
    living_writer,
    new_work_folder,
    publish,
    remove_abandoned,
    report_failed_write,
    work_folder,
)


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


def made_by(pid, path, on_host, host="node"):
    """The work folder that a process of a host makes for `path`."""
    on_host(host)
    folder = new_work_folder(path, "writing")
    return folder.rename(folder.with_name(folder.name.replace(f"@{os.getpid()}@", f"@{pid}@")))


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_new_folder_is_empty_and_lies_beside_its_target(tmp_path):
    first, second = (new_work_folder(tmp_path / "store", "writing") for _ in range(2))
    assert first != second and first.parent == second.parent == tmp_path
    assert first.name.startswith(".store.writing@") and list(first.iterdir()) == []


def test_folders_of_dead_processes_go_when_a_folder_is_made(tmp_path, on_host, other):
    pids = dead_process(), other.pid
    dead, alive = [made_by(pid, tmp_path / "store", on_host) for pid in pids]
    other_word = dead.with_name(dead.name.replace("writing", "exporting"))
    other_result = dead.with_name(dead.name.replace("store", "stores"))
    for folder in (dead, other_word, other_result):
        folder.mkdir(exist_ok=True)
    mine = new_work_folder(tmp_path / "store", "writing")
    assert set(tmp_path.iterdir()) == {alive, other_word, other_result, mine}


@pytest.mark.parametrize("theirs", ["node-999999999", "node.999999999", "other", "nod", "Node"])
def test_folders_of_another_host_are_left_alone(tmp_path, on_host, theirs):
    """Here 999999999 is no process: a name cut at the wrong mark would be deleted as its own."""
    folder = made_by(dead_process(), tmp_path / "store", on_host, theirs)
    living = made_by(os.getppid(), tmp_path / "store", on_host, f"{theirs}-2")
    on_host("node")
    remove_abandoned(tmp_path / "store", "writing")
    assert folder.is_dir() and living.is_dir()
    assert living_writer(tmp_path / "store", "writing") is None


def test_a_host_may_have_any_name(tmp_path, on_host):
    folder = made_by(dead_process(), tmp_path / "store[1]", on_host, "a@b/c [x]*")
    assert folder.is_dir()
    remove_abandoned(tmp_path / "store[1]", "writing")
    assert not folder.exists()


def test_another_living_writer_is_found_and_this_process_is_not(tmp_path, on_host, other):
    assert living_writer(tmp_path / "nowhere" / "store", "writing") is None
    on_host("node")
    new_work_folder(tmp_path / "store", "writing")
    assert living_writer(tmp_path / "store", "writing") is None
    made_by(other.pid, tmp_path / "store", on_host)
    assert living_writer(tmp_path / "store", "writing") == other.pid
    assert living_writer(tmp_path / "store", "exporting") is None


def test_a_later_process_of_the_same_number_is_not_the_writer(tmp_path, on_host, other):
    """Clocks of files may lag a little; a folder of an hour before is of another process."""
    folder = made_by(other.pid, tmp_path / "store", on_host)
    started = psutil.Process(other.pid).create_time()
    os.utime(folder, (started - 2, started - 2))
    assert living_writer(tmp_path / "store", "writing") == other.pid
    os.utime(folder, (started - 3600, started - 3600))
    assert living_writer(tmp_path / "store", "writing") is None
    remove_abandoned(tmp_path / "store", "writing")
    assert not folder.exists()


def test_a_process_that_may_not_be_inspected_counts_as_alive(tmp_path, on_host, other, monkeypatch):
    def refuse(_):
        raise psutil.AccessDenied

    folder = made_by(other.pid, tmp_path / "store", on_host)
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    remove_abandoned(tmp_path / "store", "writing")
    assert folder.is_dir() and living_writer(tmp_path / "store", "writing") == other.pid


def test_a_zombie_counts_as_dead(tmp_path, on_host, other):
    folder = made_by(other.pid, tmp_path / "store", on_host)
    other.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    remove_abandoned(tmp_path / "store", "writing")
    assert not folder.exists()


def test_folders_of_similar_names_are_left_alone(tmp_path, on_host):
    on_host("node")
    for end in ("", "x@a", "-1@a", "@a", "²@a"):
        (tmp_path / f".store.writing@node@{end}").mkdir()
    before = set(tmp_path.iterdir())
    (tmp_path / f".store.writing@node@{10**30}@a").mkdir()  # no process has it
    remove_abandoned(tmp_path / "store", "writing")
    assert set(tmp_path.iterdir()) == before


def finished(work, is_folder):
    """A result in a work folder: a file, or a folder with one in it."""
    result = work / "result"
    if is_folder:
        result.mkdir()
    (result / "inner" if is_folder else result).write_text("new")
    return result


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_result_takes_its_place_and_its_work_folder_goes(tmp_path, is_folder, is_replaced):
    target = tmp_path / "target"
    if is_replaced:
        with work_folder(target, "writing") as work:
            publish(finished(work, is_folder), target, replace=False)
    with work_folder(target, "writing") as work:
        publish(finished(work, is_folder), target, replace=is_replaced)
    assert (target / "inner" if is_folder else target).read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_made_in_the_meantime_is_not_overwritten(tmp_path):
    target = tmp_path / "target"
    with (
        pytest.raises(UserError, match="target exists and is never overwritten"),
        work_folder(target, "writing") as work,
    ):
        target.write_text("of another process")
        publish(finished(work, is_folder=False), target, replace=False)
    assert target.read_text() == "of another process" and list(tmp_path.iterdir()) == [target]


def replaced(target, text):
    """A folder at `target` that a result is to replace."""
    target.mkdir(parents=True)
    (target / "inner").write_text(text)
    return target


def test_a_folder_stays_whose_result_does_not_get_its_place(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(28, "No space left on device")

    target = replaced(tmp_path / "target", "old")
    with (
        pytest.raises(OSError, match="No space left"),
        work_folder(target, "writing") as work,
        monkeypatch.context() as patch,
    ):
        patch.setattr("os.replace", fail)
        publish(finished(work, is_folder=True), target, replace=True)
    assert (target / "inner").read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_a_dead_process_had_moved_aside_is_moved_back(tmp_path, on_host):
    work = made_by(dead_process(), tmp_path / "target", on_host)
    aside = replaced(work.with_name(f"{work.name}-old"), "old")
    assert abandoned(tmp_path / "target", "writing") == [work]
    remove_abandoned(tmp_path / "target", "writing")
    assert (tmp_path / "target" / "inner").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]
    replaced(aside, "older")  # by a process that died after its result had its place
    work.mkdir()
    remove_abandoned(tmp_path / "target", "writing")
    assert (tmp_path / "target" / "inner").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]


def test_the_folder_that_a_link_leads_to_is_replaced(tmp_path):
    """A store may lie on another disk."""
    place = replaced(tmp_path / "large disk" / "place", "old")
    link = tmp_path / "link"
    link.symlink_to(place)
    with work_folder(link, "writing") as work:
        assert work.parent == place.parent
        (work / "inner").write_text("new")
        publish(work, link, replace=True)
    assert link.is_symlink() and (place / "inner").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large disk", "link"]
    assert list(place.parent.iterdir()) == [place]


def test_a_failed_write_says_why_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(RunFailed, match=r"making it failed and left nothing .*No space left .* run"),
        report_failed_write("making it", tmp_path / "target"),
        work_folder(tmp_path / "target", "writing") as work,
    ):
        (work / "half").write_text("a part")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
