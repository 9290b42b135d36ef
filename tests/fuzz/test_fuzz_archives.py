"""Archives, npz and zip files, damaged or hostile: each works or is refused, and runs no code."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from fuzzing import RunsCode, announced, damage, fuzz, npy, npz, works_or_is_refused, zipped
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.sources import archives, tiny_imagenet

TRAIN, VALIDATION = "Imagenet8_train_npz.zip", "Imagenet8_val_npz.zip"
GOOD = dict(data=np.zeros((2, 192), "u1"), labels=np.array([1, 2]))


@pytest.fixture
def official(tmp_path):
    """Returns a folder of archives in the official layout."""
    member = npz(**GOOD)
    (tmp_path / TRAIN).write_bytes(zipped({"train_data_batch_1.npz": member}, zipfile.ZIP_STORED))
    (tmp_path / VALIDATION).write_bytes(zipped({"val_data.npz": member}, zipfile.ZIP_STORED))
    return tmp_path


def check(folder):
    return archives.check_layout(folder, archives.archives_of(8), 8, 1000)


def test_damaged_archives(official):
    good = (official / VALIDATION).read_bytes()

    @fuzz(250)
    @given(damage(good))
    def try_one(content):
        (official / VALIDATION).write_bytes(content)
        works_or_is_refused(check, official)

    assert check(official).counts == {"train": 2, "validation": 2}
    try_one()


def test_damaged_arrays_in_whole_archives(official):
    @fuzz(60)
    @given(damage(npz(**GOOD)), damage(npy(GOOD["data"])), damage(npy(GOOD["labels"])))
    def try_one(member, data, labels):
        for content in (member, zipped({"data.npy": data, "labels.npy": labels})):
            (official / VALIDATION).write_bytes(zipped({"val_data.npz": content}))
            works_or_is_refused(check, official)

    try_one()


def altered(content, **fields):
    """Returns a zip with other values in the first entry of its central directory."""
    content = bytearray(content)
    at = content.rindex(b"PK\1\2")
    for name, value in fields.items():
        offset, size = {"flags": (8, 2), "method": (10, 2), "size": (24, 4)}[name]
        content[at + offset : at + offset + size] = value.to_bytes(size, "little")
    return bytes(content)


def doubled_names():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("val_data.npz", npz(**GOOD))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("val_data.npz", npz(**GOOD))
    return content.getvalue()


def labelled(labels):
    return zipped({"val_data.npz": npz(**GOOD | {"labels": np.array(labels)})})


WHOLE = zipped({"val_data.npz": npz(**GOOD)})
BOMB = zipped({"val_data.npz": bytes(80 * 2**20)})
BOMBS = zipped({"val_data.npz": bytes(40 * 2**20), "more.npz": bytes(40 * 2**20)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (doubled_names(), "two members of the name"),
        (zipped({"../val_data.npz": b""}), "points outside it"),
        (zipped({"C:\\..\\val_data.npz": b""}), "points outside it"),
        (zipped({"/val_data.npz": b""}), "points outside it"),
        (altered(WHOLE, flags=1), "is encrypted"),
        (altered(WHOLE, method=14), "method other than deflate"),
        (altered(WHOLE, method=99), "method other than deflate"),
        (BOMB, "would grow from"),
        (BOMBS, "with 1 other members would grow from"),
        (altered(WHOLE, size=2**32 - 2), "would grow from"),
        (zipped({"val_data.npz": zipped({"data.npy": bytes(80 * 2**20)})}), "would grow from"),
        (zipped({"val_data.npz": WHOLE}), "data.npy is missing"),
        (
            zipped({"val_data.npz": zipped({"data.npy": announced((10**7, 192), "|u1")})}),
            "another size than its header",
        ),
        (labelled([[1], [2]]), "list of labels"),
        (labelled(1), "list of labels"),
        (labelled([1, 5000]), "1..5000"),
        (labelled([-(2**63), 2]), "1..1000"),
    ],
)
def test_hostile_archives_are_refused(official, content, message):
    (official / VALIDATION).write_bytes(content)
    with pytest.raises(UserError) as refusal:
        check(official)
    assert message in str(refusal.value) and VALIDATION in str(refusal.value)


def test_no_array_of_an_archive_runs_code(official, tmp_path):
    harm = np.array([RunsCode(tmp_path / "marker")] * 2)
    arrays = [npz(**GOOD | {"labels": harm}), npz(**GOOD | {"data": harm})]
    for member in (*arrays, pickle.dumps(harm)):
        (official / VALIDATION).write_bytes(zipped({"val_data.npz": member}))
        with pytest.raises(UserError):
            check(official)
    assert not (tmp_path / "marker").exists()


def jpeg(size=(64, 64)):
    content = io.BytesIO()
    Image.new("RGB", size).save(content, "JPEG")
    return content.getvalue()


def tiny_layout():
    return {
        "wnids.txt": b"n01443537\n",
        "words.txt": b"n01443537\tgoldfish\n",
        "val/val_annotations.txt": b"val_0.JPEG\tn01443537\t0\t0\t63\t63\n",
        "val/images/val_0.JPEG": jpeg(),
        "train/n01443537/images/n01443537_0.JPEG": jpeg(),
    }


def read_tiny(path):
    with tiny_imagenet.open_tree(path) as tree:
        listing = tiny_imagenet.read_listing(tree)
        for split in ("train", "validation"):
            for images, _ in tiny_imagenet.read(tree, listing.files[split], listing.labels[split]):
                assert images.shape[1:] == (64, 64, 3)


def test_damaged_tiny_zips(tmp_path):
    good = zipped(tiny_layout())

    @fuzz(200)
    @given(damage(good))
    def try_one(content):
        (tmp_path / "tiny.zip").write_bytes(content)
        works_or_is_refused(read_tiny, tmp_path / "tiny.zip")

    try_one()


def test_tiny_zips_with_damaged_members(tmp_path):
    layout = tiny_layout()

    @fuzz(200)
    @given(st.sampled_from(list(layout)), st.data())
    def try_one(name, data):
        changed = {name: data.draw(damage(layout[name]))}
        (tmp_path / "tiny.zip").write_bytes(zipped(layout | changed))
        works_or_is_refused(read_tiny, tmp_path / "tiny.zip")

    try_one()


@pytest.mark.parametrize("size", [(30_000, 30_000), (65_000, 2)])
def test_the_size_of_an_image_is_checked_before_it_is_decoded(size, tmp_path, monkeypatch):
    """The header of a file of a few hundred bytes may claim any size."""
    small = bytearray(jpeg((16, 16)))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
    name = "train/n01443537/images/n01443537_0.JPEG"
    path = tmp_path / "tiny.zip"
    path.write_bytes(zipped(tiny_layout() | {name: bytes(small)}))
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(UserError, match=r"n01443537_0\.JPEG is "):
        read_tiny(path)
