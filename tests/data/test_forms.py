"""The table of forms: which one a source has, and that `data info` tells it."""

import unicodedata
from typing import get_args

import numpy as np
import pytest
from class_folders import CLASSES, drawn, write_folders
from three_classes import (
    TRAIN,
    TRAIN_LABELS,
    VALIDATION,
    VALIDATION_LABELS,
    WNIDS,
    check_tiny,
    expect_three_classes,
    jpeg,
    write_tiny,
)
from write_forms import (
    write_csv,
    write_npz_batches,
    write_parquet,
    write_pickle_batches,
    write_webdataset,
)

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets, forms
from keras_imnet64.data.sources import archives
from keras_imnet64.records import SourceForm

MADE_HERE = {"drawn", "downsampled"}  # forms of images that have no source
SMALL = np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1])


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    expect_three_classes(monkeypatch)


def write_tiny_folders(folder):
    """Writes the three classes as class folders, in which files are sorted by their numbers."""
    for split, contents, labels in (
        ("train", TRAIN, TRAIN_LABELS),
        ("val", VALIDATION, VALIDATION_LABELS),
    ):
        for number, (content, label) in enumerate(zip(contents, labels, strict=True)):
            file = folder / split / WNIDS[label] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def write_zips(folder):
    folder.mkdir()
    paths = [folder / f"Imagenet8_{split}_npz.zip" for split in ("train", "val")]
    archives.write_archives(paths[:1], paths[1], SMALL, SMALL)


def write_tiny_layout(folder):
    folder.mkdir()
    (folder / "wnids.txt").write_text("\n".join(WNIDS))


def write_named(*names):
    def write(folder):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"")

    return write


def write_csv_of_pictures(folder):
    for number in range(4):
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        drawn(20, 20, number).save(folder / "pictures" / f"{number}.png")
    write_csv(folder / "labels.csv", [(f"pictures/{n}.png", "ab"[n % 2]) for n in range(4)])


WRITERS = {  # {form: (data set, what writes a source of that form)}
    "zip archives": ("imagenet_resized/8x8", write_zips),
    "npz batches": ("imagenet_resized/8x8", lambda f: write_npz_batches(f, SMALL, SMALL)),
    "pickle batches": ("imagenet_resized/8x8", lambda f: write_pickle_batches(f, SMALL, SMALL)),
    "TFRecords": ("imagenet2012", write_named("imagenet2012-train.tfrecord-00000-of-00001")),
    "tar archives": ("imagenet2012", write_named("ILSVRC2012_img_train.tar")),
    "Tiny ImageNet's files": ("tiny_imagenet", write_tiny_layout),
    "Parquet": ("tiny_imagenet", write_tiny),
    "WebDataset": (
        "tiny_imagenet",
        lambda folder: write_webdataset(folder, "train", TRAIN, TRAIN_LABELS),
    ),
    "CSV": ("image_folder", write_csv_of_pictures),
    "class folders": ("image_folder", write_folders),
}


def test_every_form_has_a_row_and_a_source_here():
    rows = {form.name for form in forms.FORMS}
    assert rows == set(get_args(SourceForm)) - MADE_HERE == set(WRITERS)
    known = {name.partition("/")[0] for name, row in datasets.DATASETS.items() if not row.embedded}
    assert {name for form in forms.FORMS for name in form.datasets} == known


@pytest.mark.parametrize("form", WRITERS)
def test_a_source_is_recognised_by_its_files(form, tmp_path):
    dataset, write = WRITERS[form]
    write(tmp_path / "source")
    found = forms.find_form(datasets.find_dataset(dataset), tmp_path / "source")
    assert found is not None and found.name == form


def test_a_few_shards_among_many_images_are_no_form(tmp_path):
    """Such as an archive of the pictures that was left where it was unpacked."""
    write_folders(tmp_path / "source")
    write_tiny(tmp_path / "source" / "more")
    row = datasets.find_dataset("image_folder")
    assert forms.find_form(row, tmp_path / "source").name == "class folders"


