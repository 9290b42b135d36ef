"""Parquet as the Hugging Face Hub stores it: order, classes, splits, shards, damage."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
    write_tiny,
)
from write_forms import hub_schema, write_parquet

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import parquet
from keras_imnet64.data.sources.archives import imagenet_wnids
from keras_imnet64.data.sources.class_lists import names_of


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    expect_three_classes(monkeypatch)


def prepare(source, tmp_path, name="tiny_imagenet", **options):
    return datasets.prepare(name, source=source, data_dir=tmp_path / "store", **options)


@pytest.mark.parametrize("folder", [".", "data", "default/train"])
@pytest.mark.parametrize("validation", ["valid", "validation", "val", "test"])
def test_rows_keep_their_order_whatever_the_splits_are_called(folder, validation, tmp_path):
    stores = prepare(write_tiny(tmp_path / "source" / folder, validation=validation), tmp_path)
    check_tiny(stores)
    assert stores["train"].verified and stores["train"].wnids == WNIDS
    assert datasets.info("tiny_imagenet", data_dir=tmp_path / "store")["form"] == "Parquet"


def test_shards_with_a_digest_in_their_name_and_folders_of_splits(tmp_path):
    """Both are names that the hub gives: those of earlier uploads, and of its own conversion."""
    write_tiny(tmp_path / "a")
    for file in (tmp_path / "a").iterdir():
        file.rename(file.with_name(f"{file.stem}-1359597a978bc4fa.parquet"))
    check_tiny(prepare(tmp_path / "a", tmp_path / "1"))
    write_tiny(tmp_path / "b")
    for split in ("train", "valid"):
        (tmp_path / "b" / "default" / split).mkdir(parents=True)
        for number, file in enumerate(sorted((tmp_path / "b").glob(f"{split}*.parquet"))):
            file.rename(tmp_path / "b" / "default" / split / f"{number:04}.parquet")
    check_tiny(prepare(tmp_path / "b", tmp_path / "2"))


def test_suffixes_in_any_case(tmp_path):
    for file in write_tiny(tmp_path / "a").iterdir():
        file.rename(file.with_suffix(".PARQUET"))
    check_tiny(prepare(tmp_path / "a", tmp_path))


def test_a_folder_of_hidden_shards_is_refused(tmp_path):
    write_tiny(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "train-00000-of-00003.parquet").rename(tmp_path / "a" / "_a.parquet")
    for file in (tmp_path / "a" / "b").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="a holds no shards whose names begin with neither a dot"):
        prepare(tmp_path / "a", tmp_path)


def test_labels_are_mapped_by_class_id(tmp_path):
    """The source numbers its classes in another order than the data set."""
    names = [WNIDS[1], WNIDS[2], WNIDS[0]]
    stores = prepare(write_tiny(tmp_path / "a", names), tmp_path)
    order = [1, 2, 0]
    check_tiny(stores, [order[x] for x in TRAIN_LABELS], [order[x] for x in VALIDATION_LABELS])
    assert stores["train"].wnids == WNIDS


@pytest.mark.parametrize("order", ["sorted", "as ImageNet64"])
def test_the_whole_list_of_imagenets_names_proves_the_order(order, tmp_path):
    wnids = imagenet_wnids() if order != "sorted" else sorted(imagenet_wnids())
    names = names_of(wnids)
    if order == "sorted":  # as the hub's imagenet-1k has them, with its name for the second crane
        names = [{"crane (bird)": "crane", "crane (machine)": "crane2"}.get(n, n) for n in names]
        names[0] = "tench, Tinca tinca"
    content = [jpeg(seed, (8, 8)) for seed in range(3)]
    write_parquet(tmp_path / "a", "train", content, [0, 999, 134], names)
    write_parquet(tmp_path / "a", "validation", content[:1], [517], names)
    stores = prepare(tmp_path / "a", tmp_path, "imagenet_resized/8x8", allow_unverified=True)
    assert stores["train"].wnids == imagenet_wnids()
    found = [stores["train"].wnids[label] for label in stores["train"].labels]
    assert found == [wnids[0], wnids[999], wnids[134]]
    assert stores["validation"].wnids[stores["validation"].labels[0]] == wnids[517]
    if order == "sorted":
        assert wnids[134] == "n02012849" and wnids[517] == "n03126707"  # crane and crane


def test_names_that_are_not_a_known_list_are_refused(tmp_path):
    source = write_tiny(tmp_path / "a", ["goldfish", "Egyptian cat", "reel"])
    with pytest.raises(
        UserError, match=r'class ids such as n0.*received "goldfish", "Egyptian cat"'
    ):
        prepare(source, tmp_path)
    (source / "classes.txt").write_text("\n".join(WNIDS))  # does not overrule the metadata
    with pytest.raises(UserError, match='received "goldfish"'):
        prepare(source, tmp_path)


def test_two_of_imagenets_names_in_each_others_place_are_refused(tmp_path):
    names = names_of(sorted(imagenet_wnids()))
    names[0], names[1] = names[1], names[0]
    write_parquet(tmp_path / "a", "train", TRAIN, TRAIN_LABELS, names)
    write_parquet(tmp_path / "a", "val", VALIDATION, VALIDATION_LABELS, names)
    with pytest.raises(UserError, match="does not say which classes of ImageNet"):
        prepare(tmp_path / "a", tmp_path)


def test_numbers_without_names_need_a_list_of_classes(tmp_path):
    source = write_tiny(tmp_path / "a", None)
    with pytest.raises(
        UserError, match=r'received "0", "1", "2"; add classes\.txt, with the class'
    ):
        prepare(source, tmp_path)
    (source / "classes.txt").write_text("\n".join(WNIDS) + "\n")
    check_tiny(prepare(source, tmp_path))


def test_texts_as_labels_are_class_ids(tmp_path):
    for split, content, labels in (("train", TRAIN, TRAIN_LABELS), ("val", VALIDATION, [1, 2, 0])):
        texts = [WNIDS[label] for label in labels]
        write_parquet(tmp_path / "a", split, content, texts, None, label_type=pa.string())
    check_tiny(prepare(tmp_path / "a", tmp_path))


# ------------------------------------------------------------------------------- images of any size


def test_images_of_any_size_are_copied_and_need_the_source_no_more(tmp_path):
    contents = [jpeg(seed, (40 + seed, 30)) for seed in range(8)] + [jpeg(9, (20, 20), "WEBP")]
    names = ["häm ster", "ant", "bee"]
    write_parquet(tmp_path / "a", "train", contents, [0, 1, 2] * 3, names, shards=2)
    write_parquet(tmp_path / "a", "test", contents[:3], [0, 1, 2], names)
    said = []
    stores = prepare(tmp_path / "a", tmp_path, "image_folder/own", say=said.append)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    stores = datasets.prepare("image_folder/own", data_dir=tmp_path / "store")
    train = stores["train"]
    assert train.wnids == names and train.labels.tolist() == [0, 1, 2] * 3
    assert train.read(np.arange(8)).tolist() == contents[:8]
    assert train.read(np.array([8]))[0].startswith(b"\x89PNG")  # TensorFlow decodes no WebP
    assert train.meta.copied and train.verified
    assert any("test is used for validation" in text for text in said)


def test_images_without_splits_are_split_by_the_share(tmp_path):
    contents = [jpeg(seed, (16, 16)) for seed in range(20)]
    write_parquet(tmp_path / "a", "train", contents, [0, 1] * 10, ["ant", "bee"], shards=2)
    stores = prepare(tmp_path / "a", tmp_path, "image_folder/own", validation_share=0.3)
    counts = {split: np.bincount(store.labels).tolist() for split, store in stores.items()}
    assert [a + b for a, b in zip(*counts.values(), strict=True)] == [10, 10]
    assert all(1 <= count < 9 for count in counts["validation"])
    positions = [
        contents.index(each) for each in stores["train"].read(np.arange(len(stores["train"])))
    ]
    assert positions == sorted(positions)


def test_shards_of_test_alone_are_for_scoring(tmp_path, run):
    contents = [jpeg(seed, (16, 16)) for seed in range(4)]
    write_parquet(tmp_path / "a", "test", contents, [0, 1] * 2, ["ant", "bee"])
    words = ("image_folder/own", "--source", tmp_path / "a", "--data-dir", tmp_path / "store")
    status, out, err = run("data", "prepare", *words, "--validation-share", 1)
    assert status == 0 and "train 0  validation 4" in out
    assert "validation: 4 images copied" in err and "train: 0" not in err


def test_imagenet2012_takes_sorted_ids(tmp_path):
    write_tiny(tmp_path / "a", [WNIDS[1], WNIDS[0], WNIDS[2]])
    with pytest.raises(UserError, match="3 classes are not ImageNet's 1,000"):
        prepare(tmp_path / "a", tmp_path, "imagenet2012")
    stores = prepare(tmp_path / "a", tmp_path, "imagenet2012", allow_unverified=True)
    assert stores["train"].wnids == WNIDS
    assert stores["train"].labels.tolist() == [[1, 0, 2][label] for label in TRAIN_LABELS]


# ---------------------------------------------------------------------------------- damage and lies


def shard(folder, split="train", number=1):
    return sorted(folder.glob(f"{split}*.parquet"))[number]


def edited_table(file, change):
    table = pq.read_table(file)
    pq.write_table(change(table), file)


def test_shards_that_are_missing_are_named(tmp_path):
    source = write_tiny(tmp_path / "a")
    shard(source).unlink()
    with pytest.raises(UserError, match="of the 3 shards for train, number 1 is missing"):
        prepare(source, tmp_path)
    shard(source).unlink()  # the last one, which only the other names tell
    with pytest.raises(
        UserError, match="of the 3 shards for train, number 1 and number 2 are miss"
    ):
        prepare(source, tmp_path)


def test_two_label_orders_are_never_mixed(tmp_path):
    source = write_tiny(tmp_path / "a")
    write_parquet(tmp_path / "b", "train", TRAIN, TRAIN_LABELS, WNIDS[::-1], shards=3)
    shard(tmp_path / "b").rename(shard(source))
    with pytest.raises(UserError, match="list the classes in two label orders"):
        prepare(source, tmp_path)


def test_names_of_images_prove_a_lie_about_the_order(tmp_path):
    """By their file names, the images of label 0 are goldfish; the list of classes says cats."""
    paths = [f"{WNIDS[label]}_{i}.JPEG" for i, label in enumerate(TRAIN_LABELS)]
    write_tiny(tmp_path / "a", paths=paths)
    check_tiny(prepare(tmp_path / "a", tmp_path))
    write_tiny(tmp_path / "b", [WNIDS[1], WNIDS[0], WNIDS[2]], paths=paths)
    with pytest.raises(
        UserError, match=r"mixes two label orders: its list of classes has n0\d+ at 0"
    ):
        prepare(tmp_path / "b", tmp_path)
    paths[3] = paths[0]
    write_tiny(tmp_path / "c", None, paths=paths)
    with pytest.raises(UserError, match=r"the label 0 is n01443537 for .*row 1 and n04067472 for"):
        prepare(tmp_path / "c", tmp_path)


def with_labels(labels):
    return lambda table: table.set_column(1, "label", pa.array(labels, pa.int64()))


def with_images(rows):
    image = pa.array(rows, hub_schema().field("image").type)
    return lambda table: table.set_column(0, "image", image)


LIES = {
    "a label beyond the classes": (
        with_labels([0, 3]),
        r"00001-of-00003\.parquet: row 1 has the label 3, where 0\.\.2 are possible",
    ),
    "a negative label": (with_labels([0, -7]), r"row 1 has the label -7"),
    "a missing label": (with_labels([0, None]), r"row 1 has no label"),
    "no labels, as of a test split": (
        with_labels([-1, -1]),
        r"no labels for 2 of 6 images of train",
    ),
    "no bytes": (
        with_images([{"bytes": None, "path": "a.jpg"}] * 2),
        r"row 0 has no image: its bytes are missing, as are those of all other rows",
    ),
    "no image": (
        with_images([{"bytes": b"text", "path": "a.jpg"}] * 2),
        r"row 0 is not an image: all images must have 64 x 64",
    ),
    "another size": (
        with_images([{"bytes": jpeg(1, (32, 64)), "path": "a.jpg"}] * 2),
        r"row 0 is 32 x 64 pixels, not 64 x 64",
    ),
    "half an image": (
        with_images([{"bytes": TRAIN[0][:500], "path": "a.jpg"}] * 2),
        r"row 0 is not a whole image",
    ),
    "no labels column": (lambda table: table.drop_columns(["label"]), "has no column label"),
    "no images column": (
        lambda table: table.rename_columns(["text", "label"]),
        r"holds no images: a column image .* received the columns text, label",
    ),
}


WRONG_LABELS = {
    "double": pa.array([0.0, 1.0]),
    r"list<\w+: int64>": pa.array([[0], [1]]),
    "binary": pa.array([b"0", b"1"]),
    r"struct<a: int64>": pa.array([{"a": 0}, {"a": 1}]),
    r"timestamp\[ms\]": pa.array([0, 1], pa.timestamp("ms")),
    "bool": pa.array([False, True]),
    "null": pa.array([None, None]),
}


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_labels_of_another_type_are_refused(kind, tmp_path):
    source = write_tiny(tmp_path / "a", names=None)
    edited_table(shard(source), lambda table: table.set_column(1, "label", WRONG_LABELS[kind]))
    with pytest.raises(
        UserError,
        match=rf"00001-of.* labels of the type {kind} in its column label, where .*: convert",
    ):
        prepare(source, tmp_path, "image_folder/own")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary("int8", "string")])
def test_labels_may_be_texts_of_any_kind(kind, tmp_path):
    source = write_tiny(tmp_path / "a", names=None)
    for file in source.iterdir():
        labels = [WNIDS[label] for label in pq.read_table(file)["label"].to_pylist()]
        array = pa.array(labels).cast(kind)
        edited_table(file, lambda table, a=array: table.set_column(1, "label", a))
    check_tiny(prepare(source, tmp_path))


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["image", "label", "labels"], "label and labels"),
        (["image", "label", "label"], "label and label"),
        (["image", "label", "image"], "image and image"),
    ],
)
def test_two_columns_for_one_thing_are_refused(names, shown, tmp_path):
    source = write_tiny(tmp_path / "a")
    edited_table(
        shard(source),
        lambda table: pa.table([*table.columns, pa.array([0, 1])], names),
    )
    with pytest.raises(UserError, match=f"has the columns {shown}, where one is needed: drop"):
        prepare(source, tmp_path)


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_with_their_shard(lie, tmp_path):
    change, sentence = LIES[lie]
    source = write_tiny(tmp_path / "a")
    edited_table(shard(source), lambda table: change(table))
    with pytest.raises(UserError, match=sentence) as refusal:
        prepare(source, tmp_path)
    assert "train" in str(refusal.value)
    packed = tmp_path / "store" / "packed"
    assert not packed.exists() or list(packed.iterdir()) == []


def test_a_split_without_rows_is_refused(tmp_path):
    write_tiny(tmp_path / "a")
    write_parquet(tmp_path / "a", "valid", [], [], WNIDS)
    with pytest.raises(UserError, match="a has no images of validation: get the whole set"):
        prepare(tmp_path / "a", tmp_path, progress=lambda *step: None)


def test_what_only_is_called_parquet_is_refused(tmp_path):
    source = write_tiny(tmp_path / "a")
    shard(source).write_text("image,label\n1.jpg,0\n")
    with pytest.raises(UserError, match=r"00001-of.* is not a Parquet file, whatever its suffix"):
        prepare(source, tmp_path)
    shard(source).write_bytes(b"PAR1" + b"\0" * 50)
    with pytest.raises(UserError, match=r"is not a whole Parquet file \(.*\): download it again"):
        prepare(source, tmp_path)


def test_a_table_that_grows_without_bounds_is_refused(tmp_path):
    zeros = [bytes(2**20)] * 70
    options = dict(use_dictionary=False, compression="zstd")
    write_parquet(tmp_path / "a", "train", zeros, [0] * 70, WNIDS, **options)
    with pytest.raises(UserError, match=r"would grow from [\d,]+ to 73,[\d,]+ bytes"):
        prepare(tmp_path / "a", tmp_path)


@pytest.mark.parametrize("column", ["image", "bytes", "path", "label"])
def test_a_value_that_many_rows_share_fills_no_memory(column, tmp_path):
    """A dictionary holds it once, so that the file and what it says of its size are small."""
    content, rows = b"0" * 2**20, 400
    image = {"bytes": content if column == "bytes" else b"", "path": ""}
    if column == "path":
        image["path"] = content.decode()
    images = pa.array([image] * rows, hub_schema().field("image").type)
    if column == "image":
        images = pa.array([content] * rows)
    label = content.decode() if column == "label" else "cat"
    (tmp_path / "a").mkdir()
    table = pa.table({"image": images, "label": pa.array([label] * rows)})
    pq.write_table(table, tmp_path / "a" / "train.parquet", dictionary_pagesize_limit=2**21)
    del table, images
    before, sizes = pa.total_allocated_bytes(), []
    tracemalloc.start()
    try:
        with pytest.raises(
            UserError, match=r"train\.parquet would grow from [\d,]+ to \d{2,3},\d{3},\d{3} b"
        ):
            listed = parquet.list_parquet(tmp_path / "a")
            for _ in parquet.read_images(tmp_path / "a", listed.entries["train"]):
                sizes.append(pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(sizes, default=0) < 150 * 2**20 and peak < 160 * 2**20


@pytest.mark.parametrize("dataset", ["tiny_imagenet", "image_folder/own"])
@pytest.mark.parametrize("row", [0, 1])
def test_rows_without_bytes_can_be_left_out(row, dataset, tmp_path):
    source, skipped = write_tiny(tmp_path / "a"), []
    rows = [{"bytes": content, "path": "a"} for content in TRAIN[2:4]]
    rows[row]["bytes"] = None
    edited_table(shard(source), with_images(rows))
    with pytest.raises(UserError, match=rf"00001-of-00003\.parquet: row {row} is empty"):
        prepare(source, tmp_path, dataset)
    train = prepare(source, tmp_path, dataset, skip_corrupt=True, skipped=skipped)["train"]
    assert skipped == [(f"train-00001-of-00003.parquet: row {row}", "is empty")]
    assert train.labels.tolist() == [label for n, label in enumerate(TRAIN_LABELS) if n != 2 + row]


def test_damaged_images_can_be_left_out(tmp_path):
    source, skipped = write_tiny(tmp_path / "a"), []
    rows = [{"bytes": TRAIN[2], "path": "a"}, {"bytes": b"", "path": "b"}]
    edited_table(shard(source), with_images(rows))
    write_parquet(tmp_path / "a", "valid", VALIDATION, [0, 1, 2], WNIDS)
    stores = prepare(source, tmp_path, skip_corrupt=True, skipped=skipped)
    assert skipped == [("train-00001-of-00003.parquet: row 1", "is empty")]
    assert not stores["train"].verified and len(stores["train"]) == 5
    assert stores["train"].labels.tolist() == [2, 0, 1, 2, 1]


def test_a_test_split_without_labels_is_left_out_even_where_it_is_alone(tmp_path):
    write_tiny(tmp_path / "a")
    write_parquet(tmp_path / "a", "test", VALIDATION, [-1] * 3, WNIDS)
    said = []
    check_tiny(prepare(tmp_path / "a", tmp_path, say=said.append))
    assert "note: test has no labels and is left out" in said
    file = next((tmp_path / "a").glob("test*"))
    edited_table(file, lambda table: table.set_column(1, "label", pa.nulls(3)))
    check_tiny(prepare(tmp_path / "a", tmp_path))
    for file in (tmp_path / "a").glob("valid*"):
        file.unlink()
    with pytest.raises(UserError, match="has no validation images, which tiny_imagenet needs"):
        prepare(tmp_path / "a", tmp_path)


def test_unknown_metadata_is_no_proof(tmp_path):
    source = write_tiny(tmp_path / "a")
    for text in ("{", json.dumps({"info": {"features": {"label": {"names": [1, 2]}}}}), "[]"):
        for file in source.glob("*.parquet"):
            edited_table(
                file, lambda t, text=text: t.replace_schema_metadata({"huggingface": text})
            )
        with pytest.raises(UserError, match='received "0", "1", "2"'):
            prepare(source, tmp_path)
