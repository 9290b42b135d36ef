"""Official archives through TFDS' builder, on small 8 x 8 archives with their own checksums."""

import dataclasses
import hashlib
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import archives

NAME = "imagenet_resized/8x8"
TRAIN_ZIP, VAL_ZIP = "Imagenet8_train_npz.zip", "Imagenet8_val_npz.zip"
TRAIN_LABELS = [1, 1000, 491, 2, 3]  # as the archives have them
VAL_LABELS = [7, 8]


def rows(count, seed):
    """Returns `data` of an archive; the first row is 0..191, so that values show their place."""
    data = np.random.default_rng(seed).integers(0, 256, (count, 192), np.uint8)
    data[0] = np.arange(192)
    return data


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Returns a folder with a train archive of two members and a validation archive."""
    folder = tmp_path_factory.mktemp("official")
    data, labels = rows(5, 0), np.array(TRAIN_LABELS)
    mean = data.mean(axis=0)
    write_zip(
        folder / TRAIN_ZIP,
        {
            "train_data_batch_1.npz": npz(data=data[:3], labels=labels[:3], mean=mean),
            "train_data_batch_2.npz": npz(data=data[3:], labels=labels[3:], mean=mean),
        },
    )
    val = npz(data=rows(2, 1), labels=np.array(VAL_LABELS))
    write_zip(folder / VAL_ZIP, {"val_data.npz": val})
    return folder


def described(path, split):
    content = path.read_bytes()
    return archives.Archive(path.name, split, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def published(official, monkeypatch):
    """Makes the published archives and the expected counts those of the small archives."""
    other = archives.Archive("Imagenet16_val_npz.zip", "validation", 3, sha_of(b"abc"))
    table = [described(official / TRAIN_ZIP, "train"), described(official / VAL_ZIP, "validation")]
    monkeypatch.setattr(archives, "published_archives", lambda: [*table, other])
    row = dataclasses.replace(datasets.DATASETS[NAME], splits={"train": 5, "validation": 2})
    monkeypatch.setitem(datasets.DATASETS, NAME, row)


def sha_of(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def source(official, tmp_path):
    return Path(shutil.copytree(official, tmp_path / "source"))


def prepare(source, tmp_path, **options):
    return datasets.prepare(NAME, data_dir=tmp_path / "data", source=source, **options)


def test_published_table_is_the_documented_one():
    table = {a.file_name: a for a in archives.published_archives()}
    assert len(table) == 9
    part2 = table["Imagenet64_train_part2_npz.zip"]
    assert part2.bytes == 6_780_506_068 and part2.split == "train"
    assert part2.sha256 == "9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30"
    assert table["Imagenet8_val_npz.zip"].split == "validation"
    assert [a.file_name for a in archives.archives_of(64)] == [
        "Imagenet64_train_part1_npz.zip",
        "Imagenet64_train_part2_npz.zip",
        "Imagenet64_val_npz.zip",
    ]
    assert [a.file_name for a in archives.archives_of(8)] == [TRAIN_ZIP, VAL_ZIP]


def test_label_order_is_map_clsloc():
    """SHA-1 of the permutation to sorted order, computed from ILSVRC's own files."""
    wnids = archives.imagenet_wnids()
    order = {wnid: position for position, wnid in enumerate(sorted(wnids))}
    permutation = ",".join(str(order[wnid]) for wnid in wnids)
    digest = hashlib.sha1(permutation.encode()).hexdigest()
    assert digest == "aa8f5bd19f5d0a22a9449597c5cdead78d0d70d5"
    names = archives.imagenet_class_names()
    assert (wnids[0], names[0]) == ("n02119789", "kit fox")
    assert (wnids[999], names[999]) == ("n03255030", "dumbbell")


def test_official_archives_become_verified_stores(published, source, tmp_path):
    stores = prepare(source, tmp_path)
    train = stores["train"]
    assert train.verified and len(train) == 5 and len(stores["validation"]) == 2
    assert sorted(train.labels) == sorted(label - 1 for label in TRAIN_LABELS)
    assert sorted(stores["validation"].labels) == [6, 7]
    image = train.images[list(train.labels).index(0)]  # the row 0..191: CHW, so R comes first
    assert image[0, 0].tolist() == [0, 64, 128]
    assert image[0, 1].tolist() == [1, 65, 129]
    assert image[1, 0].tolist() == [8, 72, 136]
    assert train.wnids[0] == "n02119789" and len(train.wnids) == 1000
    assert train.path == tmp_path / "data" / "packed" / "imagenet_resized_8x8" / "train"

    report = datasets.info(NAME, data_dir=tmp_path / "data")
    assert report["state"] == "packed" and report["verified"] is True
    assert report["splits"] == {"train": 5, "validation": 2}
    assert report["digest"]["train"] == train.digest
    assert report["store_bytes"] > 5 * 192 and report["tfds_bytes"] > 0

    # What TFDS built is enough to pack again, in the same order, without the archives.
    shutil.rmtree(tmp_path / "data" / "packed")
    shutil.rmtree(source)
    assert datasets.info(NAME, data_dir=tmp_path / "data")["state"] == "built by TFDS, not packed"
    again = datasets.open_dataset(
        NAME, "train", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"
    )
    assert again.digest == train.digest
    assert again.path == tmp_path / "cache" / "packed" / "imagenet_resized_8x8" / "train"


