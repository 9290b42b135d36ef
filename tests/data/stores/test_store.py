"""The raw store: what is written is what is read, and nothing broken is opened."""

import json
import os

import numpy as np
import pytest
from toy_store import COUNT, SIZE, random_images, write

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.stores import raw
from keras_imnet64.data.stores.files import map_array
from keras_imnet64.data.stores.opening import is_store, open_store


@pytest.fixture
def packed(tmp_path):
    return write(tmp_path / "train", *random_images()).path


def test_what_was_written_is_read_back(packed):
    images, labels = random_images()
    store = open_store(packed)
    np.testing.assert_array_equal(store.images, images)
    np.testing.assert_array_equal(store.labels, labels)
    assert store.images.dtype == np.uint8 and store.labels.dtype == np.int32
    assert len(store) == COUNT and store.image_size == SIZE
    assert (store.dataset, store.split, store.verified) == ("toy", "train", False)
    assert store.wnids == ["a", "b", "c"] and store.class_names == ["ant", "bee", "cat"]


@pytest.mark.parametrize("in_memory", ["always", "never", "auto"])
def test_gather_takes_any_order_and_repeats(packed, in_memory):
    images, labels = random_images()
    got_images, got_labels = open_store(packed, in_memory).gather([7, 0, 7])
    np.testing.assert_array_equal(got_images, images[[7, 0, 7]])
    np.testing.assert_array_equal(got_labels, labels[[7, 0, 7]])


def test_a_store_larger_than_memory_is_mapped(packed):
    """A file of two terabytes with nothing in it but its header and its last image."""
    count = 2**41 // (SIZE * SIZE * 3)
    with open(packed / "images.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, SIZE, SIZE, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + count * SIZE * SIZE * 3)
    images = map_array(packed / "images.npy", np.uint8, (count, SIZE, SIZE, 3))
    assert images[-1].sum() == 0


def test_in_memory_decides_between_a_copy_and_the_file(packed, monkeypatch):
    def is_mapped(in_memory):
        return isinstance(open_store(packed, in_memory).images.base, np.memmap)

    image_bytes = COUNT * SIZE * SIZE * 3
    assert is_mapped("never") and not is_mapped("always")
    monkeypatch.setattr(raw, "memory", lambda: (None, 4 * image_bytes + 4))
    assert not is_mapped("auto")
    monkeypatch.setattr(raw, "memory", lambda: (None, 4 * image_bytes))
    assert is_mapped("auto")
    with pytest.raises(UserError, match='auto, always, never; received "sometimes"'):
        open_store(packed, "sometimes")


def test_a_folder_without_meta_is_not_a_store(packed):
    (packed / "meta.json").unlink()
    assert not is_store(packed)
    with pytest.raises(UserError, match="not a packed data set"):
        open_store(packed)


def test_class_names_that_are_not_utf_8_are_read(packed):
    """`paths.portable` writes such bytes of the names of folders as lone surrogates."""
    rewrite_meta(class_names=["ant", "bee", "caf\udce9"])(packed)
    assert open_store(packed).class_names[2] == "caf\udce9"


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
    """An array of another shape whose file has the same size."""
    np.save(folder / "images.npy", np.zeros((SIZE, COUNT, SIZE, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, r"images\.npy has [\d,]+ bytes where meta\.json says [\d,]+"),
        (lambda folder: (folder / "labels.npy").unlink(), r"labels\.npy is missing"),
        (lambda folder: (folder / "meta.json").write_text("{"), r"meta\.json cannot be read"),
        (rewrite_meta(format_version=99), r"meta\.json has kind and format version .*99"),
        (rewrite_meta(kind="folded"), r"meta\.json has kind and format version .*folded"),
        (rewrite_meta(kind=["raw"]), r"meta\.json has kind and format version .*raw"),
        (rewrite_meta(kind="encoded"), r'meta\.json cannot be used: its "root" is missing'),
        (rewrite_meta(count=0), r'meta\.json cannot be used: its "count" is wrong'),
        (rewrite_meta(count=True), r'meta\.json cannot be used: its "count" is wrong'),
        (rewrite_meta(digest=7), r'meta\.json cannot be used: its "digest" is wrong'),
        (rewrite_meta(bytes={}), r'meta\.json cannot be used: its "bytes" does not name the files'),
        (
            rewrite_meta(wnids=["a", "a", "b"]),
            "does not have one id, name and count for each class",
        ),
        (rewrite_meta(class_names=["ant"]), "does not have one id, name and count for each class"),
        (rewrite_meta(count=COUNT + 1), r"images\.npy holds uint8 \[11, 4, 4, 3\]"),
        (swap_labels, r"labels\.npy holds other labels"),
        (replace_images, r"images\.npy holds uint8 \[4, 11, 4, 3\]"),
    ],
)
def test_a_damaged_store_is_refused_with_the_file_named(packed, damage, message):
    damage(packed)
    with pytest.raises(UserError, match=message):
        open_store(packed)
