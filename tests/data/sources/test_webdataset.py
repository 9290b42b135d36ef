"""WebDataset's shards: read where they lie, in their order; classes proved; damage and lies."""

import itertools
import tarfile

import numpy as np
import pytest
from three_classes import (
    TRAIN,
    TRAIN_LABELS,
    VALIDATION,
    VALIDATION_LABELS,
    WNIDS,
    check_tiny,
    expect_three_classes,
    jpeg,
)
from write_forms import add, write_webdataset

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets

KEYS = [f"{WNIDS[label]}_{i}" for i, label in enumerate(TRAIN_LABELS)]


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    expect_three_classes(monkeypatch)


def write(folder, train=TRAIN, labels=TRAIN_LABELS, **options):
    options = {"shards": 3, "keys": KEYS} | options
    write_webdataset(folder, "imagenet-train", train, labels, **options)
    write_webdataset(folder, "imagenet-val", VALIDATION, VALIDATION_LABELS)
    return folder


def prepare(source, tmp_path, name="tiny_imagenet", **options):
    return datasets.prepare(name, source=source, data_dir=tmp_path / "store", **options)


def check(stores):
    check_tiny(stores)
    assert stores["train"].wnids == WNIDS and stores["train"].meta.form == "WebDataset"


def test_names_of_images_prove_the_classes_of_numbers(tmp_path):
    check(prepare(write(tmp_path / "a"), tmp_path))


def test_suffixes_in_any_case(tmp_path):
    for file in write(tmp_path / "a").iterdir():
        file.rename(file.with_suffix(".TAR"))
    check(prepare(tmp_path / "a", tmp_path))


@pytest.mark.parametrize(
    "object_of",
    [
        lambda label, name: {"label": label, "filename": name},  # as timm's sets on the hub
        lambda label, name: {"label": label, "wnid": WNIDS[label]},
        lambda label, name: {"class_id": WNIDS[label], "label": label},
    ],
)
def test_objects_beside_the_images_name_the_classes(object_of, tmp_path):
    objects = [
        object_of(label, f"{key}.JPEG") for label, key in zip(TRAIN_LABELS, KEYS, strict=True)
    ]
    write_webdataset(tmp_path / "a", "train", TRAIN, TRAIN_LABELS, objects=objects)
    names = [f"{WNIDS[label]}_9.JPEG" for label in VALIDATION_LABELS]
    objects = [object_of(*pair) for pair in zip(VALIDATION_LABELS, names, strict=True)]
    write_webdataset(tmp_path / "a", "validation", VALIDATION, VALIDATION_LABELS, objects=objects)
    check(prepare(tmp_path / "a", tmp_path))


def test_class_ids_as_labels_and_a_list_of_classes(tmp_path):
    write_webdataset(tmp_path / "a", "train", TRAIN, [WNIDS[label] for label in TRAIN_LABELS])
    write_webdataset(tmp_path / "a", "val", VALIDATION, [WNIDS[x] for x in VALIDATION_LABELS])
    check(prepare(tmp_path / "a", tmp_path))

    write_webdataset(tmp_path / "b", "train", TRAIN, TRAIN_LABELS)
    write_webdataset(tmp_path / "b", "val", VALIDATION, VALIDATION_LABELS)
    with pytest.raises(UserError, match=r'received "0", "1", "2"; add classes\.txt'):
        prepare(tmp_path / "b", tmp_path)
    (tmp_path / "b" / "classes.txt").write_text("\n".join(WNIDS))
    check(prepare(tmp_path / "b", tmp_path))


def test_files_of_systems_in_a_tar_are_passed_over(tmp_path):
    """A Mac packs an AppleDouble file before each file that has attributes."""
    source = write(tmp_path / "a")
    for shard in source.glob("*.tar"):
        with tarfile.open(shard) as archive:
            members = [(m.name, archive.extractfile(m).read()) for m in archive]
        more = [(f"._{name}", b"attributes") for name, _ in members]
        pairs = itertools.chain(*zip(more, members, strict=True))
        rewrite(shard, [("__MACOSX/x.jpg", b""), *pairs])
    check(prepare(source, tmp_path))


def test_a_name_may_stand_beside_a_number(tmp_path):
    objects = [{"label": x, "class": f"class {x}", "wnid": WNIDS[x]} for x in TRAIN_LABELS]
    write_webdataset(tmp_path / "a", "train", TRAIN, TRAIN_LABELS, objects=objects)
    write_webdataset(tmp_path / "a", "val", VALIDATION, [WNIDS[x] for x in VALIDATION_LABELS])
    check(prepare(tmp_path / "a", tmp_path))


def test_images_of_any_size_stay_in_their_shards(tmp_path):
    contents = [jpeg(seed, (40 + seed, 30)) for seed in range(6)]
    write(tmp_path / "a", contents)
    stores = prepare(tmp_path / "a", tmp_path, "image_folder/own")
    train = stores["train"]
    assert train.read(np.arange(6)).tolist() == contents
    assert train.file_of(3) == str(tmp_path / "a" / "imagenet-train-000001.tar")
    assert not train.meta.copied and train.num_converted == 0
    assert train.wnids == WNIDS  # by the names of the images


def test_numbers_are_the_classes_of_ones_own_images(tmp_path):
    labels = [10, 2, 2, 10, 2, 10]
    write_webdataset(tmp_path / "a", "train", TRAIN, labels)
    write_webdataset(tmp_path / "a", "val", VALIDATION, [2, 10, 2])
    said = []
    stores = prepare(tmp_path / "a", tmp_path, "image_folder/own", say=said.append)
    assert stores["train"].wnids == [str(number) for number in range(11)]
    assert stores["train"].labels.tolist() == labels
    assert any("train has no images of 0, 1, 3, 4, 5 and 4 more" in text for text in said)


