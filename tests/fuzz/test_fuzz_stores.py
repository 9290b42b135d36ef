"""Packed stores, damaged, edited or hostile: each works or is refused, and runs no code."""

import json
import pickle
import shutil

import numpy as np
import pytest
from fuzzing import RunsCode, announced, damage, edited, fuzz, npy, npz, works_or_is_refused, zipped
from hypothesis import given

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.stores.moments import moments
from keras_imnet64.data.stores.opening import IN_MEMORY, open_store
from keras_imnet64.data.stores.packing import write_store

COUNT, SIZE = 7, 4


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), "uint8")
    path = tmp_path_factory.mktemp("packed") / "train"
    write_store(
        path,
        [(images, np.arange(COUNT) % 3)],
        dataset="toy",
        split="train",
        count=COUNT,
        image_size=SIZE,
        wnids=["a", "b", "c"],
        class_names=["ant", "bee", "cat"],
        source="made by hand",
        verified=False,
    )
    return path


@pytest.fixture(scope="module")
def spare(tmp_path_factory):
    return tmp_path_factory.mktemp("spare")


def read_store(path):
    for in_memory in IN_MEMORY:
        store = open_store(path, in_memory)
        images, labels = store.gather([len(store) - 1, 0])
        assert images.dtype == np.uint8 and labels.min() >= 0 and labels.max() < len(store.wnids)
        for positions in (None, [0]):
            assert np.isfinite(moments(store, positions).channel_std).all()


def copy_of(packed, spare, **files):
    """A copy of the store with other contents in some files."""
    path = spare / "train"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(packed, path)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def with_sizes(path):
    """Makes meta.json state the sizes that the files have, as an attacker would."""
    meta = json.loads((path / "meta.json").read_text())
    meta["bytes"] = {name: (path / name).stat().st_size for name in meta["bytes"]}
    (path / "meta.json").write_text(json.dumps(meta))
    return path


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "moments.npz", "meta.json"])
def test_a_store_with_a_damaged_file(name, packed, spare):
    @fuzz(60)
    @given(damage((packed / name).read_bytes()))
    def try_one(content):
        path = copy_of(packed, spare, **{name: content})
        works_or_is_refused(read_store, path)
        if name != "meta.json":
            works_or_is_refused(read_store, with_sizes(path))

    try_one()


def test_a_store_with_an_edited_meta(packed, spare):
    meta = json.loads((packed / "meta.json").read_text())

    @fuzz(250)
    @given(edited(meta))
    def try_one(content):
        path = copy_of(packed, spare, **{"meta.json": json.dumps(content).encode()})
        works_or_is_refused(read_store, path)

    try_one()


@pytest.mark.parametrize("content", [b"", b"[" * 10**5, b"9" * 5000, b"\xff\xfe", b"null", b"{}"])
def test_a_store_whose_meta_is_no_meta(content, packed, spare):
    with pytest.raises(UserError, match=r"meta\.json"):
        open_store(copy_of(packed, spare, **{"meta.json": content}))


SUMS = dict(count=np.int64(COUNT), sums=np.ones((4, 4, 3), "i8"), squares=np.ones((4, 4, 3), "i8"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.npy", npy(np.array([0, 1, 2, 0, 1, 2, -1], "i4")), "other labels"),
        ("labels.npy", npy(np.array([0, 1, 2, 0, 1, 2, 2**31 - 1], "i4")), "other labels"),
        ("labels.npy", announced((10**15,), "<i4"), "cannot be read"),
        ("labels.npy", npz(a=np.zeros(3)), "cannot be read"),
        ("images.npy", npy(np.zeros((COUNT, 4, 4, 3), "u1", order="F")), "images.npy holds uint8"),
        ("images.npy", announced((-1, 4, 4, 3), "|u1"), "cannot be read"),
        ("moments.npz", npz(**SUMS | {"count": np.int64(3)}), "the sums of 7 images"),
        ("moments.npz", npz(**SUMS | {"count": np.arange(2)}), "a count and int64 sums"),
        ("moments.npz", npz(**SUMS | {"sums": np.ones((4, 4, 3))}), "a count and int64 sums"),
        ("moments.npz", npz(**SUMS | {"sums": -np.ones((4, 4, 3), "i8")}), "the sums of 7"),
        ("moments.npz", npz(count=np.int64(COUNT)), "sums.npy is missing"),
        (
            "moments.npz",
            zipped({"count.npy": announced((10**12,))}),
            "size than its header",
        ),
        ("moments.npz", zipped({"count.npy": announced((1,), version=(2, 0))}), "version 1.0"),
    ],
)
def test_a_store_that_contradicts_itself(file, content, message, packed, spare):
    path = with_sizes(copy_of(packed, spare, **{file: content}))
    with pytest.raises(UserError) as refusal:
        moments(open_store(path))
    assert message in str(refusal.value) and "prepare the data again" in str(refusal.value)


def test_no_array_of_a_store_runs_code(packed, spare, tmp_path):
    harm = np.array([RunsCode(tmp_path / "marker")] * COUNT)
    for file, content in {
        "images.npy": npy(harm, allow_pickle=True),
        "labels.npy": pickle.dumps(harm[0]),
        "moments.npz": npz(**SUMS | {"sums": harm}),
    }.items():
        path = with_sizes(copy_of(packed, spare, **{file: content}))
        with pytest.raises(UserError):
            moments(open_store(path))
    assert not (tmp_path / "marker").exists()