@pytest.mark.parametrize("form", ["Parquet", "WebDataset"])
def test_a_few_pictures_beside_shards_are_no_form(form, tmp_path):
    """Such as those that the description of a data set on a hub shows."""
    source, data = tmp_path / "source", tmp_path / "source" / "data"
    if form == "Parquet":
        write_tiny(data)
    else:
        write_webdataset(data, "train", TRAIN, [WNIDS[label] for label in TRAIN_LABELS])
        write_webdataset(data, "val", VALIDATION, [WNIDS[label] for label in VALIDATION_LABELS])
    (source / "assets").mkdir()
    for number in range(9):
        drawn(20, 20, number).save(source / "assets" / f"{number}.png")
    row = datasets.find_dataset("image_folder/own")
    assert forms.find_form(row, source).name == form
    stores = datasets.prepare("image_folder/own", source=source, data_dir=tmp_path)
    assert (len(stores["train"]), len(stores["validation"])) == (len(TRAIN), len(VALIDATION))
    for number in range(2):  # two folders of pictures may be classes
        (source / "more").mkdir(exist_ok=True)
        drawn(20, 20, number).save(source / "more" / f"{number}.png")
    message = rf"{data} holds no image but .*, which may hold many: pass {data} as --source"
    with pytest.raises(UserError, match=message):
        datasets.prepare("image_folder/own", source=source, data_dir=tmp_path)


def test_a_table_of_another_name_beside_pictures_is_no_shard(tmp_path):
    write_csv_of_pictures(tmp_path / "source")
    write_parquet(tmp_path, "train", TRAIN[:2], [0, 1], WNIDS)
    file = next(tmp_path.glob("*.parquet"))
    file = file.rename(tmp_path / "source" / "embeddings.parquet")
    row = datasets.find_dataset("image_folder")
    assert forms.find_form(row, tmp_path / "source").name == "CSV"
    (tmp_path / "source" / "labels.csv").unlink()
    for number in range(4):
        picture = tmp_path / "source" / "pictures" / f"{number}.png"
        picture.rename(tmp_path / "source" / picture.name)
    (tmp_path / "source" / "pictures").rmdir()
    with pytest.raises(UserError, match=f"holds images such as 0.png, .*: pass {file} as --source"):
        datasets.prepare("image_folder/own", source=tmp_path / "source", data_dir=tmp_path)


def test_what_is_no_form_gets_the_message_of_its_data_set(tmp_path):
    with pytest.raises(UserError, match=r"--source must be tiny-imagenet-200\.zip, the folder"):
        datasets.prepare("tiny_imagenet", source=tmp_path, data_dir=tmp_path)
    with pytest.raises(UserError, match="holds no class folders"):
        datasets.prepare("image_folder/a", source=tmp_path, data_dir=tmp_path)


def test_class_folders_of_images_of_one_size_are_packed(tmp_path):
    write_tiny_folders(tmp_path / "source")
    stores = datasets.prepare("tiny_imagenet", source=tmp_path / "source", data_dir=tmp_path)
    assert stores["train"].verified and stores["train"].wnids == WNIDS
    order = np.argsort(TRAIN_LABELS, kind="stable")  # class by class
    write_tiny(tmp_path / "parquet")
    parquet = datasets.prepare("tiny_imagenet", source=tmp_path / "parquet", data_dir=tmp_path)
    check_tiny(parquet)
    np.testing.assert_array_equal(stores["train"].images, parquet["train"].images[order])
    assert datasets.info("tiny_imagenet", data_dir=tmp_path)["form"] == "Parquet"


def test_two_forms_of_the_same_images_differ_only_in_their_form(tmp_path):
    write_tiny(tmp_path / "a")
    keys = [f"{WNIDS[label]}_{i}" for i, label in enumerate(TRAIN_LABELS)]
    write_webdataset(tmp_path / "b", "train", TRAIN, TRAIN_LABELS, keys=keys)
    write_webdataset(tmp_path / "b", "val", VALIDATION, VALIDATION_LABELS)
    found = [
        datasets.prepare(
            "tiny_imagenet", source=tmp_path / source, data_dir=tmp_path / f"of_{source}"
        )
        for source in "ab"
    ]
    assert [stores["train"].meta.form for stores in found] == ["Parquet", "WebDataset"]
    for split in ("train", "validation"):
        assert len({stores[split].digest for stores in found}) == 1


def test_a_store_of_another_form_is_replaced_and_never_mixed(tmp_path):
    write_npz_batches(tmp_path / "a", SMALL, SMALL)
    write_pickle_batches(tmp_path / "b", (SMALL[0] + 1, [2, 3]), SMALL)
    for source, labels in (("a", [0, 1]), ("b", [2, 3])):
        stores = datasets.prepare(
            "imagenet_resized/8x8",
            source=tmp_path / source,
            data_dir=tmp_path / "data",
            allow_unverified=True,
        )
        assert stores["train"].labels.tolist() == labels


