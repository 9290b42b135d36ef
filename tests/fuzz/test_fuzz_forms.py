"""Pickles, npz files, Parquet, tars and CSV files, damaged: each works or is refused."""

import pickle
import pickletools

import numpy as np
import pytest
from fuzzing import RunsCode, damage, fuzz, npz, works_or_is_refused
from hypothesis import given
from hypothesis import strategies as st
from three_classes import TRAIN, TRAIN_LABELS, WNIDS, jpeg
from write_forms import batch, write_csv, write_parquet, write_webdataset

from keras_imnet64.data.sources import batches, csv_labels, parquet, webdataset
from keras_imnet64.data.sources.pickles import read_pickle
from keras_imnet64.data.stores.indexing import read_in_place

BATCH = batch(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
LISTED = {
    "data": BATCH["data"],
    "labels": [1, 2],
    "mean": np.zeros(3),
    "one": np.int64(1),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_damaged_pickles(protocol, tmp_path):
    path = tmp_path / "train_data_batch_1"

    @fuzz(250)
    @given(damage(pickle.dumps(LISTED, protocol)))
    def try_one(content):
        path.write_bytes(content)
        works_or_is_refused(batches.read_batch, path, 8, 1000)

    path.write_bytes(pickle.dumps(LISTED, protocol))
    assert batches.read_batch(path, 8, 1000)[1].tolist() == [0, 1]
    try_one()


def test_pickles_of_random_opcodes_make_nothing_but_values(tmp_path):
    """Programs of the pickle machine, with the names that run code among their texts."""
    path, marker = tmp_path / "batch", tmp_path / "marker"
    codes = [op.code.encode("latin1") for op in pickletools.opcodes if op.arg is None]
    pieces = [
        *codes, b"K\x01", b"U\x01a", b"cos\nmkdir\n", b"cbuiltins\neval\n", b"cnumpy\nload\n",
        b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
        b"cnumpy.core.multiarray\nscalar\n", b"c_codecs\nencode\n", b"U\x02u1", b"U\x06latin1",
        b"U" + bytes([len(str(marker))]) + str(marker).encode(), b"h\x00", b"q\x00",
    ]  # fmt: skip

    @fuzz(1000)
    @given(st.lists(st.sampled_from(pieces), max_size=12))
    def try_one(program):
        path.write_bytes(b"\x80\x02" + b"".join(program) + b".")
        works_or_is_refused(read_pickle, path)
        assert not marker.exists()

    try_one()
    path.write_bytes(pickle.dumps({"data": RunsCode(marker)}))
    assert works_or_is_refused(read_pickle, path) is None and not marker.exists()


def test_damaged_npz_files(tmp_path):
    path = tmp_path / "val_data.npz"

    @fuzz(150)
    @given(damage(npz(**BATCH)))
    def try_one(content):
        path.write_bytes(content)
        works_or_is_refused(batches.read_batch, path, 8, 1000)

    try_one()


def read_all(list_images, folder):
    listed = list_images(folder)
    read = listed.read or (lambda entries: read_in_place(listed.root, entries))
    for entries in listed.entries.values():
        assert all(isinstance(content, bytes) for content in read(entries))
    return listed.labels.class_ids()


def test_damaged_parquet(tmp_path):
    write_parquet(tmp_path, "train", TRAIN[:3], TRAIN_LABELS[:3], WNIDS)
    [file] = tmp_path.iterdir()

    @fuzz(250)
    @given(damage(file.read_bytes()))
    def try_one(content):
        file.write_bytes(content)
        works_or_is_refused(read_all, parquet.list_parquet, tmp_path)

    assert read_all(parquet.list_parquet, tmp_path) == WNIDS
    try_one()


def test_damaged_tars(tmp_path):
    objects = [{"label": label, "wnid": WNIDS[label]} for label in TRAIN_LABELS[:2]]
    small = [jpeg(seed, (8, 8)) for seed in range(2)]
    write_webdataset(tmp_path, "train", small, TRAIN_LABELS[:2], objects=objects)
    [file] = tmp_path.iterdir()

    @fuzz(250)
    @given(damage(file.read_bytes()))
    def try_one(content):
        file.write_bytes(content)
        works_or_is_refused(read_all, webdataset.list_webdataset, tmp_path)

    assert read_all(webdataset.list_webdataset, tmp_path) == [WNIDS[2], WNIDS[0]]
    try_one()


def test_damaged_csv_files(tmp_path):
    for number, content in enumerate(TRAIN[:2]):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    file = tmp_path / "labels.csv"
    write_csv(
        file, [("0.jpg", "cat", "train"), ("1.jpg", "dog", "val")], ("path", "label", "split")
    )

    @fuzz(250)
    @given(damage(file.read_bytes()))
    def try_one(content):
        file.write_bytes(content)
        works_or_is_refused(csv_labels.list_csv, file)

    assert list(csv_labels.list_csv(file).entries) == ["train", "validation"]
    try_one()