# ---------------------------------------------------------------------------------- damage and lies


def rewrite(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            if content is None:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(link)
            else:
                add(archive, name, content)


GOOD = [("a.jpg", TRAIN[2]), ("a.cls", b"1"), ("b.jpg", TRAIN[3]), ("b.cls", b"0")]
LIES = {
    "outside": (
        [("../a.jpg", TRAIN[2]), ("../a.cls", b"1")],
        r"holds \.\./a\.jpg, which is a link",
    ),
    "absolute": ([("/a.jpg", TRAIN[2])], "holds /a.jpg, which is a link or points outside"),
    "link": ([*GOOD, ("c.jpg", None)], "holds c.jpg, which is a link or points outside"),
    "no label": ([*GOOD[:3]], r"b has no label, a file \.cls or \.json"),
    "no image": ([*GOOD, ("c.cls", b"1")], r"c has no image, a file \.jpg or"),
    "empty label": ([*GOOD, ("c.jpg", TRAIN[0]), ("c.cls", b" ")], "c.cls is empty"),
    "two images": ([*GOOD, ("b.png", b"")], "b has two images"),
    "twice": ([*GOOD, *GOOD[:2]], "a comes twice"),
    "no JSON": ([*GOOD, ("b.json", b"{")], "b.json is not JSON"),
    "JSON of something else": ([*GOOD, ("b.json", b"[1]")], "b.json must hold an object"),
    "binary label": ([*GOOD[:3], ("b.cls", b"\xff\xfe")], "b.cls is not a text"),
    "negative": ([*GOOD[:3], ("b.cls", b"-3")], "b has the label -3"),
    "text among numbers": (
        [*GOOD[:3], ("b.cls", b"cat")],
        "two kinds of labels: .*001.tar: b is la",
    ),
    "empty": ([], "holds no samples"),
    "an image that is text": (
        [*GOOD[:2], ("b.jpg", b"text"), GOOD[3]],
        "b.jpg is not an image: all images must have 64 x 64",
    ),
    "another size": (
        [*GOOD[:2], ("b.jpg", jpeg(1, (64, 63))), GOOD[3]],
        "b.jpg is 64 x 63 pixels, not 64 x 64",
    ),
    "two numbers": ([*GOOD, ("b.json", b'{"label": 1}')], "b has the labels 0 and 1, where one"),
    "two names": (
        [*GOOD[:3], ("b.json", b'{"label": "cat", "class": "dog"}')],
        "b has the labels cat and dog, where one is needed: correct its",
    ),
    "two class ids": (
        [*GOOD, ("b.json", f'{{"wnid": "{WNIDS[0]}", "synset": "{WNIDS[1]}"}}'.encode())],
        f"b has the labels {WNIDS[0]} and {WNIDS[1]}, where one",
    ),
    "a class id and another": (
        [*GOOD[:3], ("b.cls", WNIDS[2].encode()), ("b.json", f'{{"wnid":"{WNIDS[1]}"}}'.encode())],
        f"b has the labels {WNIDS[1]} and {WNIDS[2]}, where one",
    ),
    "another order": (
        [(f"{WNIDS[0]}_9.jpg", TRAIN[2]), (f"{WNIDS[0]}_9.cls", b"1")],
        rf"two label orders: .*the label 1 is {WNIDS[0]} for .* and {WNIDS[1]} for",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_with_their_shard(lie, tmp_path):
    members, sentence = LIES[lie]
    source = write(tmp_path / "a")
    rewrite(source / "imagenet-train-000001.tar", members)
    with pytest.raises(UserError, match=sentence) as refusal:
        prepare(source, tmp_path)
    assert "000001.tar" in str(refusal.value)
    packed = tmp_path / "store" / "packed"
    assert not packed.exists() or list(packed.iterdir()) == []


def test_a_shard_that_is_cut_short_or_missing_is_named(tmp_path):
    source = write(tmp_path / "a")
    shard = source / "imagenet-train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:1500])
    with pytest.raises(UserError, match=r"000001\.tar is not a whole tar archive"):
        prepare(source, tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="of the 3 shards for train, number 1 is missing"):
        prepare(source, tmp_path)


def test_a_list_of_classes_that_images_contradict_is_refused(tmp_path):
    source = write(tmp_path / "a")
    (source / "classes.txt").write_text("\n".join(WNIDS[::-1]))
    with pytest.raises(
        UserError, match=r"its list of classes has n01443537 at 2, but .* n04067472"
    ):
        prepare(source, tmp_path)
    (source / "classes.txt").write_text("\n".join(WNIDS[:2]))
    with pytest.raises(UserError, match=r"has the label 2, where 0\.\.1 are possible"):
        prepare(source, tmp_path)


def test_two_series_of_shards_are_refused(tmp_path):
    write(tmp_path / "a")
    write_webdataset(tmp_path / "a", "other-train", TRAIN, TRAIN_LABELS)
    with pytest.raises(UserError, match="two series of shards for train, such as imagenet-train-0"):
        prepare(tmp_path / "a", tmp_path)


def test_one_tar_without_splits_is_split_for_ones_own_images(tmp_path):
    write_webdataset(tmp_path / "a", "pictures", TRAIN, [0, 1] * 3)
    source = tmp_path / "a" / "pictures-000000.tar"
    stores = prepare(source, tmp_path, "image_folder/own")
    assert [len(store) for store in stores.values()] == [4, 2]
    write_webdataset(tmp_path / "a", "pictures", TRAIN, [WNIDS[number % 2] for number in range(6)])
    with pytest.raises(UserError, match="has no validation images, which imagenet2012 needs"):
        prepare(source, tmp_path, "imagenet2012")
