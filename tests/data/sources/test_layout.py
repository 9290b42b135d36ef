"""Which folders are taken for splits or for classes, and which make the user choose."""

import pytest
from class_folders import drawn

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.sources.layout import Splits, find_layout, named_splits, split_of


def write(root, *class_folders, files=("1.png", "2.png")):
    """Writes two images into each of the folders."""
    for folder in class_folders:
        (root / folder).mkdir(parents=True)
        for name in files:
            drawn(2, 2).save(root / folder / name, "PNG")
    return root


def splits_of_cats_and_dogs(root, *names):
    return write(root, *(f"{name}/{animal}" for name in names for animal in ("cat", "dog")))


def found(root, splits=None):
    """Returns (training folder, validation folder, ignored folders); None if nothing is split."""
    layout = find_layout(root, splits)
    splits = layout.splits
    return splits and (splits.train, splits.validation, layout.ignored)


# ------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (
            "train Train TRAIN training Training trainset training_set Train-Set TrainingSet",
            "train",
        ),
        ("train_images trainData training.data images_train", "train"),
        (
            "val Val VAL valid Validation valset val_set ValidationData dev DEV eval Eval",
            "validation",
        ),
        ("evaluation dev_set validation-images", "validation"),
        ("test Test TEST testing testset test_set Test-Data TestImages", "test"),
        ("trains trainer strain value validated device tester contest atest", None),
        ("images data set cat train_val train_test seg_train train2017 model_train", None),
    ],
)
def test_splits_are_known_in_any_spelling(names, split):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("seg_train seg_test seg_pred", {"seg_train": "train", "seg_test": "test"}),
        ("train2017 val2017", {"train2017": "train", "val2017": "validation"}),
        ("asl_train", {}),
        ("model_train model_car", {}),
        ("toy_train wooden_test", {}),
        ("train a_train a_test", {"train": "train"}),
        ("test a_train a_test", {"a_train": "train", "a_test": "test"}),
        ("train_1 train_2 val_1", {"train_1": "train", "train_2": "train", "val_1": "validation"}),
    ],
)
def test_other_words_count_where_two_splits_share_them(names, splits):
    assert named_splits(names.split()) == splits


# ------------------------------------------------------------------------------- splits and classes


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "val"), ("Train", "Test"), ("training_set", "test_set"), ("seg_train", "seg_dev")],
)
def test_two_splits_are_found_by_their_names(tmp_path, train, validation):
    assert found(splits_of_cats_and_dogs(tmp_path, train, validation)) == (train, validation, ())


def test_folders_within_folders_of_their_name_are_entered(tmp_path):
    inner = [f"{name}/{name}" for name in ("training_set", "test_set")]
    splits_of_cats_and_dogs(tmp_path / "archive" / "archive", *inner)
    write(tmp_path / "archive" / "__MACOSX", "archive", files=["._1.png"])
    listing = folders.list_image_folder(tmp_path, 0.1)
    assert (listing.wnids, listing.counts()) == (["cat", "dog"], {"train": 4, "validation": 4})
    assert listing.splits["train"][0].name == "training_set/training_set/cat/1.png"
    assert listing.faulty == listing.ignored == []


def test_a_single_folder_of_classes_is_split_like_the_folder_itself(tmp_path):
    write(tmp_path / "pets", "pets/cat", "pets/dog")
    outer, inner = (folders.list_image_folder(p, 0.5) for p in (tmp_path, tmp_path / "pets/pets"))
    assert outer.wnids == ["cat", "dog"] and outer.splits == inner.splits


def test_a_single_class_of_validation_is_not_entered(tmp_path):
    write(tmp_path, "train/cat", "train/dog", "val/cat/deep")
    listing = folders.list_image_folder(tmp_path, 0.1)
    assert [image.label for image in listing.splits["validation"]] == [0, 0]