def test_an_interrupted_build_does_not_count_and_is_done_again(published, source, tmp_path):
    half = tmp_path / "data" / "imagenet_resized" / "8x8" / "incomplete.ABC123_0.1.0"
    half.mkdir(parents=True)
    (half / "imagenet_resized-train.tfrecord-00000-of-00001").write_bytes(b"half")
    with pytest.raises(UserError, match="not prepared"):
        datasets.open_dataset(NAME, "train", data_dir=tmp_path / "data")
    assert len(prepare(source, tmp_path)["train"]) == 5


def test_a_damaged_tfrecord_is_named(published, source, tmp_path):
    prepare(source, tmp_path)
    shutil.rmtree(tmp_path / "data" / "packed")
    [record] = (tmp_path / "data").rglob("*train.tfrecord*")
    content = bytearray(record.read_bytes())
    content[40] ^= 255
    record.write_bytes(content)
    with pytest.raises(UserError, match=r"8x8.* is damaged \(DataLossError while reading train\)"):
        datasets.open_dataset(NAME, "train", data_dir=tmp_path / "data")


def test_tfds_data_of_another_size_is_not_taken_for_imagenet(
    published, source, tmp_path, monkeypatch
):
    prepare(source, tmp_path)
    shutil.rmtree(tmp_path / "data" / "packed")
    row = dataclasses.replace(datasets.DATASETS[NAME], splits={"train": 6, "validation": 2})
    monkeypatch.setitem(datasets.DATASETS, NAME, row)
    with pytest.raises(UserError, match=r"holds 5 images of train where imagenet.* has 6"):
        datasets.open_dataset(NAME, "train", data_dir=tmp_path / "data")


def test_the_error_of_a_failed_download_says_how_to_fetch_by_hand(published, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(*_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", refuse)
    monkeypatch.setattr(
        "keras_imnet64.data.sources.imagenet_resized.unavailable_reason", lambda _: ""
    )
    with pytest.raises(UserError, match=r"8x8.*ConnectionError: no route to host.*--source"):
        prepare(None, tmp_path)


def test_a_disk_that_fills_while_tfds_builds_ends_the_run(published, source, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(*_, **__):
        raise OSError(28, "No space left on device", "train.tfrecord")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(RunFailed, match=r"building .* failed \(OSError: .*No space left"):
        prepare(source, tmp_path)


def remove(folder):
    (folder / VAL_ZIP).unlink()


def truncate(folder):
    content = (folder / TRAIN_ZIP).read_bytes()
    (folder / TRAIN_ZIP).write_bytes(content[:-10])


def alter(folder):
    content = bytearray((folder / TRAIN_ZIP).read_bytes())
    content[100] ^= 1
    (folder / TRAIN_ZIP).write_bytes(content)


def lengthen(folder):
    (folder / TRAIN_ZIP).write_bytes((folder / TRAIN_ZIP).read_bytes() + b"x")


def mislabel(folder):
    (folder / VAL_ZIP).write_bytes(b"abc")


def swap(folder):
    shutil.copy(folder / TRAIN_ZIP, folder / "spare")
    shutil.move(folder / VAL_ZIP, folder / TRAIN_ZIP)
    shutil.move(folder / "spare", folder / VAL_ZIP)


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (remove, [f"{VAL_ZIP} is missing"]),
        (truncate, [f"{TRAIN_ZIP} is truncated"]),
        (alter, [f"{TRAIN_ZIP} is altered (SHA-256"]),
        (lengthen, [f"{TRAIN_ZIP} is altered"]),
        (mislabel, [f"{VAL_ZIP} is really Imagenet16_val_npz.zip"]),
        (swap, [f"{TRAIN_ZIP} is really {VAL_ZIP}", f"{VAL_ZIP} is really {TRAIN_ZIP}"]),
    ],
)
def test_archives_that_are_not_the_published_ones_are_refused(
    published, source, tmp_path, damage, messages
):
    damage(source)
    with pytest.raises(UserError) as refusal:
        prepare(source, tmp_path)
    for message in messages:
        assert message in str(refusal.value)
    assert not (tmp_path / "data").exists()


def test_checking_reports_bytes(published, source, tmp_path):
    calls = []
    archives.verify(source, archives.archives_of(8), lambda *call: calls.append(call))
    size = (source / TRAIN_ZIP).stat().st_size
    assert (f"checking {TRAIN_ZIP}", size, size) in calls


def test_a_source_that_is_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"--source .*nowhere does not exist; check the path"):
        prepare(tmp_path / "nowhere", tmp_path)
    (tmp_path / "a.file").write_bytes(b"")
    with pytest.raises(UserError, match=r"must be a folder .* received .*a\.file"):
        prepare(tmp_path / "a.file", tmp_path)


