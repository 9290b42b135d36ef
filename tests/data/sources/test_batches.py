"""Unpacked npz files and pickles of downsampled ImageNet: order, labels, damage, and code."""

import contextlib
import os
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from write_forms import batch, write_npz_batches, write_pickle_batches

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import archives, batches, imagenet2012
from keras_imnet64.data.sources.pickles import read_pickle

NAME = "imagenet_resized/8x8"
LABELS = [0, 999, 490, 1, 2]  # from 0; files have them from 1


def drawn(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


TRAIN, VALIDATION = (drawn(5, 0), LABELS), (drawn(2, 1), [6, 7])
WRITERS = {"npz batches": write_npz_batches, "pickle batches": write_pickle_batches}


def prepare(source, tmp_path, **options):
    return datasets.prepare(NAME, source=source, data_dir=tmp_path / "data", **options)


@pytest.mark.parametrize("form", WRITERS)
def test_images_keep_the_order_of_their_batches(form, tmp_path):
    WRITERS[form](tmp_path / "source", TRAIN, VALIDATION)
    stores = prepare(tmp_path / "source", tmp_path, allow_unverified=True)
    np.testing.assert_array_equal(stores["train"].images, TRAIN[0])
    np.testing.assert_array_equal(stores["validation"].images, VALIDATION[0])
    assert stores["train"].labels.tolist() == LABELS
    assert stores["train"].wnids == archives.imagenet_wnids()
    found = datasets.info(NAME, data_dir=tmp_path / "data")
    assert found["form"] == form and found["verified"] is False


def test_batches_may_lie_in_sub_folders_and_have_numbers_of_two_digits(tmp_path):
    images = drawn(12, 2)
    write_npz_batches(tmp_path / "source", (images, np.arange(12)), VALIDATION, batches=12)
    for part, digits in (("part1", "[1-5]"), ("part2", "[6-9]"), ("part3", "1[0-2]")):
        (tmp_path / "source" / part).mkdir()
        for file in (tmp_path / "source").glob(f"train_data_batch_{digits}.npz"):
            file.rename(tmp_path / "source" / part / file.name)
    train = prepare(tmp_path / "source", tmp_path, allow_unverified=True)["train"]
    np.testing.assert_array_equal(train.images, images)  # 2 comes before 10


@pytest.mark.parametrize("form", WRITERS)
def test_images_with_imagenets_numbers_are_verified(form, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet2012, "NUM_TRAIN", 3000)
    monkeypatch.setattr(imagenet2012, "NUM_VALIDATION", 1000)
    monkeypatch.setattr(batches, "IMAGES_OF_A_CLASS", (3, 3))
    monkeypatch.setattr(imagenet2012, "validation_wnids", lambda: {"a": "n01440764"})
    train = drawn(3000, 0), np.arange(3000) % 1000
    WRITERS[form](tmp_path / "source", train, (drawn(1000, 1), np.arange(1000)))
    stores = prepare(tmp_path / "source", tmp_path)
    assert stores["train"].verified and len(stores["train"]) == 3000
    np.testing.assert_array_equal(stores["train"].images, train[0])

    WRITERS[form](tmp_path / "other", (train[0], np.zeros(3000, int)), VALIDATION)
    with pytest.raises(
        UserError, match=r"is not imagenet.*: validation has 2 images, not 1,000; p"
    ):
        prepare(tmp_path / "other", tmp_path)


def test_labels_by_sorted_class_ids_are_seen_in_the_validation_images(tmp_path):
    """A program that makes ImageNet64 from torchvision's folders numbers the classes this way."""
    wnids = imagenet2012.validation_wnids().values()
    for order, is_refused in ((sorted(set(wnids)), True), (archives.imagenet_wnids(), False)):
        position = {wnid: label for label, wnid in enumerate(order)}
        labels = np.array([position[wnid] for wnid in wnids])
        if is_refused:
            with pytest.raises(UserError, match="numbers the classes by their sorted ids"):
                batches.refuse_sorted_order(tmp_path, labels)
        else:
            batches.refuse_sorted_order(tmp_path, labels)


def damaged(content, **changes):
    return {key: value for key, value in (content | changes).items() if value is not None}


GOOD = batch(*VALIDATION)
FAULTS = {
    "labels from 0": ({"labels": np.array([0, 7])}, r"labels 1\.\.1000; received 0\.\.7"),
    "beyond": ({"labels": np.array([1, 1001])}, r"labels 1\.\.1000; received 1\.\.1001"),
    "of 4 x 4 pixels": ({"data": np.zeros((2, 48), "u1")}, r"data uint8 \[2, 192\].*received u"),
    "as floats": ({"data": np.zeros((2, 192), "f4")}, r"received float32 \[2, 192\]"),
    "no labels": ({"labels": None}, r"labels(\.npy)? is missing"),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_arrays_are_refused_with_their_file(form, fault, tmp_path):
    changes, sentence = FAULTS[fault]
    WRITERS[form](tmp_path, TRAIN, VALIDATION)
    content = damaged(GOOD, **changes)
    if form == "npz batches":
        np.savez(tmp_path / "val_data.npz", **content)
    else:
        (tmp_path / "val_data").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"val_data.*{sentence}"):
        prepare(tmp_path, tmp_path, allow_unverified=True)
    packed = tmp_path / "data" / "packed"
    assert not packed.exists() or list(packed.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "received"),
    [
        ([1.0, 2.0], "a list with elements of the type float"),
        (["cat", True], "a list with elements of the type bool and str"),
        ([1, np.arange(2)], "a list with elements of the type Array"),
        ([1, 2**70], "numbers of more than 64 bits"),
        ("1, 2", "a str"),
        ([], "none"),
        (np.arange(0), "none"),
    ],
)
def test_labels_of_a_pickle_that_are_no_numbers_are_described(labels, received, tmp_path):
    write_pickle_batches(tmp_path, TRAIN, VALIDATION)
    (tmp_path / "val_data").write_bytes(pickle.dumps(GOOD | {"labels": labels}))
    with pytest.raises(UserError, match=f"val_data must hold .*labels.*; received {received}$"):
        prepare(tmp_path, tmp_path, allow_unverified=True)