def test_links_in_circles_end(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a holds no image"):
        folders.list_image_folder(tmp_path, 0.1)


def test_a_test_split_beside_validation_is_ignored_and_the_note_says_how_to_score_it(tmp_path):
    layout = find_layout(splits_of_cats_and_dogs(tmp_path, "train", "val", "Test"))
    assert layout.splits == Splits("train", "val")
    (note,) = layout.notes
    assert note.startswith("Test is ignored, neither trained on nor scored: --splits train,Test")
    assert found(tmp_path, "train,Test") == ("train", "Test", ("val",))


def test_a_test_split_without_validation_is_scored_and_noted(tmp_path):
    layout = find_layout(splits_of_cats_and_dogs(tmp_path, "train", "test"))
    assert layout.notes == ("test is used for validation, since there is no folder val",)


def test_a_test_split_without_labels_is_ignored(tmp_path):
    write(splits_of_cats_and_dogs(tmp_path, "train", "val"), "test", "annotations")
    layout = find_layout(tmp_path)
    assert (layout.ignored, layout.notes) == (("test", "annotations"), ())


def test_a_class_may_be_called_like_a_split_beside_classes_and_below_splits(tmp_path):
    write(tmp_path / "vehicles", "train", "car", "bus")
    listing = folders.list_image_folder(tmp_path / "vehicles", 0.1)
    assert listing.wnids == ["bus", "car", "train"]
    assert "train is used as a class, like the folders beside it" in listing.notes
    write(tmp_path / "split", "train/train", "train/car", "val/train", "val/car")
    assert folders.list_image_folder(tmp_path / "split", 0.1).wnids == ["car", "train"]


# ------------------------------------------------------------------------------ ambiguous folders

AMBIGUOUS = {
    "train alone": (["train/cat", "train/dog"], "no val, validation or test with class folders"),
    "unlabelled test": (["train/cat", "train/dog", "test"], r"or pass .*train as --source to have"),
    "unlabelled sets": (["train", "test1"], "or pass --splits none if train is a class"),
    "flat splits": (["train", "test"], r"train holds no class folders: sort .* as in train/cat/1"),
    "a class of parts": (["train/steam", "train/diesel", "car"], "--splits none if train is a cl"),
    "no training": (["val/cat", "val/dog", "test/cat"], "has test and val but no folder train"),
    "unlabelled beside classes": (["cat", "dog", "test"], "--splits none if every folder is a"),
    "valid and invalid": (["valid", "invalid"], "has valid but no folder train: add it, or pass"),
    "classes below one": (["Images/cat", "Images/dog", "train"], "--splits none if train is a cl"),
    "two of a kind": (["train/cat", "val/cat", "valid/cat"], "val and valid, which are all named"),
    "unknown names": (["A/cat", "A/dog", "B/cat", "B/dog"], "say which with --splits A,B; if they"),
    "other way round": (["cat/train", "cat/test", "dog/train"], "cat holds test and train, which"),
    "splits in one": (["p/train/a", "p/test/a", "x"], r"like splits: pass .*/p as --source, or"),
    "trained and validated": (["trainval/a", "test/a"], "or --splits trainval,test to name the"),
    "two pairs": (
        [f"{d}_{s}/a" for d in ("day", "night") for s in ("train", "val")],
        "day_train an",
    ),
    "two of training": (
        ["train_1/a", "train_2/a", "val_1/a"],
        "train_1 and train_2, which are all",
    ),
    "images and boxes": (
        ["images", "annotations/xmls"],
        "annotations and images, named like a p",
    ),
    "images of classes": (["images/cat", "images/dog", "meta"], "pass .*/images as --source, or p"),
    "annotations by class": (
        [f"{part}/{dog}" for part in ("Images", "Annotation") for dog in ("n1-Pug", "n2-Boxer")],
        r"folders Annotation and Images, named .* pass .*/Images as --source",
    ),
    "splits beside texts": (
        ["p/train/a", "p/val/a", "Docs/x"],
        r"Docs, named .* pass .*/p as --so",
    ),
    "a part beside classes": (
        ["cat/old", "cat/young", "dog", "docs"],
        "docs.* move such folders aw",
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_folders_that_can_be_read_in_two_ways_are_refused(tmp_path, name):
    names, message = AMBIGUOUS[name]
    with pytest.raises(UserError, match=message):
        found(write(tmp_path, *names))


@pytest.mark.parametrize("name", sorted(set(AMBIGUOUS) - {"train alone"}))
def test_every_folder_is_a_class_if_the_user_says_so(tmp_path, name):
    names, _ = AMBIGUOUS[name]
    listing = folders.list_image_folder(write(tmp_path, *names), 0.1, "none")
    assert listing.wnids == sorted({name.split("/")[0] for name in names})
    assert sum(listing.counts().values()) == 2 * len(names)


@pytest.mark.parametrize("inner", ["masks", "Labels"])
def test_images_and_annotations_are_no_classes_of_a_split(tmp_path, inner):
    write(
        tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in ("images", inner))
    )
    message = f"train has the folders .*{inner}.* or pass --splits train,val if they are classes"
    with pytest.raises(UserError, match=message):
        found(tmp_path)
    assert found(tmp_path, "train,val") == ("train", "val", ())
    assert len(folders.list_image_folder(tmp_path, 0.1, "train,val").wnids) == 2


def test_splits_may_lie_below_a_folder_of_images(tmp_path):
    write(
        tmp_path, *(f"{s}/images/{animal}" for s in ("train", "val") for animal in ("cat", "dog"))
    )
    assert folders.list_image_folder(tmp_path, 0.1).wnids == ["cat", "dog"]


def test_splits_of_any_name_are_taken_if_the_user_names_them(tmp_path):
    write(tmp_path, "A/cat", "A/dog", "B/cat", "C/cat")
    assert found(tmp_path, "A,B") == ("A", "B", ("C",))


@pytest.mark.parametrize("splits", ["", "A", "A,", ",B", "A,A", "A,../B", "A,nowhere", "A,B,C"])
def test_names_of_splits_are_names_of_folders(tmp_path, splits):
    write(tmp_path, "A/cat", "A/dog", "B/cat")
    with pytest.raises(UserError, match='--splits takes "none", or the names of two folders in'):
        found(tmp_path, splits)


# ------------------------------------------------------------------------------ notes for the user


def test_classes_and_ignored_files_are_reported_before_the_work(tmp_path):
    letters = "abcdefg"
    root = write(tmp_path / "p", *(f"{split}/{c}" for split in ("train", "val") for c in letters))
    splits_of_cats_and_dogs(root, "extra")
    (root / "train" / "a" / "notes.txt").write_text("")
    said = []
    options = {"source": root, "data_dir": tmp_path / "data"}
    datasets.prepare(
        "image_folder/x", **options, say=said.append, progress=lambda *c: said.append(c)
    )
    assert said[:2] == [
        "7 classes in train and val (14 + 14 images): a, b, c, d, e and 2 more",
        "ignored: train/a/notes.txt, extra/",
    ]
    assert isinstance(said[2], tuple)


def test_the_split_of_a_folder_is_noted(tmp_path):
    said = []
    root = write(tmp_path / "p", "cat", "dog")
    datasets.prepare("image_folder/x", source=root, data_dir=tmp_path / "data", say=said.append)
    assert said[:2] == [
        "2 classes (2 + 2 images): cat, dog",
        "note: nothing is split, so about 10 % of each class are kept aside for validation",
    ]


def notes(root):
    return folders.list_image_folder(root, 0.1).notes


def test_folders_that_are_merged_into_classes_are_noted(tmp_path):
    write(tmp_path, "fruit/apple", "fruit/pear", "veg/kale", "veg/leek", "nut/images")
    expected = (
        "images of fruit/apple, fruit/pear are merged into the class fruit, and likewise for veg"
    )
    assert notes(tmp_path)[1:] == [expected]


def test_a_single_folder_within_each_class_is_not_noted(tmp_path):
    assert len(notes(write(tmp_path, "cat/images", "dog/images"))) == 1


def test_classes_that_are_not_scored_are_named(tmp_path):
    write(tmp_path, "train/a", "train/b", "train/c", "val/a")
    expected = "val has no images of b and c, so scores will not cover them"
    assert notes(tmp_path) == [expected]