def test_unverified_archives_go_to_a_place_of_their_own(source, tmp_path):
    """The real table applies here, and other counts are accepted."""
    with pytest.raises(UserError, match="--allow-unverified"):
        prepare(source, tmp_path)
    stores = prepare(source, tmp_path, allow_unverified=True)
    assert not stores["train"].verified and len(stores["train"]) == 5
    data = tmp_path / "data"
    assert not (data / "imagenet_resized").exists()
    assert (data / "imagenet_resized_unverified").is_dir()
    assert {p.name for p in (data / "packed").iterdir()} == {"imagenet_resized_8x8-unverified"}
    opened = datasets.open_dataset(NAME, "validation", data_dir=data)
    assert not opened.verified and sorted(opened.labels) == [6, 7]
    assert datasets.info(NAME, data_dir=data)["verified"] is False

    # Other images under the same names replace these.
    val = npz(data=rows(3, 5), labels=np.array([1, 2, 3]))
    write_zip(source / VAL_ZIP, {"val_data.npz": val})
    assert len(prepare(source, tmp_path, allow_unverified=True)["validation"]) == 3


def test_verified_images_are_preferred(published, source, tmp_path):
    prepare(source, tmp_path, allow_unverified=True)
    assert not datasets.open_dataset(NAME, "train", data_dir=tmp_path / "data").verified
    prepare(source, tmp_path)
    assert datasets.open_dataset(NAME, "train", data_dir=tmp_path / "data").verified
    shutil.rmtree(tmp_path / "data" / "packed" / "imagenet_resized_8x8")
    assert datasets.open_dataset(NAME, "train", data_dir=tmp_path / "data").verified


def damaged_npz():
    content = bytearray(npz(data=rows(2, 1), labels=np.array([1, 2])))
    content[300] ^= 255
    return bytes(content)


GOOD = dict(data=rows(2, 1), labels=np.array([1, 2]))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"val_data.npz": npz(**GOOD | {"labels": np.array([0, 2])})}, r"labels 1\.\.1000"),
        ({"val_data.npz": npz(**GOOD | {"labels": np.array([1, 1001])})}, r"received 1\.\.1001"),
        ({"val_data.npz": npz(**GOOD | {"labels": np.array([0.5, 1])})}, "whole-number labels"),
        ({"val_data.npz": npz(**GOOD | {"labels": np.arange(1, 4)})}, r"uint8 \[3, 192\]"),
        ({"val_data.npz": npz(**GOOD | {"data": rows(2, 1) / 255})}, "received float64"),
        ({"val_data.npz": npz(data=np.zeros((2, 48), np.uint8), labels=[1, 2])}, r"\[2, 48\]"),
        ({"val_data.npz": npz(data=rows(2, 1))}, "must hold data and labels"),
        ({"val_data.npz": damaged_npz()}, r"val_data\.npz is damaged"),
        ({"val_data.npz": b"no npz"}, r"val_data\.npz is damaged"),
        ({"image.png": b""}, 'holds "image.png"'),
        ({}, "holds no images"),
    ],
)
def test_the_layout_of_unverified_archives_is_checked(source, tmp_path, members, message):
    write_zip(source / VAL_ZIP, members)
    with pytest.raises(UserError, match=message) as refusal:
        prepare(source, tmp_path, allow_unverified=True)
    assert VAL_ZIP in str(refusal.value)
    assert not (tmp_path / "data").exists()


def test_an_unverified_archive_cut_short(source, tmp_path):
    truncate(source)
    with pytest.raises(UserError, match=f"{TRAIN_ZIP} is not a whole zip archive"):
        prepare(source, tmp_path, allow_unverified=True)


def test_written_archives_are_read_alike(tmp_path):
    """`write_archives` is the inverse of reading."""
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 8, 8, 3), np.uint8), np.arange(7)
    archives.write_archives(
        [source / TRAIN_ZIP],
        source / VAL_ZIP,
        (images[:5], labels[:5]),
        (images[5:], labels[5:]),
        num_batches=2,
    )
    stores = prepare(source, tmp_path, allow_unverified=True)
    for position, label in enumerate(stores["train"].labels):
        np.testing.assert_array_equal(stores["train"].images[position], images[label])
    assert sorted(stores["validation"].labels) == [5, 6]
