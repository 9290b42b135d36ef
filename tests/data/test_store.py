"""The raw store: what is written is what is read, and nothing broken is opened."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from keras_imnet64.data import store as stores
from keras_imnet64.errors import RunFailed, UserError

COUNT, SIZE = 11, 4


def pictures(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        (np.arange(count) % 3).astype(np.int64),
    )


def batches(images, labels, size=4):
    for start in range(0, len(images), size):
        yield images[start : start + size], labels[start : start + size]


def write(path, images, labels, count=None, **changes):
    options = dict(
        dataset="toy",
        split="train",
        count=len(images) if count is None else count,
        image_size=SIZE,
        wnids=["a", "b", "c"],
        class_names=["ant", "bee", "cat"],
        source="made by hand",
        verified=False,
    )
    return stores.write_store(path, batches(images, labels), **options | changes)


@pytest.fixture
def packed(tmp_path):
    write(tmp_path / "train", *pictures())
    return tmp_path / "train"


def test_what_was_written_is_read_back(packed):
    images, labels = pictures()
    store = stores.open_store(packed)
    np.testing.assert_array_equal(store.images, images)
    np.testing.assert_array_equal(store.labels, labels)
    assert store.images.dtype == np.uint8 and store.labels.dtype == np.int32
    assert len(store) == COUNT and store.image_size == SIZE
    assert (store.dataset, store.split, store.verified) == ("toy", "train", False)
    assert store.wnids == ["a", "b", "c"] and store.class_names == ["ant", "bee", "cat"]


def test_digest_is_sha256_of_images_then_labels(packed):
    images, labels = pictures()
    content = images.tobytes() + labels.astype("<i4").tobytes()
    assert stores.open_store(packed).digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("in_memory", ["always", "never", "auto"])
def test_gather_takes_any_order_and_repeats(packed, in_memory):
    images, labels = pictures()
    got_images, got_labels = stores.open_store(packed, in_memory).gather([7, 0, 7])
    np.testing.assert_array_equal(got_images, images[[7, 0, 7]])
    np.testing.assert_array_equal(got_labels, labels[[7, 0, 7]])


def test_in_memory_decides_between_a_copy_and_the_file(packed, monkeypatch):
    def is_mapped(in_memory):
        return isinstance(stores.open_store(packed, in_memory).images.base, np.memmap)

    Memory = namedtuple("Memory", "available")
    image_bytes = COUNT * SIZE * SIZE * 3
    assert is_mapped("never") and not is_mapped("always")
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(4 * image_bytes + 4))
    assert not is_mapped("auto")
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(4 * image_bytes))
    assert is_mapped("auto")
    with pytest.raises(UserError, match='auto, always, never; received "sometimes"'):
        stores.open_store(packed, "sometimes")


def test_a_new_store_replaces_the_old_one(packed):
    images, labels = pictures(count=5, seed=1)
    write(packed, images, labels)
    np.testing.assert_array_equal(stores.open_store(packed).images, images)
    assert [p.name for p in packed.parent.iterdir()] == ["train"]


def test_the_same_pictures_packed_twice_are_kept_once(packed):
    before = (packed / "images.npy").stat().st_ino
    write(packed, *pictures())
    assert (packed / "images.npy").stat().st_ino == before
    assert [p.name for p in packed.parent.iterdir()] == ["train"]
    cut_short(packed)
    write(packed, *pictures())
    np.testing.assert_array_equal(stores.open_store(packed).images, pictures()[0])


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    images, labels = pictures()

    def broken():
        yield images[:4], labels[:4]
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFailed, match=r"packing toy train .* No space left on device"):
        stores.write_store(
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
from keras_imnet64.data.store import write_store
def batches():
    yield np.zeros((2, 4, 4, 3), np.uint8), [0, 0]
    os.kill(os.getpid(), signal.SIGKILL)
write_store(sys.argv[1], batches(), dataset="toy", split="train", count=4, image_size=4,
            wnids=["a"], class_names=["a"], source="", verified=True)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "train")])
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1 and not stores.is_store(tmp_path / "train")
    write(tmp_path / "train", *pictures())
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write below .*file.*--cache-dir"):
        write(tmp_path / "file" / "packed" / "train", *pictures())


def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    left = tmp_path / f".train.writing-{host}-{dead.pid}-x"
    alive = tmp_path / f".train.writing-{host}-{os.getppid()}-x"
    elsewhere = tmp_path / f".train.writing-another-host-{dead.pid}-x"
    for folder in (left, alive, elsewhere):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"half")
    assert not stores.is_store(tmp_path / "train")
    write(tmp_path / "train", *pictures())
    assert {p.name for p in tmp_path.iterdir()} == {"train", alive.name, elsewhere.name}


def test_a_folder_without_meta_is_not_a_store(packed):
    (packed / "meta.json").unlink()
    assert not stores.is_store(packed)
    with pytest.raises(UserError, match="not a packed data set"):
        stores.open_store(packed)


def cut_short(folder):
    file = folder / "images.npy"
    os.truncate(file, file.stat().st_size - 1)


def rewrite_meta(**changes):
    def change(folder):
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | changes))

    return change


def swap_labels(folder):
    np.save(folder / "labels.npy", np.zeros(COUNT, np.int32))


def replace_images(folder):
    """Another array of the same file size."""
    np.save(folder / "images.npy", np.zeros((SIZE, COUNT, SIZE, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, r"images\.npy has [\d,]+ bytes where meta\.json says [\d,]+"),
        (lambda folder: (folder / "labels.npy").unlink(), r"labels\.npy is missing"),
        (lambda folder: (folder / "meta.json").write_text("{"), r"meta\.json cannot be read"),
        (rewrite_meta(format_version=99), r"meta\.json has kind and format version .*99"),
        (rewrite_meta(kind="encoded"), r"meta\.json has kind and format version .*encoded"),
        (rewrite_meta(count=COUNT + 1), r"images\.npy holds uint8 \[11, 4, 4, 3\]"),
        (swap_labels, r"labels\.npy holds other labels"),
        (replace_images, r"images\.npy holds uint8 \[4, 11, 4, 3\]"),
    ],
)
def test_a_damaged_store_is_refused_with_the_file_named(packed, damage, message):
    damage(packed)
    with pytest.raises(UserError, match=message):
        stores.open_store(packed)


def test_room_is_checked_and_stated_before_anything_is_written(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: Usage(1234))
    with pytest.raises(UserError, match=r"toy train needs 16,\d{3},\d{3} bytes .* 1,234 are free"):
        write(tmp_path / "below" / "train", *pictures())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "change", "message"),
    [
        (COUNT + 1, {}, "should hold 12 pictures; its source gave 11"),
        (COUNT - 1, {}, "more than the 10 pictures announced"),
        (COUNT, {"wnids": ["a", "b"]}, r"labels of toy train must lie in 0\.\.1; received 0\.\.2"),
        (COUNT, {"image_size": 8}, r"must be uint8 \[8, 8, 3\]; received uint8 \[4, 4, 3\]"),
    ],
)
def test_a_stream_that_differs_from_its_announcement_is_refused(tmp_path, count, change, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "train", *pictures(), count=count, **change)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_pictures(tmp_path):
    calls = []
    write(tmp_path / "train", *pictures(), progress=lambda *call: calls.append(call))
    assert calls == [("packing toy train", done, 11) for done in (4, 8, 11)]


def expected_moments(images):
    return images.mean(axis=0), images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))


@pytest.mark.parametrize(
    "positions", [None, [3], [10, 2, 5], [0, 1, 2, 3, 5, 6, 7, 8, 9], list(range(COUNT)), [4, 4, 1]]
)
def test_moments_are_those_of_numpy(packed, positions):
    images, _ = pictures()
    part = images if positions is None else images[positions]
    mean_image, channel_mean, channel_std = expected_moments(part)
    got = stores.moments(stores.open_store(packed), positions)
    assert got.count == len(part) and got.mean_image.dtype == np.float32
    np.testing.assert_allclose(got.mean_image, mean_image, rtol=1e-6)
    np.testing.assert_allclose(got.channel_mean, channel_mean, rtol=1e-12)
    np.testing.assert_allclose(got.channel_std, channel_std, rtol=1e-12)


def test_moments_through_the_complement_are_exactly_those_of_the_part(tmp_path):
    images, labels = pictures(count=1300)
    store = write(tmp_path / "train", images, labels)
    large = np.setdiff1d(np.arange(1300), [5, 700, 1299])
    through_rest = stores.moments(store, large)
    alone = stores.moments(stores.RawStore(None, {}, images[large], labels[large]))
    np.testing.assert_array_equal(through_rest.mean_image, alone.mean_image)
    np.testing.assert_array_equal(through_rest.channel_std, alone.channel_std)


def test_white_pictures_do_not_overflow_the_sums(tmp_path):
    images = np.full((1500, SIZE, SIZE, 3), 255, np.uint8)
    got = stores.moments(write(tmp_path / "train", images, np.zeros(1500, np.int64)))
    assert (got.mean_image == 255).all() and (got.channel_std == 0).all()


def test_moments_of_an_empty_selection_are_refused(packed):
    with pytest.raises(UserError, match="selection is empty"):
        stores.moments(stores.open_store(packed), [])
