"""Folders for results: one that cannot be used is refused in one line, before any work."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ON_MACOS

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.stores import packing
from keras_imnet64.runs import (
    Run,
    check_folder,
    create_run,
    lock,
    model_file,
    open_run,
    set_aside,
    unique_labels,
)

TOO_LONG = "x" * 300


def write_store(path):
    packing.write_store(
        path,
        [],
        dataset="toy",
        split="train",
        count=1,
        image_size=4,
        wnids=["a"],
        class_names=["ant"],
        source="",
        verified=False,
    )


@pytest.mark.parametrize("use", [check_folder, create_run])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        (TOO_LONG, "File name too long"),
        ("nul\0byte", "embedded null byte"),
        ("file/below", "Not a directory"),
        pytest.param(
            "\udcff" * 200,
            "File name too long",
            marks=pytest.mark.skipif(ON_MACOS, reason="such a name cannot be made there"),
        ),
    ],
)
def test_an_unusable_run_folder_is_refused(use, name, why, tmp_path):
    (tmp_path / "file").write_text("")
    if name[0] == "\udcff":
        os.mkdir(tmp_path / "\udcff")  # a name that is not UTF-8 works
        name = name * 2
    with pytest.raises(UserError, match=f"cannot be used as a run folder .*{why}.*--out") as error:
        use(tmp_path / name)
    assert str(error.value).isprintable()
    assert "file" not in name or (tmp_path / "file").read_text() == ""


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another --name or --out"):
        check_folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (TOO_LONG, "File name too long"),
        ("nul\0byte", "embedded null byte"),
        ("file", "Not a directory"),
    ],
)
def test_an_unusable_data_folder_is_refused(name, why, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write below .*{why}.*--cache-dir"):
        write_store(tmp_path / name / "train")


@pytest.mark.parametrize("name", [TOO_LONG, "nul\0byte", "nowhere"])
def test_a_missing_folder_is_no_run(name, tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        open_run(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("become", ["setuid", "seteuid"])  # for good, or as a program of many users
@pytest.mark.parametrize(
    "call",
    [
        "check_folder(folder)",
        "check_folder(folder + '/run')",
        "create_run(folder + '/below/run')",
        "require_space(folder, 1, 'it')",
        "store_work_folder(Path(folder) / 'train').__enter__()",
    ],
)
def test_the_owner_of_a_folder_is_named(call, become):
    code = f"""
import os, sys
from pathlib import Path
from keras_imnet64.data.stores.packing import require_space, store_work_folder
from keras_imnet64.core.errors import UserError
from keras_imnet64.runs import check_folder, create_run
folder = sys.argv[1]
os.setgroups([])
os.setegid(65534)
os.{become}(65534)
try:
    {call}
except UserError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        child = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False
        )
        assert (child.returncode, child.stderr) == (0, "")
        sentence = f"Permission denied: {folder} belongs to user root"
        assert sentence in child.stdout and child.stdout.count("\n") == 1
        assert os.listdir(folder) == []


def test_a_run_that_cannot_be_renamed_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"cannot rename .*run to .*run\.1 "):
        set_aside(tmp_path / "run", [])


def test_a_run_stays_locked_while_it_is_set_aside(tmp_path, monkeypatch):
    def rename(path, target):
        with pytest.raises(UserError, match="another process is working"):
            lock(run)
        return os_rename(path, target)

    run, os_rename = create_run(tmp_path / "run"), Path.rename
    monkeypatch.setattr(Path, "rename", rename)
    assert set_aside(run.path, [run]) == tmp_path / "run.1"
    with lock(create_run(run.path)), pytest.raises(UserError, match="another process is working"):
        set_aside(run.path, [run])


@pytest.mark.parametrize("moment", ["open", "flock"])
def test_a_run_that_is_set_aside_meanwhile_is_not_locked(moment, tmp_path, monkeypatch):
    """By another process that starts over, once this one has found the folder."""
    run = create_run(tmp_path / "run")

    def flock(*_):
        set_aside(run.path, [])
        create_run(run.path)

    if moment == "open":
        set_aside(run.path, [])
    else:
        monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match="has just started over in"):
        lock(run)


def test_what_is_no_path_is_no_model():
    with pytest.raises(UserError, match=r"path of a \.keras file is needed; received a dict"):
        model_file({})


def test_labels_are_names_or_else_paths(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    first, other = tmp_path / "a" / "first", tmp_path / "b" / "first"
    names = unique_labels([first, first / "model.keras", tmp_path / "loop"])
    assert names == ["first", "first/model.keras", "loop"]
    assert unique_labels([first, other]) == [str(first), str(other)]


def test_of_a_link_the_link_is_set_aside(tmp_path):
    """The run is kept under another name, and its own is free."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    assert set_aside(tmp_path / "run", []) == tmp_path / "run.1"
    assert (tmp_path / "run.1").resolve() == tmp_path / "disk"
    create_run(tmp_path / "run")
    assert not list((tmp_path / "disk").iterdir())


def test_damaged_files_say_what_to_do(tmp_path):
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(UserError, match=r"metrics\.json is missing or damaged .*not a JSON object"):
        _ = Run(tmp_path).metrics
    with pytest.raises(UserError, match=r"environment\.json is missing or damaged .*No such file"):
        _ = Run(tmp_path).environment
