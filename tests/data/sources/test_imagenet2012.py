"""ImageNet-1K's tars, class folders and TFRecords, each with three classes drawn here."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from class_folders import drawn

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import archives, imagenet2012

WNIDS = sorted(archives.imagenet_wnids())[:3]
TRAIN, VALIDATION = imagenet2012.TRAIN_TAR, imagenet2012.VALIDATION_TAR


def jpeg(seed):
    content = io.BytesIO()
    drawn(9, 11, seed).save(content, "JPEG")
    return content.getvalue()


def published(wnid):
    """Returns the published names of a class's validation images."""
    return [name for name, of in imagenet2012.validation_wnids().items() if of == wnid]


IMAGES = {  # by class, by name
    wnid: {f"{wnid}_{n}.JPEG": jpeg(2 * label + n) for n in (10, 2)}
    for label, wnid in enumerate(WNIDS)
}
VALIDATION_IMAGES = {published(wnid)[0]: jpeg(20 + n) for n, wnid in enumerate(WNIDS)}


def member(name, kind=tarfile.REGTYPE, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "elsewhere"
    return info


def tar(files, *more, format=tarfile.GNU_FORMAT):
    """Returns the bytes of a tar of {name: bytes}, then of other members without content."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=format) as archive:
        for name, data in files.items():
            archive.addfile(member(name, size=len(data)), io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return content.getvalue()


def train_files():
    return {f"{wnid}.tar": tar(IMAGES[wnid]) for wnid in reversed(WNIDS)}


def write_tars(folder, train=None, validation=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAIN).write_bytes(tar(train_files()) if train is None else train)
    whole = tar(VALIDATION_IMAGES)
    (folder / VALIDATION).write_bytes(whole if validation is None else validation)
    return folder


def write_folders(folder, flat=False):
    for wnid, images in IMAGES.items():
        for name, content in images.items():
            write(folder / "train" / wnid / name, content)
    wnid_of = imagenet2012.validation_wnids()
    for name, content in VALIDATION_IMAGES.items():
        write(folder / "val" / ("" if flat else wnid_of[name]) / name, content)
    return folder


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def write_records(data_dir, cut=None, version="5.1.0", **changes):
    """Writes the TFRecords that TFDS builds; `changes` replace features of every record."""
    folder = data_dir / "imagenet2012" / version
    write(folder / "dataset_info.json", b"{}")
    wnid_of = imagenet2012.validation_wnids()
    validation = [(n, c, wnid_of[n]) for n, c in VALIDATION_IMAGES.items()]
    train = [(n, c, wnid) for wnid in reversed(WNIDS) for n, c in IMAGES[wnid].items()]
    for split, images in (("train", train), ("validation", validation)):
        shard = folder / f"imagenet2012-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for name, content, wnid in images:
                values = {"file_name": name.encode(), "image": content, "label": WNIDS.index(wnid)}
                features = {k: feature(v) for k, v in (values | changes).items() if v is not None}
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
        if split == "train" and cut:
            os.truncate(shard, shard.stat().st_size - cut)
    return folder


def feature(value):
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


@pytest.fixture
def counted(monkeypatch):
    """Makes the expected counts and names those of the small data set."""
    wnid_of = imagenet2012.validation_wnids()
    monkeypatch.setattr(imagenet2012, "validation_wnids", lambda: wnid_of)
    monkeypatch.setattr(imagenet2012, "imagenet_wnids", lambda: WNIDS)
    monkeypatch.setattr(imagenet2012, "NUM_TRAIN", 6)
    monkeypatch.setattr(imagenet2012, "NUM_VALIDATION", 3)


def prepare(source, data_dir, **options):
    options = {"allow_unverified": source is not None} | options
    return datasets.prepare("imagenet2012", source=source, data_dir=data_dir, **options)


def contents(store):
    """Returns [(label, bytes)]."""
    return list(zip(store.labels.tolist(), store.read(np.arange(len(store))), strict=True))


EXPECTED = [
    (label, IMAGES[wnid][f"{wnid}_{n}.JPEG"]) for label, wnid in enumerate(WNIDS) for n in (10, 2)
]
EXPECTED_VALIDATION = [
    (WNIDS.index(imagenet2012.validation_wnids()[name]), VALIDATION_IMAGES[name])
    for name in sorted(VALIDATION_IMAGES)
]

# ------------------------------------------------------------------------------- all of one content


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_are_read_where_their_members_lie(tmp_path, format):
    train = {f"{w}.tar": tar(IMAGES[w], format=format) for w in reversed(WNIDS)}
    source = write_tars(tmp_path / "tars", tar(train, member("d", tarfile.DIRTYPE), format=format))
    stores = prepare(source, tmp_path / "data")
    assert contents(stores["train"]) == EXPECTED
    assert contents(stores["validation"]) == EXPECTED_VALIDATION
    assert stores["train"].wnids == WNIDS and stores["train"].class_names[0] == "tench"
    assert {path.name for path in tmp_path.rglob("*.JPEG")} == set()  # nothing is unpacked


@pytest.mark.parametrize("flat", [False, True])
def test_folders_have_the_images_of_the_tars(tmp_path, flat):
    root = write_folders(tmp_path / "folders", flat)
    write(root / "val" / f"._{min(VALIDATION_IMAGES)}", b"of a Mac")
    stores = prepare(root, tmp_path / "data")
    assert contents(stores["train"]) == EXPECTED
    assert sorted(contents(stores["validation"])) == sorted(EXPECTED_VALIDATION)
    tars = prepare(write_tars(tmp_path / "tars"), tmp_path / "other")
    assert stores["train"].digest == tars["train"].digest


def test_other_spellings_of_folders_are_known_and_other_files_are_named(tmp_path, counted):
    root, skipped, said = write_folders(tmp_path / "source" / "folders"), [], []
    (root / "train").rename(root / "Train")
    (root / "val").rename(root / "valid")
    (root / "Train" / WNIDS[0] / "broken.JPEG").symlink_to("/nowhere")
    write(root / "valid" / "1.JPEG", jpeg(0))
    write(root / "valid" / "valprep.sh", b"mkdir")
    write(root / "test" / "1.JPEG", jpeg(0))
    with pytest.raises(UserError, match=r"2 of 11 files .*: valid/1\.JPEG lies in no class folder"):
        prepare(root.parent, tmp_path / "data", allow_unverified=False)
    options = {"skip_corrupt": True, "skipped": skipped, "say": said.append}
    store = prepare(root.parent, tmp_path / "data", allow_unverified=False, **options)["train"]
    assert store.verified and contents(store) == EXPECTED  # nothing that it promises is missing
    assert [name for name, _ in skipped] == ["valid/1.JPEG", f"Train/{WNIDS[0]}/broken.JPEG"]
    assert said[-1] == "ignored: valid/valprep.sh, test/"


def test_records_of_tfds_are_read_where_they_lie(tmp_path, counted):
    write_records(tmp_path)
    write_records(tmp_path, version="incomplete.X_5.1.0", label=99)  # of a build that broke off
    write_records(tmp_path, version="5.0.9", label=99)  # an older one
    stores = prepare(None, tmp_path)
    assert sorted(contents(stores["train"])) == sorted(EXPECTED)
    assert [label for label, _ in contents(stores["train"])] == [2, 2, 1, 1, 0, 0]  # TFDS' order
    assert sorted(contents(stores["validation"])) == sorted(EXPECTED_VALIDATION)
    assert stores["train"].verified and stores["train"].path.parent.name == "imagenet2012"


def test_tars_that_lie_where_tfds_wants_them_need_no_source(tmp_path, counted):
    write_tars(tmp_path / "downloads" / "manual")
    assert contents(prepare(None, tmp_path)["train"]) == EXPECTED


def test_without_a_source_the_error_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=f"is read from {TRAIN} and .* need a login .*: put them"):
        prepare(None, tmp_path)


# --------------------------------------------------------------------------------- what is verified


def test_images_with_the_published_classes_and_counts_are_verified(tmp_path, counted, monkeypatch):
    source = write_tars(tmp_path / "tars")
    assert prepare(source, tmp_path / "data", allow_unverified=False)["train"].verified
    for name in ("NUM_TRAIN", "NUM_VALIDATION"):
        with monkeypatch.context() as patch:
            patch.setattr(imagenet2012, name, 9)
            with pytest.raises(UserError, match=r"has \d images, not 9; pass --allow-unverified"):
                prepare(source, tmp_path / "data", allow_unverified=False)
            store = prepare(source, tmp_path / "data")["train"]
            assert not store.verified and store.path.parent.name == "imagenet2012-unverified"


def test_other_classes_are_refused(tmp_path):
    source = write_tars(tmp_path / "tars")
    with pytest.raises(UserError, match="its 3 classes are not ImageNet's 1,000; pass --allow-un"):
        prepare(source, tmp_path / "data", allow_unverified=False)
    assert not (tmp_path / "data").exists()


def test_skipping_a_damaged_image_makes_the_set_unverified(tmp_path, counted):
    damaged = {f"{WNIDS[0]}_10.JPEG": b"no image"}
    train = train_files() | {f"{WNIDS[0]}.tar": tar(IMAGES[WNIDS[0]] | damaged)}
    source, skipped = write_tars(tmp_path / "tars", tar(train)), []
    where = f"{TRAIN}: {WNIDS[0]}.tar/{WNIDS[0]}_10.JPEG"
    with pytest.raises(UserError, match=f"{where} is not an image .*; pass --skip-corrupt"):
        prepare(source, tmp_path / "data", allow_unverified=False)
    store = prepare(source, tmp_path / "data", skip_corrupt=True, skipped=skipped)["train"]
    assert skipped == [(where, "is not an image in a known format")]
    assert not store.verified and contents(store) == EXPECTED[1:]


# ---------------------------------------------------------------------------------- what is refused

NAME, WNID = next(iter(VALIDATION_IMAGES)), WNIDS[0]
OTHER = sorted(archives.imagenet_wnids())[5]
WHOLE, WHOLE_VALIDATION = tar(train_files()), tar(VALIDATION_IMAGES)
FOURTH = 2 * tarfile.BLOCKSIZE + len(jpeg(20)) // 512 * 512  # where the second member begins


def with_inner(content):
    return tar(train_files() | {f"{WNID}.tar": content})


def damaged_at(content, offset):
    return content[:offset] + b"x" * 512 + content[offset + 512 :]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (b"", None, f"{TRAIN} is not a whole tar archive"),
        (b"no tar at all" * 99, None, f"{TRAIN} is not a whole tar archive"),
        (WHOLE[:3000], None, f"{TRAIN} is not a whole tar archive"),
        (WHOLE[: len(WHOLE) // 2], None, f"{TRAIN}.* is not a whole tar archive"),
        (tar({}), None, f"{TRAIN} holds no class"),
        (tar(train_files() | {"a.txt": b""}), None, r"one tar for each class; it has a\.txt"),
        (tar(train_files() | {f"x/{WNID}.tar": b""}), None, f"each class; it has x/{WNID}.tar"),
        (tar({}, member("a", tarfile.SYMTYPE)), None, "holds a, which is a link or points"),
        (tar({}, member("a", tarfile.LNKTYPE)), None, "holds a, which is a link or points"),
        (tar({}, member("a", tarfile.FIFOTYPE)), None, "holds a, which is a link or points"),
        (tar({"../a.tar": b""}), None, r"holds \.\./a\.tar, which is a link or points outside"),
        (tar({"/a.tar": b""}), None, r"holds /a\.tar, which is a link or points outside"),
        (with_inner(b""), None, f"{TRAIN}: {WNID}.tar is not a whole tar archive"),
        (with_inner(tar({})), None, f"{TRAIN}: {WNID}.tar holds no image"),
        (with_inner(tar(IMAGES[WNID])[:700]), None, f"{WNID}.tar is not a whole tar archive"),
        (with_inner(tar({"../a": b""})), None, rf"{WNID}.tar holds \.\./a, which is a link or"),
        (None, b"", f"{VALIDATION} is not a whole tar archive"),
        (None, WHOLE_VALIDATION[:700], f"{VALIDATION} is not a whole tar archive"),
        (None, WHOLE_VALIDATION[: FOURTH + 99], f"{VALIDATION} is not a whole tar archive"),
        (None, damaged_at(WHOLE_VALIDATION, FOURTH), f"{VALIDATION} is not a whole tar archive"),
        (None, tar({"a.JPEG": b""}), r"holds a\.JPEG, which is not a validation image of Image"),
        (None, tar({published(OTHER)[0]: b""}), f"of the class {OTHER}, which the training"),
        (None, tar({NAME: b""}, member("b", tarfile.SYMTYPE)), "holds b, which is a link or"),
        (None, tar(VALIDATION_IMAGES, member(f"x/{NAME}")), f"holds {NAME} twice"),
        (None, tar({f"../{NAME}": b""}), rf"holds \.\./{NAME}, which is a link or points"),
    ],
)
def test_tars_that_are_refused(tmp_path, train, validation, message):
    source = write_tars(tmp_path / "tars", train, validation)
    with pytest.raises(UserError, match=message) as refusal:
        prepare(source, tmp_path / "data")
    assert str(source) in str(refusal.value) and not (tmp_path / "data").exists()


def test_both_tars_are_needed(tmp_path):
    source = write_tars(tmp_path / "tars")
    (source / VALIDATION).unlink()
    with pytest.raises(UserError, match=f"has {TRAIN} but not {VALIDATION}; both are needed"):
        prepare(source, tmp_path / "data")
    (source / TRAIN).unlink()
    with pytest.raises(UserError, match=r"holds neither .* nor the folders train and val"):
        prepare(source, tmp_path / "data")


def test_flat_validation_images_need_their_published_names(tmp_path):
    root = write_folders(tmp_path / "folders", flat=True)
    os.mkfifo(root / "val" / published(WNID)[1])  # which nobody fills
    with pytest.raises(UserError, match=rf"val/{published(WNID)[1]} is not a file; .*--skip-corr"):
        prepare(root, tmp_path / "data")
    assert len(prepare(root, tmp_path / "data", skip_corrupt=True)["validation"]) == 3
    write(root / "val" / "mine.jpg", jpeg(0))
    with pytest.raises(UserError, match=r"holds val/mine\.jpg, which is not a validation image"):
        prepare(root, tmp_path / "data")
    with pytest.raises(UserError, match=r"val cannot be listed: No such file"):
        (root / "val").rename(root / "moved")
        prepare(root, tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut": 3}, "is cut short: let TFDS build it again"),
        ({"cut": 40}, "is cut short"),
        ({"label": 3}, "has an image of class 3"),
        ({"label": -1}, "has an image of class -1"),
        ({"label": b"text"}, "does not hold TFDS' records"),
        ({"image": None}, "does not hold TFDS' records"),
        ({"image": b"no image"}, "is not an image in a known format"),
        ({"image": b""}, "is empty"),
    ],
)
def test_records_that_are_refused(tmp_path, counted, changes, message):
    folder = write_records(tmp_path, **changes)
    with pytest.raises(UserError, match=rf"{folder}/.*tfrecord-00000-of-00001.* {message}"):
        prepare(None, tmp_path)


@pytest.mark.parametrize(
    "content", [b"x", b"\xff" * 99, b"\0" * 6 + b"\x7f" + b"\0" * 30, bytes(99)]
)
def test_a_shard_of_other_bytes_is_refused(tmp_path, counted, content):
    folder = write_records(tmp_path)
    (shard,) = Path(folder).glob("*-train*")
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"-train\.tfrecord-00000-of-00001 .*let TFDS build it"):
        prepare(None, tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="has no TFRecords of train: let TFDS build it again"):
        prepare(None, tmp_path)


def test_the_newest_version_of_tfds_is_known_by_its_number(tmp_path):
    for version in ("5.1.0", "10.0.0", "9.9.9", "incomplete.X_11.0.0"):
        (tmp_path / "imagenet2012" / version).mkdir(parents=True)
        (tmp_path / "imagenet2012" / version / "dataset_info.json").touch()
    assert imagenet2012.built_by_tfds(tmp_path).name == "10.0.0"
    assert imagenet2012.built_by_tfds(tmp_path / "nowhere") is None
