"""Packing: a store replaces another in one step, and a writer that fails leaves none."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
from toy_store import COUNT, SIZE, random_images, write

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data.stores.opening import is_store, open_store
from keras_imnet64.data.stores.packing import write_store


@pytest.fixture
def packed(tmp_path):
    return write(tmp_path / "train", *random_images()).path


def test_digest_is_sha256_of_images_then_labels(packed):
    images, labels = random_images()
    content = images.tobytes() + labels.astype("<i4").tobytes()
    assert open_store(packed).digest == hashlib.sha256(content).hexdigest()


def test_a_new_store_replaces_the_old_one(packed):
    images, labels = random_images(count=5, seed=1)
    write(packed, images, labels)
    np.testing.assert_array_equal(open_store(packed).images, images)
    assert [p.name for p in packed.parent.iterdir()] == ["train"]


def test_the_same_images_packed_twice_are_kept_once(packed):
    before = (packed / "images.npy").stat().st_ino
    write(packed, *random_images())
    assert (packed / "images.npy").stat().st_ino == before
    assert [p.name for p in packed.parent.iterdir()] == ["train"]
    os.truncate(packed / "images.npy", 100)
    write(packed, *random_images())
    np.testing.assert_array_equal(open_store(packed).images, random_images()[0])


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    images, labels = random_images()

    def broken():
        yield images[:4], labels[:4]
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFailed, match=r"packing toy train into .*\(No space left on device\)"):
        write_store(
            tmp_path / "train",
            broken(),
            dataset="toy",
            split="train",
            count=COUNT,
            image_size=SIZE,
            wnids=list("abc"),
            class_names=list("abc"),
            source="",
            verified=True,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_writer_killed_half_way_leaves_no_store_and_is_tidied_up(tmp_path):
    code = """
import os, signal, sys, numpy as np
from keras_imnet64.data.stores.packing import write_store
def batches():
    yield np.zeros((2, 4, 4, 3), np.uint8), [0, 0]
    os.kill(os.getpid(), signal.SIGKILL)
write_store(sys.argv[1], batches(), dataset="toy", split="train", count=4, image_size=4,
            wnids=["a"], class_names=["a"], source="", verified=True)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "train")])
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1 and not is_store(tmp_path / "train")
    write(tmp_path / "train", *random_images())
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write below .*file.*--cache-dir"):
        write(tmp_path / "file" / "packed" / "train", *random_images())


def test_work_folders_of_dead_writers_go_and_those_of_living_writers_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    left = tmp_path / f".train.writing@{host}@{dead.pid}@x"
    alive = tmp_path / f".train.writing@{host}@{os.getppid()}@x"
    elsewhere = tmp_path / f".train.writing@another-host@{dead.pid}@x"
    for folder in (left, alive, elsewhere):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"half")
    assert not is_store(tmp_path / "train")
    write(tmp_path / "train", *random_images())
    assert {p.name for p in tmp_path.iterdir()} == {"train", alive.name, elsewhere.name}


def test_room_is_checked_and_stated_before_anything_is_written(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(1234))
    with pytest.raises(UserError, match=r"toy train needs 16,\d{3},\d{3} bytes .* 1,234 are free"):
        write(tmp_path / "below" / "train", *random_images())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "change", "message"),
    [
        (COUNT + 1, {}, "should hold 12 images; its source gave 11"),
        (COUNT - 1, {}, "more than the 10 images announced"),
        (COUNT, {"wnids": ["a", "b"]}, r"labels of toy train must lie in 0\.\.1; received 0\.\.2"),
        (COUNT, {"image_size": 8}, r"must be uint8 \[8, 8, 3\]; received uint8 \[4, 4, 3\]"),
    ],
)
def test_a_stream_that_differs_from_its_announcement_is_refused(tmp_path, count, change, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "train", *random_images(), count=count, **change)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_images(tmp_path):
    calls = []
    write(tmp_path / "train", *random_images(), progress=lambda *call: calls.append(call))
    assert calls == [("packing toy train", done, 11) for done in (4, 8, 11)]