@pytest.mark.parametrize("form", WRITERS)
def test_a_batch_that_is_missing_in_the_middle_is_named(form, tmp_path):
    WRITERS[form](tmp_path, TRAIN, VALIDATION, batches=3)
    suffix = ".npz" if form == "npz batches" else ""
    (tmp_path / f"train_data_batch_2{suffix}").unlink()
    with pytest.raises(UserError, match=rf"not complete: train_data_batch_2{suffix} is missing"):
        prepare(tmp_path, tmp_path, allow_unverified=True)
    (tmp_path / f"val_data{suffix}").unlink()
    with pytest.raises(UserError, match=rf"batch_2{suffix} and val_data{suffix} are missing"):
        prepare(tmp_path, tmp_path, allow_unverified=True)


@pytest.mark.parametrize("form", WRITERS)
def test_numbering_from_0_takes_no_batch_for_the_validation_images(form, tmp_path):
    WRITERS[form](tmp_path, TRAIN, VALIDATION, batches=2)
    suffix = ".npz" if form == "npz batches" else ""
    for number in (1, 2):
        file = tmp_path / f"train_data_batch_{number}{suffix}"
        file.rename(tmp_path / f"train_data_batch_{number - 1}{suffix}")
    stores = prepare(tmp_path, tmp_path, allow_unverified=True)
    np.testing.assert_array_equal(stores["train"].images, TRAIN[0])
    np.testing.assert_array_equal(stores["validation"].images, VALIDATION[0])
    (tmp_path / f"val_data{suffix}").unlink()
    with pytest.raises(UserError, match=f"is not complete: val_data{suffix} is missing"):
        prepare(tmp_path, tmp_path, allow_unverified=True)


def test_a_batch_that_is_there_twice_is_refused(tmp_path):
    write_npz_batches(tmp_path / "a", TRAIN, VALIDATION)
    write_npz_batches(tmp_path / "b", TRAIN, VALIDATION)
    with pytest.raises(UserError, match=r"are the same batch: move one of them away"):
        prepare(tmp_path, tmp_path, allow_unverified=True)


# ------------------------------------------------------------------------------------------ pickles


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.made_by = function, arguments

    def __reduce__(self):
        return self.made_by


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_lists_and_numbers_of_every_protocol(protocol, tmp_path):
    content = {
        "data": np.arange(12, dtype="u1").reshape(3, 4),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "labels": [1, 2, 3],
        "number": np.int64(7),
        "text": "é",
    }
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / "batch")
    assert found.keys() == content.keys()
    for key, value in content.items():
        np.testing.assert_array_equal(found[key], value)


