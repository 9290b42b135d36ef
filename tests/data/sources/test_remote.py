"""Remote sources through fsspec's file system in memory: fetched once, resumed, cleaned up."""

import os
import signal
import subprocess
import sys
import textwrap

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile
from three_classes import (
    TRAIN,
    TRAIN_LABELS,
    WNIDS,
    check_tiny,
    expect_three_classes,
    jpeg,
    write_tiny,
)
from write_forms import write_parquet, write_webdataset

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import remote
from keras_imnet64.data.tools import cleaning

FETCHED = ".tiny_imagenet.fetched"


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    expect_three_classes(monkeypatch)


@pytest.fixture
def memory():
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def put(system, folder, path="/bucket"):
    for file in sorted(folder.rglob("*.*")):
        system.pipe(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def prepare(url, tmp_path, name="tiny_imagenet", **options):
    return datasets.prepare(name, source=url, data_dir=tmp_path / "store", **options)


def names_in(folder):
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


def test_a_remote_folder_is_read_into_the_store(memory, tmp_path):
    put(memory, write_tiny(tmp_path / "a" / "data").parent)
    memory.pipe("/bucket/README.md", b"not fetched")
    steps = []
    stores = prepare("memory://bucket", tmp_path, progress=lambda *step: steps.append(step))
    check_tiny(stores)
    info = datasets.info("tiny_imagenet", data_dir=tmp_path / "store")
    assert (info["form"], info["source"]) == ("Parquet", "file:memory://bucket")
    assert sorted(os.listdir(tmp_path / "store" / "packed")) == ["tiny_imagenet"]
    fetching = [step for step in steps if step[0] == "fetching memory://bucket"]
    total = sum(file["size"] for file in memory.find("/bucket/data", detail=True).values())
    assert fetching[-1][1:] == (total, total)


def test_images_of_a_remote_source_are_copied(memory, tmp_path):
    contents = [jpeg(seed, (40 + seed, 30)) for seed in range(6)]
    write_webdataset(tmp_path / "a", "train", contents, [0, 1] * 3, shards=2)
    write_webdataset(tmp_path / "a", "val", contents[:2], [0, 1])
    put(memory, tmp_path / "a")
    stores = prepare("memory://bucket", tmp_path, "image_folder/own")
    memory.store.clear()
    assert stores["train"].read(np.arange(6)).tolist() == contents
    assert stores["train"].meta.copied and stores["train"].root == "memory://bucket"
    assert "--source memory://bucket" in stores["train"].command


def test_one_remote_file(memory, tmp_path):
    write_parquet(tmp_path / "a", "train", TRAIN, TRAIN_LABELS, WNIDS)
    put(memory, tmp_path / "a")
    url = "memory://bucket/train-00000-of-00001.parquet"
    stores = prepare(url, tmp_path, "image_folder/own")
    assert sum(map(len, stores.values())) == 6


class Broken(MemoryFile):
    """A file whose connection breaks after some bytes."""

    def read(self, size=-1):
        if self.tell() >= 1000:
            raise ConnectionResetError("connection reset by peer")
        return super().read(min(size, 1000))


def test_a_broken_connection_is_resumed_after_the_last_byte(memory, tmp_path, monkeypatch):
    put(memory, write_tiny(tmp_path / "a"))
    with monkeypatch.context() as patch:
        patch.setattr(
            type(memory),
            "_open",
            lambda self, path, *_, **__: Broken(self, path, self.store[path].getvalue()),
        )
        with pytest.raises(
            RunFailed, match=r"could not be fetched \(connection reset by peer\); run the"
        ):
            prepare("memory://bucket", tmp_path)
    packed = tmp_path / "store" / "packed"
    [part] = [name for name in names_in(packed) if name.endswith(".part")]
    assert (packed / FETCHED / part).stat().st_size == 1000

    begins = []
    seek = MemoryFile.seek
    monkeypatch.setattr(
        MemoryFile, "seek", lambda self, to, *rest: begins.append(to) or seek(self, to, *rest)
    )
    check_tiny(prepare("memory://bucket", tmp_path))
    assert 1000 in begins and names_in(packed / "tiny_imagenet") and not (packed / FETCHED).exists()


def test_a_part_of_unknown_version_is_fetched_anew(memory, tmp_path, monkeypatch):
    """Its file may have changed meanwhile, at the same size: the rest would be of another one."""
    monkeypatch.setattr(remote, "VERSIONS", ("etag",))
    put(memory, write_tiny(tmp_path / "a"))
    folder, names = tmp_path / "copy", sorted(path.name for path in (tmp_path / "a").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(
            type(memory),
            "_open",
            lambda self, path, *_, **__: Broken(self, path, self.store[path].getvalue()),
        )
        with pytest.raises(RunFailed), remote.local_copy("memory://bucket", folder):
            pass
    content = bytes(len(memory.cat(f"/bucket/{names[0]}")))
    memory.pipe(f"/bucket/{names[0]}", content)
    with remote.local_copy("memory://bucket", folder) as copy:
        assert (copy / names[0]).read_bytes() == content


def test_secrets_of_an_address_are_neither_shown_nor_kept(memory, tmp_path, monkeypatch):
    put(memory, write_tiny(tmp_path / "a"))
    url = "memory://user:s3cret@bucket?sig=TOKEN"
    monkeypatch.setattr(remote, "_open_system", lambda url: (memory, "/bucket"))
    steps = []
    stores = prepare(url, tmp_path, progress=lambda *step: steps.append(step[0]))
    assert "fetching memory://bucket" in steps
    assert stores["train"].source == "file:memory://bucket"

    def refuse(*_, **__):
        raise OSError(f"403, url='{url}&x=1'")

    for function, kind in (("_open", RunFailed), ("find", UserError)):
        with monkeypatch.context() as patch:
            patch.setattr(type(memory), function, refuse)
            with pytest.raises(kind, match="403, url='memory://bucket'") as refusal:
                prepare(url, tmp_path, "image_folder/own")
        written = [f.read_text() for f in tmp_path.rglob(remote.NOTE)] + [str(refusal.value)]
        assert len(written) == 2 and not any("s3cret" in t or "TOKEN" in t for t in written)


def test_one_tar_beside_a_folder_of_images_hides_none_of_them(memory, tmp_path):
    for number in range(4):
        memory.pipe(f"/bucket/{'cat' if number % 2 else 'dog'}/{number}.jpg", jpeg(number))
    memory.pipe("/bucket/backup.tar", b"")
    stores = prepare("memory://bucket", tmp_path, "image_folder/own")
    assert sum(map(len, stores.values())) == 4
    assert stores["train"].meta.form == "class folders"


def test_files_that_have_changed_meanwhile_are_fetched_anew(memory, tmp_path, monkeypatch):
    source = write_tiny(tmp_path / "a")
    put(memory, source)
    folder = tmp_path / "copy"
    with pytest.raises(ValueError, match="stop"), remote.local_copy("memory://bucket", folder):
        raise ValueError("stop")
    assert len(names_in(folder)) == 5  # with the note on them
    first = sorted(source.glob("train*"))[0]
    memory.pipe(f"/bucket/{first.name}", first.read_bytes() + b"more")
    with remote.local_copy("memory://bucket", folder) as copy:
        assert (copy / first.name).read_bytes().endswith(b"more")
    assert not folder.exists()


def test_a_source_with_another_address_begins_anew(memory, tmp_path):
    put(memory, write_tiny(tmp_path / "a"), "/one")
    put(memory, tmp_path / "a", "/two")
    folder = tmp_path / "copy"
    with pytest.raises(ValueError, match="stop"), remote.local_copy("memory://one", folder):
        (folder / "left.txt").write_text("of the first source")
        raise ValueError("stop")
    with remote.local_copy("memory://two", folder) as copy:
        assert not (copy / "left.txt").exists()


def test_clean_removes_what_a_command_has_fetched_and_left(memory, tmp_path):
    put(memory, write_tiny(tmp_path / "a"))
    memory.pipe("/bucket/valid-00000-of-00001.parquet", b"no Parquet")
    for name in ("tiny_imagenet", "image_folder/own"):
        with pytest.raises(UserError, match="is not a Parquet file"):
            prepare("memory://bucket", tmp_path, name)
    found = cleaning.clean(data_dir=tmp_path / "store")["removed"]
    assert [item["what"] for item in found] == [
        "tiny_imagenet, fetched by a command that did not end",
        "image_folder/own, fetched by a command that did not end",
    ]
    assert list((tmp_path / "store" / "packed").iterdir()) == []


def test_a_process_that_was_killed_is_followed_by_one_that_goes_on(tmp_path):
    """The other file system here is the local one, through its address."""
    write_tiny(tmp_path / "a")
    code = f"""
        import os, signal
        from pathlib import Path
        from keras_imnet64.data.sources import remote
        remote.BLOCK_BYTES = 700
        steps = []
        def progress(what, done, total):
            steps.append(done)
            if len(steps) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
        with remote.local_copy("file://{tmp_path}/a", Path("{tmp_path}/copy"), progress):
            pass
    """
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    left = sum(file.stat().st_size for file in (tmp_path / "copy").rglob("*.parquet*"))
    assert left > 700
    with remote.local_copy(f"file://{tmp_path / 'a'}", tmp_path / "copy") as copy:
        for file in (tmp_path / "a").iterdir():
            assert (copy / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("memory://nowhere", "memory://nowhere has no files: check the address"),
        ("nosuch://bucket", "nosuch://bucket cannot be opened: .*nosuch"),
        ("file:///nowhere/at/all", "has no files: check the address|cannot be listed"),
    ],
)
def test_addresses_that_lead_nowhere(url, sentence, memory, tmp_path):
    with pytest.raises(UserError, match=sentence):
        prepare(url, tmp_path)


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        UserError, match=r"gs://bucket/x needs a package that is not installed: .*gcsfs"
    ):
        prepare("gs://bucket/x", tmp_path)


def test_a_remote_name_that_points_outside_is_refused(memory, tmp_path, monkeypatch):
    info = {"/bucket/../x.parquet": {"size": 3, "type": "file"}}
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: info)
    with pytest.raises(UserError, match="a file whose name points outside it"):
        prepare("memory://bucket", tmp_path)


def test_room_for_the_files_is_checked_first(memory, tmp_path, monkeypatch):
    put(memory, write_tiny(tmp_path / "a"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 9}))
    with pytest.raises(
        UserError, match=r"fetching memory://bucket needs [\d,]+ bytes .* 9 are free"
    ):
        prepare("memory://bucket", tmp_path)