@pytest.mark.parametrize("form", ["CSV", "Parquet", "WebDataset", "class folders"])
def test_images_of_imagenet_resized_are_left_out_one_by_one(form, tmp_path):
    """Of every form in which each image is a file of its own."""
    source, size = tmp_path / "source", (8, 8)
    contents = [jpeg(seed, size, "PNG") for seed in range(6)]
    contents[2] = contents[4] = b""  # one of training, one of validation
    labels, wnids = [0, 1, 0, 1, 0, 0], archives.imagenet_wnids()
    ids = [wnids[label] for label in labels]
    if form in ("CSV", "class folders"):
        for number, content in enumerate(contents):
            split = "train" if number < 4 else "val"
            folder = source / "images" if form == "CSV" else source / split / ids[number]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}{number}.png").write_bytes(content)
    if form == "CSV":
        rows = [(f"train{n}.png", ids[n], "train") for n in range(4)]
        rows += [(f"val{n}.png", ids[n], "val") for n in (4, 5)]
        write_csv(source / "labels.csv", rows, ("path", "label", "split"))
    elif form == "Parquet":
        write_parquet(source, "train", contents[:4], labels[:4], wnids)
        write_parquet(source, "val", contents[4:], labels[4:], wnids)
    elif form == "WebDataset":
        write_webdataset(source, "train", contents[:4], ids[:4])
        write_webdataset(source, "val", contents[4:], ids[4:])
    skipped, steps = [], []
    stores = datasets.prepare(
        "imagenet_resized/8x8",
        source=source,
        data_dir=tmp_path,
        allow_unverified=True,
        skip_corrupt=True,
        skipped=skipped,
        progress=lambda *step: steps.append(step),
    )
    assert [fault for _, fault in skipped] == ["is empty"] * 2
    assert sorted(stores["train"].labels.tolist()) == [0, 1, 1]
    assert stores["validation"].labels.tolist() == [0] and not stores["train"].verified
    assert ("checking train", 4, 4) in steps and ("checking validation", 2, 2) in steps


@pytest.mark.parametrize("form", ["zip archives", "npz batches", "pickle batches"])
def test_of_files_with_many_images_none_is_left_out(form, tmp_path):
    WRITERS[form][1](tmp_path / "source")
    with pytest.raises(
        UserError, match=f"--skip-corrupt leaves out .*, which is {form}, hold many"
    ):
        datasets.prepare(
            "imagenet_resized/8x8", source=tmp_path / "source", data_dir=tmp_path, skip_corrupt=True
        )
    with pytest.raises(UserError, match="files of the archives of imagenet_resized/8x8 hold many"):
        datasets.prepare("imagenet_resized/8x8", data_dir=tmp_path, skip_corrupt=True)


def test_class_folders_as_people_have_them(tmp_path):
    """Names in any language, spaces, links, one folder more than needed, and other files."""
    source = tmp_path / "download" / "My pictures (final)"
    names = ["chat noir", "собака", "猫 ねこ", unicodedata.normalize("NFD", "Käfer")]
    for label, name in enumerate(names):
        inner = source / name / "images"
        inner.mkdir(parents=True)
        for number in range(3):
            drawn(20, 24, 3 * label + number).save(inner / f"photo {number}.jpg")
        (source / name / "notes.txt").write_text("taken in May")
    (source / "Thumbs.db").write_bytes(b"")
    (source / "README.md").write_text("pictures")
    elsewhere = tmp_path / "elsewhere"
    write_folders(elsewhere)
    (source / "linked").symlink_to(elsewhere / CLASSES[0])
    (source / "chat noir" / "images" / "linked.jpg").symlink_to(elsewhere / CLASSES[1] / "0.jpg")
    row = datasets.find_dataset("image_folder/own")
    assert forms.find_form(row, tmp_path / "download").name == "class folders"
    from keras_imnet64.data.sources.image_folders import list_image_folder

    listing = list_image_folder(tmp_path / "download", 0.3)
    wnids = sorted(unicodedata.normalize("NFC", name) for name in [*names, "linked"])
    assert listing.wnids == wnids and listing.faulty == []
    counts = {wnid: 0 for wnid in wnids}
    for images in listing.splits.values():
        for image in images:
            counts[wnids[image.label]] += 1
    assert counts["chat noir"] == 4 and counts["linked"] == 4 and counts["собака"] == 3
    assert sorted(listing.ignored)[-1].endswith("notes.txt") and "README.md" in listing.ignored
