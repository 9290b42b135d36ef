"""What `data clean` removes, what it never touches, and the bytes that it reports."""

import json
import os
import subprocess
import sys
import time

import pytest
from class_folders import indexed
from toy_store import pictures, write

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.work_folders import new_beside
from keras_imnet64.data import datasets
from keras_imnet64.data.tools.cleaning import clean

NAME, STORE = "imagenet_resized/8x8", "imagenet_resized_8x8"


def fill(path, num_bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(num_bytes))
    return path


def pack(data_dir, store=STORE, splits=("train", "validation")):
    for split in splits:
        write(data_dir / "packed" / store / split, *pictures())


def download(data_dir, archive, num_bytes, builders=("imagenet_resized",)):
    """Writes a file, with the note that TFDS writes beside it."""
    file = fill(data_dir / "downloads" / f"down_{archive}", num_bytes)
    note = file.with_name(f"{file.name}.INFO")
    note.write_text(json.dumps({"dataset_names": list(builders), "original_fname": archive}))
    return [file, note]


def paths(result):
    return {entry["path"] for entry in result["removed"]}


def everything(folder):
    return {path: path.stat().st_size for path in folder.rglob("*")}


@pytest.fixture
def data_dir(tmp_path):
    """Returns a folder with both splits packed, and TFDS' copy of 700 bytes."""
    pack(tmp_path)
    fill(tmp_path / "imagenet_resized" / "8x8" / "0.1.0" / "one", 500)
    fill(tmp_path / "imagenet_resized" / "8x8" / "0.1.0" / "two", 200)
    return tmp_path


def dead_folder(path):
    """Makes the working folder of a process that has ended, with 30 bytes in it."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = new_beside(path, "writing")
    theirs = mine.with_name(mine.name.replace(f"@{os.getpid()}@", f"@{process.pid}@"))
    fill(mine / "images.npy", 30)
    return mine.rename(theirs)


@pytest.mark.parametrize("name", [NAME, None])
def test_tfds_copy_of_packed_images_is_removed(data_dir, name):
    stores = everything(data_dir / "packed")
    other = fill(data_dir / "imagenet_resized" / "16x16" / "0.1.0" / "one", 9)
    result = clean(name, data_dir=data_dir)
    assert paths(result) == {str(data_dir / "imagenet_resized" / "8x8")}
    assert result["bytes"] == 700 and not result["dry_run"]
    assert not (data_dir / "imagenet_resized" / "8x8").exists() and other.exists()
    assert everything(data_dir / "packed") == stores
    assert len(datasets.open_dataset(NAME, "train", data_dir=data_dir)) == 11
    assert clean(name, data_dir=data_dir) == {"removed": [], "bytes": 0, "dry_run": False}


def test_a_dry_run_removes_nothing_and_says_the_same(data_dir):
    _, note = download(data_dir, "Imagenet8_val_npz.zip", 60)
    dead_folder(data_dir / "packed" / STORE)
    before = everything(data_dir)
    told = clean(data_dir=data_dir, dry_run=True)
    assert everything(data_dir) == before and told["dry_run"] and len(told["removed"]) == 4
    assert told["bytes"] == 700 + 60 + before[note] + 30
    assert clean(data_dir=data_dir) == told | {"dry_run": False}
    assert everything(data_dir).keys() < before.keys()


@pytest.mark.parametrize("splits", [(), ("train",)])
def test_the_copy_of_unpacked_images_stays(tmp_path, splits):
    pack(tmp_path, splits=splits)
    fill(tmp_path / "imagenet_resized" / "8x8" / "0.1.0" / "one", 500)
    download(tmp_path, "Imagenet8_val_npz.zip", 60)
    before = everything(tmp_path)
    assert clean(data_dir=tmp_path)["removed"] == []
    assert everything(tmp_path) == before


def test_the_copy_of_a_damaged_store_stays(data_dir):
    fill(data_dir / "packed" / STORE / "train" / "images.npy", 5)
    assert clean(NAME, data_dir=data_dir)["removed"] == []


@pytest.mark.parametrize(("age", "goes"), [(0, False), (2 * 3600, True)])
def test_a_build_that_may_be_alive_stays(data_dir, age, goes):
    part = fill(data_dir / "imagenet_resized" / "8x8" / "incomplete.AB_0.1.0" / "shard", 5)
    for path in (part, part.parent):
        os.utime(path, (time.time() - age,) * 2)
    assert bool(clean(NAME, data_dir=data_dir)["removed"]) == goes


def test_only_downloads_of_this_set_and_size_are_removed(data_dir):
    ours = download(data_dir, "Imagenet8_train_npz.zip", 60)
    others = [
        *download(data_dir, "Imagenet64_val_npz.zip", 7),
        *download(data_dir, "Imagenet8_shared.zip", 7, ["imagenet_resized", "another"]),
        *download(data_dir, "Imagenet8_other.zip", 7, ["another"]),
        fill(data_dir / "downloads" / "odd.INFO", 3),
        fill(data_dir / "downloads" / "manual" / "Imagenet8_val_npz.zip", 8),
    ]
    ours_bytes = sum(path.stat().st_size for path in ours)
    result = clean(NAME, data_dir=data_dir)
    assert paths(result) == {str(data_dir / "imagenet_resized" / "8x8"), *map(str, ours)}
    assert result["bytes"] == 700 + ours_bytes
    assert not any(path.exists() for path in ours) and all(path.exists() for path in others)


@pytest.mark.parametrize(
    "place",
    [STORE, f"{STORE}-unverified", f"{STORE}/train", "image_folder_pets", "downsampled_pets_8x8"],
)
def test_folders_of_dead_processes_are_removed(tmp_path, place):
    folder = dead_folder(tmp_path / "packed" / place)
    result = clean(data_dir=tmp_path / "elsewhere", cache_dir=tmp_path)
    assert paths(result) == {str(folder)} and result["bytes"] == 30
    assert not folder.exists()


def test_folders_of_living_processes_are_never_touched(data_dir):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mine = new_beside(data_dir / "packed" / STORE, "writing")
        mine.rename(mine.with_name(mine.name.replace(f"@{os.getpid()}@", f"@{process.pid}@")))
        before = everything(data_dir)
        for name in (NAME, None):
            with pytest.raises(UserError, match=f"process {process.pid} is packing {NAME}"):
                clean(name, data_dir=data_dir)
        assert everything(data_dir) == before
        assert clean("tiny_imagenet", data_dir=data_dir)["removed"] == []
        process.stdin.close()


def test_indexed_images_and_tfrecords_read_in_place_stay(tmp_path):
    indexed(tmp_path)
    fill(tmp_path / "data" / "imagenet2012" / "5.1.0" / "imagenet2012-train.tfrecord", 9)
    pack(tmp_path / "data", "imagenet2012")
    fill(tmp_path / "data" / "packed" / "somebody's" / "notes.txt", 4)
    before = everything(tmp_path)
    assert clean(data_dir=tmp_path / "data")["removed"] == []
    assert everything(tmp_path) == before


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'there is no data set "shape": did you mean "shapes"'):
        clean("shape", data_dir=tmp_path)
