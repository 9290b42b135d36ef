"""CSV files of paths and labels beside a folder of images."""

import pytest
from class_folders import drawn
from three_classes import (
    TRAIN,
    TRAIN_LABELS,
    VALIDATION,
    VALIDATION_LABELS,
    WNIDS,
    expect_three_classes,
)
from write_forms import write_csv

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets

NAMES = ["a b.jpg", "sub/ü.png", "c,d.jpg", "e.jpg", "f.jpg", "g.jpg"]
LABELS = ["Küche", "bad", "Küche", "bad", "bad", "Küche"]


@pytest.fixture
def images(tmp_path):
    """A folder `set` with the folder `images` of drawn images."""
    for seed, name in enumerate(NAMES):
        file = tmp_path / "set" / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn(20 + seed, 30, seed).save(file)
    return tmp_path / "set"


def prepare(source, tmp_path, name="image_folder/own", **options):
    return datasets.prepare(name, source=source, data_dir=tmp_path / "store", **options)


def shown(store):
    """[(name, class)] of a store's images, in order."""
    names = [store.files[record["file"]].decode() for record in store.records]
    return [(n, store.wnids[label]) for n, label in zip(names, store.labels, strict=True)]


PAIRS = list(zip(NAMES, LABELS, strict=True))
SPLITS = ["train", "val", "train", "train", "Validation", "train"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("prefix", ["", "images/"])
def test_a_column_of_splits(encoding, prefix, images, tmp_path):
    rows = [(prefix + n, c, s) for (n, c), s in zip(PAIRS, SPLITS, strict=True)]
    write_csv(images / "labels.csv", rows, ("Path", "Class", "split"), encoding=encoding)
    stores = prepare(images, tmp_path)
    of_train = [(prefix + n, c) for (n, c), s in zip(PAIRS, SPLITS, strict=True) if s == "train"]
    assert shown(stores["train"]) == of_train
    assert stores["train"].wnids == ["Küche", "bad"] and stores["train"].meta.form == "CSV"
    assert len(stores["validation"]) == 2
    assert stores["train"].file_of(0) == str(images / "images" / "a b.jpg")


def test_a_file_for_each_split_with_tabs(images, tmp_path):
    write_csv(images / "train.tsv", PAIRS[:4], ("file", "label"), delimiter="\t")
    write_csv(images / "val.tsv", PAIRS[4:], ("file", "label"), delimiter="\t")
    stores = prepare(images, tmp_path)
    assert shown(stores["train"]) == PAIRS[:4] and shown(stores["validation"]) == PAIRS[4:]


def test_without_splits_a_share_is_held_out(images, tmp_path):
    write_csv(images / "labels.csv", PAIRS)
    stores = prepare(images / "labels.csv", tmp_path, validation_share=0.4)
    assert sorted(shown(stores["train"]) + shown(stores["validation"])) == sorted(PAIRS)
    order = [NAMES.index(name) for name, _ in shown(stores["train"])]
    assert order == sorted(order)


def test_a_list_that_is_only_for_scoring(images, tmp_path):
    write_csv(images / "labels.csv", PAIRS)
    said = []
    stores = prepare(images / "labels.csv", tmp_path, validation_share=1, say=said.append)
    assert shown(stores["validation"]) == PAIRS and len(stores["train"]) == 0
    assert [text for text in said if text.startswith("note")] == [
        "note: every image is for validation: models can be scored on this set, not trained"
    ]


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_list_of_another_split_than_train_is_for_scoring(split, images, tmp_path):
    write_csv(images / "labels.csv", [(*pair, split) for pair in PAIRS], ("path", "label", "split"))
    with pytest.raises(UserError, match="no images of train: add them, or pass --validation-share"):
        prepare(images, tmp_path)
    stores = prepare(images, tmp_path, validation_share=1)
    assert shown(stores["validation"]) == PAIRS and len(stores["train"]) == 0
    words = f"image_folder/own --source {images} --validation-share 1"
    assert stores["validation"].command.startswith(f"`python cli.py data prepare {words} --cache-")


def test_numbers_are_classes_of_the_list_beside_them(images, tmp_path):
    rows = [(name, str(number % 2)) for number, name in enumerate(NAMES)]
    write_csv(images / "labels.csv", rows)
    stores = prepare(images, tmp_path)
    assert stores["train"].wnids == ["0", "1"]
    (images / "classes.txt").write_text("zebra\nant\n")
    stores = prepare(images, tmp_path)
    assert stores["train"].wnids == ["zebra", "ant"]  # in the order of the list
    assert all(
        wnid == ("zebra", "ant")[NAMES.index(name) % 2] for name, wnid in shown(stores["train"])
    )


def test_a_list_that_calls_a_class_by_the_number_of_another_is_refused(images, tmp_path):
    write_csv(images / "labels.csv", [(name, number % 3) for number, name in enumerate(NAMES)])
    (images / "classes.txt").write_text("2\n0\n1\n")
    with pytest.raises(UserError, match=r'has the label 2, where the list .* has "2" in line 1'):
        prepare(images, tmp_path)


def test_own_classes_of_imagenets_files(images, tmp_path):
    for number, name in enumerate(NAMES):
        (images / "images" / name).rename(images / "images" / f"n0208562{number}_{number}.JPEG")
    rows = [(f"n0208562{n}_{n}.JPEG", ("dog", "cat")[n % 2]) for n in range(6)]
    write_csv(images / "labels.csv", rows)
    assert prepare(images, tmp_path)["train"].wnids == ["cat", "dog"]


def test_class_folders_that_a_csv_describes_stay_class_folders(tmp_path):
    for number in range(6):
        file = tmp_path / "set" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn(20, 20, number).save(file)
    rows = [(f"{'cat' if n % 2 == 0 else 'dog'}/{n}.jpg", n % 2) for n in range(6)]
    write_csv(tmp_path / "set" / "list.csv", rows)
    write_csv(tmp_path / "set" / "sizes.csv", [(1, 2)], ("width", "height"))
    write_csv(tmp_path / "set" / "sample_submission.csv", [("9", "cat")], ("id", "label"))
    train = prepare(tmp_path / "set", tmp_path)["train"]
    assert train.wnids == ["cat", "dog"] and train.meta.form == "class folders"
    train = prepare(tmp_path / "set" / "list.csv", tmp_path)["train"]
    assert train.wnids == ["0", "1"] and train.meta.form == "CSV"


def write_parts(folder, labels=("a", "b")):
    """Writes drawn images of each label into three folders; returns rows of paths and labels."""
    rows = [(f"part{n % 3}/{n}.png", labels[n // 3 % 2]) for n in range(12)]
    for seed, (name, _) in enumerate(rows):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(20, 24, seed).save(folder / name)
    return rows


def as_text(rows, separator=","):
    return "".join(separator.join(row) + "\n" for row in [("path", "label"), *rows])


UNUSABLE = {  # what makes a label file unusable: (its text, of its rows; encoding; the message)
    "semicolons": (lambda rows: as_text(rows, ";"), "utf-8", "separate the columns with commas"),
    "another encoding": (lambda rows: as_text([*rows, ("é.png", "a")]), "latin-1", "not UTF-8"),
    "UTF-16 without its mark": (as_text, "utf-16-le", "has zero bytes"),
    "another name of the paths": (
        lambda rows: as_text(rows).replace("path", "img_name", 1),
        "utf-8",
        'columns path and label; received "img_name", "label"',
    ),
    "another name of the labels": (
        lambda rows: as_text(rows).replace("label", "breed", 1),
        "utf-8",
        'columns path and label; received "path", "breed"',
    ),
    "missing images": (
        lambda rows: as_text([(f"elsewhere/{name}", label) for name, label in rows]),
        "utf-8",
        r"elsewhere/part0/0\.png, which is not below",
    ),
    "a missing label": (
        lambda rows: as_text([*rows[:-1], (rows[-1][0], "")]),
        "utf-8",
        "row 13 has no label",
    ),
    "no rows": (lambda rows: as_text([]), "utf-8", "names no images"),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_label_file_that_cannot_be_used_is_never_passed_over(fault, nested, tmp_path):
    """The folders beside it would become the classes, and their names the labels."""
    folder = tmp_path / "set" / "inner" if nested else tmp_path / "set"
    rows = write_parts(folder)
    text, encoding, sentence = UNUSABLE[fault]
    file = folder / "labels.csv"
    file.write_bytes(text(rows).encode(encoding))
    with pytest.raises(UserError, match=sentence) as alone:
        prepare(file, tmp_path)
    with pytest.raises(UserError) as beside:
        prepare(tmp_path / "set", tmp_path)
    remedy = "; if the folders tell the classes, move the file away"
    assert str(beside.value) == str(alone.value) + remedy


@pytest.mark.parametrize("folder", ["set", "set/inner"])
def test_label_files_in_the_folders_of_splits_are_never_passed_over(folder, tmp_path):
    for split in ("train", "val"):
        rows = write_parts(tmp_path / folder / split)
        write_csv(tmp_path / folder / split / "labels.csv", rows)
    message = r"train/labels\.csv lies in the folder of a split: put a file train\.csv into .*set"
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "set", tmp_path)
    write_csv(tmp_path / folder / "train" / "labels.csv", rows, ("path", "breed"))
    with pytest.raises(UserError, match=r"train/labels\.csv needs a first line"):
        prepare(tmp_path / "set", tmp_path)
    for split in ("train", "val"):
        of_folders = [(name, name.partition("/")[0]) for name, _ in rows]
        write_csv(tmp_path / folder / split / "labels.csv", of_folders)
    assert prepare(tmp_path / "set", tmp_path)["train"].wnids == ["part0", "part1", "part2"]


def test_a_file_called_labels_needs_columns(tmp_path):
    rows = write_parts(tmp_path / "set")
    write_csv(tmp_path / "set" / "Labels.csv", rows, ("name", "breed"))
    with pytest.raises(UserError, match=r'Labels\.csv needs .* received "name", "breed"; if'):
        prepare(tmp_path / "set", tmp_path)
    (tmp_path / "set" / "Labels.csv").rename(tmp_path / "set" / "breeds.csv")
    said = []
    prepare(tmp_path / "set", tmp_path, say=said.append)
    assert "ignored: breeds.csv" in said


def test_a_label_file_is_found_beside_nested_folders(tmp_path):
    rows = write_parts(tmp_path / "set" / "inner")
    write_csv(tmp_path / "set" / "inner" / "labels.csv", rows)
    assert prepare(tmp_path / "set", tmp_path)["train"].wnids == ["a", "b"]


def test_other_files_beside_a_label_file(images, tmp_path):
    """A table of sizes is passed over; unlabelled test images are left out, with a note."""
    write_csv(images / "train.csv", PAIRS)
    write_csv(images / "sizes.csv", [(NAMES[0], 20)], ("path", "width"))
    write_csv(images / "test.csv", [(name,) for name in NAMES], ("path",))
    said = []
    stores = prepare(images, tmp_path, say=said.append)
    assert sorted(shown(stores["train"]) + shown(stores["validation"])) == sorted(PAIRS)
    assert "note: test.csv has no labels and is left out" in said
    write_csv(images / "val.csv", PAIRS, ("path", "breed"))
    with pytest.raises(UserError, match=r'val\.csv needs a first line .* received "path", "breed"'):
        prepare(images, tmp_path)
    write_csv(images / "val.csv", [])
    with pytest.raises(UserError, match=r"val\.csv names no images"):
        prepare(images, tmp_path)


def write_beside(folder, rows, header=("path", "label")):
    """Writes the images of some rows, and labels.csv beside them."""
    for seed, (name, *_) in enumerate(rows):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(20, 24, seed).save(folder / name)
    write_csv(folder / "labels.csv", rows, header)
    return folder


BATCHES = [(f"batch{n % 4}/{n}.png", ("dog", "cat")[n % 2]) for n in range(12)]
KINDS = [(f"{kind}/{n}.png", kind) for kind in ("cat", "dog") for n in range(6)]


def test_folders_with_one_label_each_are_no_classes(tmp_path):
    stores = prepare(write_beside(tmp_path / "set", BATCHES), tmp_path)
    assert stores["train"].wnids == ["cat", "dog"] and stores["train"].meta.form == "CSV"
    fruits = [("fruit/apple", "apple"), ("fruit/pear", "pear"), ("root/carrot", "carrot")]
    rows = [(f"{folder}/{n}.png", label) for folder, label in fruits for n in range(3)]
    stores = prepare(write_beside(tmp_path / "food", rows), tmp_path)
    assert stores["train"].wnids == ["apple", "carrot", "pear"]


def test_splits_of_a_label_file_count_beside_class_folders(tmp_path):
    rows = [(name, kind, "val" if n % 6 < 2 else "train") for n, (name, kind) in enumerate(KINDS)]
    stores = prepare(write_beside(tmp_path / "set", rows, ("path", "label", "split")), tmp_path)
    assert shown(stores["validation"]) == [row[:2] for row in rows if row[2] == "val"]
    assert shown(stores["train"]) == [row[:2] for row in rows if row[2] == "train"]
    (tmp_path / "set" / "labels.csv").unlink()
    write_csv(tmp_path / "set" / "train.csv", KINDS[1:-1])
    write_csv(tmp_path / "set" / "val.csv", [KINDS[0], KINDS[-1]])
    stores = prepare(tmp_path / "set", tmp_path)
    assert shown(stores["validation"]) == [KINDS[0], KINDS[-1]]


@pytest.mark.parametrize(
    "prefixes", [("",), ("inner/",), ("train/", "val/"), ("train/images/", "val/images/")]
)
def test_a_label_file_that_repeats_the_folders_is_passed_over(prefixes, tmp_path, monkeypatch):
    rows = [(prefix + name, kind) for prefix in prefixes for name, kind in KINDS]
    monkeypatch.chdir(write_beside(tmp_path / "set", rows))
    said = []
    train = prepare(".", tmp_path, say=said.append)["train"]
    assert train.wnids == ["cat", "dog"] and train.meta.form == "class folders"
    assert any(line.startswith("ignored") and line.endswith("labels.csv") for line in said)


def test_numbers_of_class_folders_are_passed_over_unless_a_list_names_them(tmp_path):
    rows = [(name, str(("dog", "cat").index(kind))) for name, kind in KINDS]
    folder = write_beside(tmp_path / "set", rows)
    assert prepare(folder, tmp_path)["train"].wnids == ["cat", "dog"]
    (folder / "classes.txt").write_text("hound\ntiger\n")
    assert prepare(folder, tmp_path)["train"].wnids == ["hound", "tiger"]


def write_split_folders(folder):
    """Writes train/0.png ... 23.png and val/12.png ... 23.png; returns the rows of both splits."""
    folders = {"train": range(24), "val": range(12, 24)}
    for name, numbers in folders.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            drawn(20, 24, 100 * (name == "val") + number).save(folder / name / f"{number}.png")
    rows = [(f"{n}.png", ("dog", "cat")[n % 2]) for n in range(24)]
    return rows[:12], rows[12:]


@pytest.mark.parametrize("by_column", [False, True])
def test_images_of_a_split_are_those_in_its_folder(by_column, tmp_path):
    """Although train/ has files with the names of those in val/."""
    folder = tmp_path / "set"
    train, validation = write_split_folders(folder)
    if by_column:
        rows = [(*row, "train") for row in train] + [(*row, "val") for row in validation]
        write_csv(folder / "labels.csv", rows, ("path", "label", "split"))
    else:
        write_csv(folder / "train.csv", train)
        write_csv(folder / "val.csv", validation)
    stores = prepare(folder, tmp_path)
    assert shown(stores["train"]) == [(f"train/{name}", label) for name, label in train]
    assert shown(stores["validation"]) == [(f"val/{name}", label) for name, label in validation]
    assert stores["validation"].file_of(0) == str(folder / "val" / "12.png")


def test_images_of_a_test_split_that_is_not_used_may_be_elsewhere(tmp_path):
    train, validation = write_split_folders(tmp_path / "set")
    rows = [(*row, "train") for row in train] + [(*row, "val") for row in validation]
    rows += [("0.png", "dog", "test"), ("lost.png", "cat", "test")]
    write_csv(tmp_path / "set" / "labels.csv", rows, ("path", "label", "split"))
    stores = prepare(tmp_path / "set", tmp_path)
    assert (len(stores["train"]), len(stores["validation"])) == (12, 12)


def test_images_of_two_splits_may_have_the_same_names(tmp_path):
    folder = tmp_path / "set"
    _, rows = write_split_folders(folder)
    write_csv(folder / "train.csv", rows)
    write_csv(folder / "val.csv", rows)
    stores = prepare(folder, tmp_path)
    assert shown(stores["train"]) == [(f"train/{name}", label) for name, label in rows]
    assert shown(stores["validation"]) == [(f"val/{name}", label) for name, label in rows]


def test_several_folders_with_the_images_of_a_label_file_are_refused(tmp_path):
    folder = tmp_path / "set"
    _, rows = write_split_folders(folder)
    (folder / "train").rename(folder / "depth")
    (folder / "val").rename(folder / "rgb")
    write_csv(folder / "labels.csv", [("lost.png", "dog"), *rows])
    message = (
        r"labels\.csv names 12\.png, and each of the folders depth and rgb has images that it "
        r"names: write the folder into its paths, as in depth/12\.png"
    )
    for source in (folder, folder / "labels.csv"):
        with pytest.raises(UserError, match=message):
            prepare(source, tmp_path)
    write_csv(folder / "labels.csv", [(f"rgb/{name}", label) for name, label in rows])
    assert prepare(folder, tmp_path)["train"].file_of(0).startswith(str(folder / "rgb"))


def test_the_image_of_the_first_row_may_be_missing(images, tmp_path):
    write_csv(images / "labels.csv", [("lost.jpg", "bad"), *PAIRS])
    with pytest.raises(UserError, match=r"lost\.jpg is not a file"):
        prepare(images, tmp_path)
    skipped = []
    prepare(images, tmp_path, skip_corrupt=True, skipped=skipped)
    assert skipped == [("lost.jpg", "is not a file")]


def test_whole_paths_may_lie_in_the_folder_of_the_csv(images, tmp_path):
    (tmp_path / "link").symlink_to(images)
    rows = [(images / "images" / name, label) for name, label in PAIRS]
    write_csv(images / "labels.csv", rows)
    for source in (images, images / "labels.csv", tmp_path / "link"):
        stores = prepare(source, tmp_path)
        found = sorted(shown(stores["train"]) + shown(stores["validation"]))
        assert found == sorted((f"images/{name}", label) for name, label in PAIRS)
    for name in (images / ".." / "labels.csv", f"{images}2/a.jpg", images.parent / "a.jpg"):
        write_csv(images / "labels.csv", [*rows, (name, "bad")])
        with pytest.raises(UserError, match=r"row 8 names .*, which points outside the folder"):
            prepare(images, tmp_path)


MISTAKES = {
    "outside": ([("../set/images/a b.jpg", "x")], r"row 2 names \.\./set.*points outside"),
    "absolute": (
        [("/etc/passwd", "x")],
        "row 2 names /etc/passwd, which points outside .*: move the CSV to a folder that holds all",
    ),
    "backslashes": ([("..\\secret.jpg", "x")], "row 2 names ../secret.jpg, which points outside"),
    "missing": ([("nowhere.jpg", "x")], "names nowhere.jpg, which is not below"),
    "missing later": ([*PAIRS, ("nowhere.jpg", "bad")], "nowhere.jpg is not a file"),
    "no label": ([*PAIRS, ("e.jpg", " ")], "row 8 has no label"),
    "short row": ([*PAIRS, ("e.jpg",)], "row 8 has 1 cells, fewer than the first line"),
    "twice": ([*PAIRS, PAIRS[0]], r"names a b\.jpg twice: keep one of its rows"),
    "one class": ([(name, "cat") for name in NAMES], "images of one class, cat"),
    "one image": ([*PAIRS[:5], ("g.jpg", "yak")], "the class yak of .* holds one image: to be"),
    "some are not labelled": (
        [(name, number - 1) for number, name in enumerate(NAMES)],
        "no labels for 1 of 6 images of train",
    ),
    "two spellings": (
        [(name, ["1", "0", "01"][number % 3]) for number, name in enumerate(NAMES)],
        r"row 4, c,d\.jpg, is labelled 01, and an image before it 1: write each number in one way",
    ),
    "two spellings in two splits": (
        [(name, "10"[n % 2] if n < 4 else "01", SPLITS[n]) for n, name in enumerate(NAMES)],
        r"labelled 01, and an image before it 1: write each",
    ),
    "nothing": ([], r"labels\.csv names no images: add a row for each image"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_by_their_row(mistake, images, tmp_path):
    rows, sentence = MISTAKES[mistake]
    header = ("path", "label", "split")[: max(map(len, rows), default=2)]
    write_csv(images / "labels.csv", rows, header)
    with pytest.raises(UserError, match=sentence):
        prepare(images / "labels.csv", tmp_path)


def test_an_image_that_is_missing_is_named_or_left_out(tmp_path, monkeypatch):
    """Of a data set whose images have one size, which are decoded when they are packed."""
    expect_three_classes(monkeypatch)
    rows = []
    for split, contents, labels in (
        ("train", TRAIN, TRAIN_LABELS),
        ("val", VALIDATION, VALIDATION_LABELS),
    ):
        for number, (content, label) in enumerate(zip(contents, labels, strict=True)):
            file = tmp_path / "set" / f"{split}{number}.jpg"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            rows.append((file.name, WNIDS[label], split))
    write_csv(tmp_path / "set" / "labels.csv", rows, ("path", "label", "split"))
    (tmp_path / "set" / "train3.jpg").unlink()
    with pytest.raises(UserError, match=r"train3\.jpg is missing: all images must have 64"):
        prepare(tmp_path / "set", tmp_path, "tiny_imagenet")
    skipped = []
    options = {"skip_corrupt": True, "skipped": skipped}
    train = prepare(tmp_path / "set", tmp_path, "tiny_imagenet", **options)["train"]
    assert skipped == [("train3.jpg", "is missing")]
    assert train.labels.tolist() == [2, 0, 1, 2, 1] and not train.verified
    (tmp_path / "set" / "train3.jpg").mkdir()  # which nobody may read as a file
    with pytest.raises(UserError, match=r"train3\.jpg cannot be read: Is a directory"):
        prepare(tmp_path / "set", tmp_path, "tiny_imagenet", **options)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "width,height\n1,2\n",
            r'needs a first line with the columns path and label; received "wi',
        ),
        ("path;label\na.jpg;cat\n", r"path and label \(separate the columns with commas\); rec"),
        ("", "received nothing"),
        ('path,label\n"a.jpg', "is not a whole CSV file"),
        ("path,label,split\n1.jpg,cat,train\n2.jpg,3,val\n3.jpg,4,val\n", "not below"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(text, sentence, images, tmp_path):
    (images / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        prepare(images / "labels.csv", tmp_path)


def test_splits_that_are_none(images, tmp_path):
    rows = [(n, c, "fold1") for n, c in PAIRS]
    write_csv(images / "labels.csv", rows, ("path", "label", "split"))
    with pytest.raises(UserError, match='row 2 is of the split "fold1"; train, validation or test'):
        prepare(images, tmp_path)
    rows[0] = (*PAIRS[0], "")
    rows[1:] = [(n, c, "train") for n, c in PAIRS[1:]]
    write_csv(images / "labels.csv", rows, ("path", "label", "split"))
    with pytest.raises(UserError, match="row 2 has no split, and others have one"):
        prepare(images, tmp_path)


def test_options_of_class_folders_are_refused(images, tmp_path):
    write_csv(images / "labels.csv", PAIRS)
    with pytest.raises(UserError, match=r"--splits is for class folders, but .* is CSV"):
        prepare(images, tmp_path, splits="none")
    with pytest.raises(UserError, match="--validation-share must be above 0 and at most 1"):
        prepare(images, tmp_path, validation_share=2.0)