def test_a_pickle_of_python_2(tmp_path):
    """Texts of Python 2 are bytes, and so are the contents of its arrays: this is {"a": uint8 [2]}.

    Written by hand after the format, since no Python 2 is at hand.
    """
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x02\x07\xfetb"
    )
    (tmp_path / "batch").write_bytes(b"\x80\x02}U\x01a" + array + b"s.")
    assert read_pickle(tmp_path / "batch")["a"].tolist() == [7, 254]


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (exec, "open({marker!r}, 'w')"),
        (eval, "open({marker!r}, 'w')"),
        (os.mkdir, "{marker}"),
        (subprocess.getoutput, "touch {marker}"),
        (np.save, "{marker}"),
        (np.frombuffer, "{marker}"),
    ],
)
def test_no_code_of_a_pickle_is_run(function, argument, tmp_path):
    marker = tmp_path / "marker"
    harm = Calls(function, argument.format(marker=str(marker)))
    write_pickle_batches(tmp_path / "source", TRAIN, VALIDATION)
    content = pickle.dumps(GOOD | {"mean": harm})
    (tmp_path / "source" / "val_data").write_bytes(content)
    with pytest.raises(
        UserError, match=r"val_data is a pickle that asks for .*, which may run code"
    ):
        prepare(tmp_path / "source", tmp_path, allow_unverified=True)
    assert not marker.exists()


def test_a_pickle_changes_no_function_of_the_reader(tmp_path):
    """The opcode BUILD sets attributes of what was found: here of the stand-in for a dtype."""
    (tmp_path / "batch").write_bytes(b"\x80\x02cnumpy\ndtype\n}U\x01xK\x01sb.")
    with pytest.raises(UserError, match=r"asks for a change of a function"):
        read_pickle(tmp_path / "batch")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps([1, 2]), "must hold one dict .* received a list"),
        (pickle.dumps({}) * 2, "must .*received more than one object"),
        (pickle.dumps(GOOD)[:-40], "is not a whole pickle of arrays"),
        (b"data, labels\n1, 2\n", "is not a whole pickle of arrays"),
        (b"", "is not a whole pickle of arrays"),
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "is not a whole pickle of arr"),
        (pickle.dumps({"data": np.array([object])}), r".*\(arrays of 'O8' are not read\)"),
    ],
)
def test_what_is_no_pickle_of_arrays_is_refused(content, sentence, tmp_path):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(UserError, match=f"batch {sentence}"):
        read_pickle(tmp_path / "batch")


def test_an_array_that_announces_more_than_it_has_is_refused(tmp_path):
    content = pickle.dumps({"data": np.zeros((2, 192), "u1")}, 2)
    changed = content.replace(b"K\x02K\xc0\x86", b"K\x03K\xc0\x86")
    assert changed != content
    (tmp_path / "batch").write_bytes(changed)
    with pytest.raises(UserError, match=r"an array of shape \(3, 192\) has 384 bytes"):
        read_pickle(tmp_path / "batch")


TEXT = b"X\x00\x00\x01\x00" + b"a" * 2**16 + b"q\x01"  # of 64 KiB, and its number: 1
ENCODED = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R0"
DTYPE = b"cnumpy\ndtype\nU\x02u1\x85Rq\x02"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01J\x00\x00\x01\x00\x85h\x02\x89h\x01tb"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x80\x02}r\x00\x00\x00\x08.", None),  # an object whose number is 134,217,728
        (b"\x80\x02" + TEXT + b"0" + ENCODED * 400 + b"}.", "more bytes than the file has"),
        (b"\x80\x02" + TEXT + DTYPE + ARRAY * 400 + b"}.", "more bytes than the file has"),
    ],
)
def test_a_few_bytes_take_little_memory(content, sentence, tmp_path):
    (tmp_path / "batch").write_bytes(content)
    expected = pytest.raises(UserError, match=sentence) if sentence else contextlib.nullcontext()
    tracemalloc.start()
    try:
        with expected:
            assert read_pickle(tmp_path / "batch") == {}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


def test_reading_a_pickle_loads_no_module_that_it_names(tmp_path):
    (tmp_path / "batch").write_bytes(b"\x80\x02cthis\nmissing\n.")
    code = f"""
import sys
from pathlib import Path
from keras_imnet64.core.errors import UserError
from keras_imnet64.data.sources.pickles import read_pickle
try:
    read_pickle(Path({str(tmp_path / "batch")!r}))
except UserError:
    print("this" in sys.modules)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout == "False\n", child.stderr
