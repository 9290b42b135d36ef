"""Class folders: which files are listed, in which split, and what is refused."""

import errno
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from class_folders import drawn, write_folders
from conftest import ON_MACOS

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import finding
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.stores import indexing

SPLITS = ("train", "validation")


def write(root, *names):
    """Writes one-pixel images under these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(1, 1).save(root / name, "PNG")
    return root


def listed(listing, split="train"):
    return [image.name for image in listing.splits[split]]


def split_of_each(root, share=0.3):
    """Returns {name of an image: its split}."""
    listing = folders.list_image_folder(root, share)
    return {name: split for split in SPLITS for name in listed(listing, split)}


def numbered(name, count):
    return [f"{name}/{number}.png" for number in range(count)]


def prepare(source, data_dir, name="image_folder/toy", **options):
    return datasets.prepare(name, source=source, data_dir=data_dir, **options)


# ----------------------------------------------------------------------------- train and validation


@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_classes_are_sorted_and_their_images_too(tmp_path, validation):
    names = ["train/b/10.png", "train/b/2.png", "train/B/1.PNG", "train/b/deep/er/a.jpeg"]
    write(tmp_path, *names, f"{validation}/b/x.png")
    listing = folders.list_image_folder(tmp_path, 0.1)
    assert listing.wnids == ["B", "b"]
    assert listed(listing) == [names[2], names[0], names[1], names[3]]
    assert [p.label for p in listing.splits["train"]] == [0, 1, 1, 1]
    assert [(p.name, p.label) for p in listing.splits["validation"]] == [
        (f"{validation}/b/x.png", 1)
    ]


def test_a_class_may_be_missing_in_validation(tmp_path):
    write(tmp_path, "train/a/1.png", "train/b/1.png", "val/b/1.png")
    stores = prepare(tmp_path, tmp_path / "data")
    assert stores["validation"].wnids == ["a", "b"]
    assert stores["validation"].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "val/b/1.png"], r"val has the class b, which .*train lacks"),
        (["train/a/1.png"], "has a folder train but no val, validation or test"),
        (["train/1.png", "val/1.png"], r"train holds images such as 1\.png, but no class"),
        (["train/a/1.png", "val/1.png"], r"val holds images such as 1\.png, but no class"),
        (["1.png", "2.png"], r"holds images such as [12]\.png, but no class folders"),
        (["a/.hidden.png", "b/1.png"], "the folder .*a holds no image; add some, or move the fo"),
        (["train/Cat/1.png", "val/cat/1.png"], "lacks: rename it to Cat, as in training"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"], "lacks: a model cannot"),
        (["a/1.png", "b/1.png", "b/2.png"], "a holds one image: to be split"),
        ([".git/1.png"], "holds no class folders; <class>/<image> is needed"),
        (["a/1.png", "a/2.png"], "holds images of one class, a; two classes or more are needed"),
        (["train/a/1.png", "val/a/1.png"], "holds images of one class, a; two classes or more"),
    ],
)
def test_folders_that_hold_no_classes_of_images(tmp_path, names, message):
    root = write(tmp_path / "pictures", *names)
    with pytest.raises(UserError, match=message) as refusal:
        prepare(root, tmp_path / "data")
    assert str(root) in str(refusal.value) and not (tmp_path / "data").exists()


def test_a_source_that_is_no_folder(tmp_path):
    write(tmp_path, "file.png", "pets.zip")
    forms = (
        "a folder of class folders, a CSV file of paths and labels, or Parquet or WebDataset sha"
    )
    with pytest.raises(UserError, match=rf"must be {forms}rds; received .*file\.png$"):
        prepare(tmp_path / "file.png", tmp_path / "data")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(tmp_path / "file.png", "cat/1.png")
    for name in ("pets.zip", "pets.tar"):
        with pytest.raises(UserError, match=f"received .*{name}; unpack it first"):
            prepare(tmp_path / name, tmp_path / "data")
    with pytest.raises(UserError, match=r"must be a folder of class folders; received .*file\.png"):
        datasets.prepare("imagenet21k", source=tmp_path / "file.png", data_dir=tmp_path / "data")


@pytest.mark.parametrize("dataset", ["image_folder/toy", "imagenet2012", "tiny_imagenet"])
def test_a_source_that_does_not_exist(dataset, tmp_path):
    write(tmp_path / "pictures", "a/1.png")
    (tmp_path / "labels.csv").write_text("path,label\n")
    for name, advice in {
        "lables.csv": r"did you mean .*labels\.csv\?",
        "picture": "did you mean .*pictures",
        "nowhere": "check the path",
        "labels.csv/images": "check the path",
        "absent/images": "check the path",
    }.items():
        with pytest.raises(UserError, match=f"--source .*{name} does not exist; {advice}"):
            datasets.prepare(dataset, source=tmp_path / name, data_dir=tmp_path / "data")


def test_an_archive_in_the_source_is_to_be_unpacked(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "pets.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no class folders; .*; unpack pets\.tar\.gz first"):
        prepare(tmp_path / "source", tmp_path / "data")


def test_an_empty_class_folder_is_named(tmp_path):
    root = write_folders(tmp_path / "pictures")
    (root / "dog").mkdir()
    with pytest.raises(UserError, match="dog holds no image"):
        prepare(root, tmp_path / "data")


@pytest.mark.parametrize("place", ["source", "source/more"])
def test_prepared_data_sets_in_the_source_are_passed_over(place, tmp_path):
    """Of a source that is also the data dir, or has it; converted images begin like a PNG."""
    source = write(tmp_path / "source", *numbered("a", 4), *numbered("b", 4))
    (source / "a" / "0.png").rename(source / "a" / "0.gif")
    first = prepare(source, tmp_path / place)
    again = prepare(source, tmp_path / place)
    assert again["train"].wnids == first["train"].wnids == ["a", "b"]
    assert again["train"].digest == first["train"].digest
    shutil.rmtree(tmp_path / place / "packed" / "image_folder_toy")
    (tmp_path / place / "packed" / ".image_folder_other.writing").mkdir()
    assert prepare(source, tmp_path / place)["train"].wnids == ["a", "b"]


@pytest.mark.parametrize("name", ["packed/0.png", "packed/deep/0.png"])
def test_a_class_may_be_called_packed(name, tmp_path):
    source = write(tmp_path / "source", *numbered("a", 4), *numbered("packed", 4), name)
    assert prepare(source, tmp_path / "data")["train"].wnids == ["a", "packed"]


def test_every_file_that_is_left_out_is_named(tmp_path):
    root = write(tmp_path / "p", *numbered("a", 2), *numbered("b", 2), "a/.hidden.png", "a/._0.png")
    write(root, "loose.png", ".old/1.png", "a/no suffix", "a/1.jpg_large", "a/@eaDir/0.png/t.png")
    for name in ("a/notes.txt", "README.md", "Thumbs.db", "pets.zip"):
        (root / name).write_text("")
    (root / "a" / "folder.jpg").mkdir()
    (root / "c").symlink_to("/nowhere")
    os.mkfifo(root / "a" / "pipe.jpg")
    faulty = [
        ("loose.png", "lies in no class folder"),
        ("c", "is a broken link"),
        ("a/pipe.jpg", "is not a file"),
    ]
    with pytest.raises(UserError, match=r"3 of 9 files below .* --skip-corrupt, which lists them"):
        prepare(root, tmp_path / "data")
    skipped, said = [], []
    stores = prepare(root, tmp_path / "data", skip_corrupt=True, skipped=skipped, say=said.append)
    assert sum(map(len, stores.values())) == 6 and skipped == faulty
    left = {".old", "README.md", "pets.zip", "a/.hidden.png", "a/notes.txt"}
    (aside,) = (line for line in said if line.startswith("ignored: "))
    assert set(aside.removeprefix("ignored: ").split(", ")) == left


def test_loose_images_beside_splits_and_below_them_are_named(tmp_path):
    root = write(tmp_path / "p", "train/a/1.png", "train/b/1.png", "val/a/1.png")
    write(root, "1.png", "train/2.png", "val/3.png")
    skipped = []
    prepare(root, tmp_path / "data", skip_corrupt=True, skipped=skipped)
    assert sorted(name for name, _ in skipped) == ["1.png", "train/2.png", "val/3.png"]


NESTED = {  # where loose files lie -> (class folders, the name that a loose file gets in messages)
    ".": (["data/a", "data/b"], "{root}/loose"),
    "data": (["data/deep/a", "data/deep/b"], "{root}/data/loose"),
    "train": (["train/train/a", "train/train/b", "val/a"], "train/loose"),
    "val": (["train/a", "train/b", "val/val/a", "val/val/b"], "val/loose"),
}


@pytest.mark.parametrize("where", NESTED)
def test_files_beside_a_single_folder_that_is_entered_are_named(tmp_path, where):
    inner, expected = NESTED[where]
    root = write(tmp_path / "p", *(f"{folder}/{i}.png" for folder in inner for i in (1, 2)))
    expected = expected.format(root=root)
    write(root, f"{where}/loose")
    (root / where / "notes.txt").write_text("")
    with pytest.raises(
        UserError, match=rf"1 of \d+ files below {root} .*: {expected} lies in no cl"
    ):
        prepare(root, tmp_path / "data")
    skipped, said = [], []
    prepare(root, tmp_path / "data", skip_corrupt=True, skipped=skipped, say=said.append)
    assert skipped == [(expected, "lies in no class folder")]
    assert f"ignored: {expected.replace('loose', 'notes.txt')}" in said


def test_a_class_without_whole_validation_images_is_noted(tmp_path):
    root = write(tmp_path / "p", "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png")
    (root / "val" / "b" / "1.png").write_bytes(b"no image")
    said = []
    stores = prepare(root, tmp_path / "data", skip_corrupt=True, say=said.append)
    assert stores["validation"].labels.tolist() == [0]
    assert "note: validation has no images of b, so scores will not cover them" in said


def test_a_share_for_folders_that_are_split_already_is_refused(tmp_path):
    root = write(tmp_path / "p", "train/a/1.png", "train/b/1.png", "val/a/1.png")
    with pytest.raises(UserError, match=r"--validation-share is for .*p has train and val: leave"):
        prepare(root, tmp_path / "data", validation_share=0.3)


@pytest.mark.parametrize("name", ["1.png", "1"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
def test_an_unreadable_image_is_never_left_out(tmp_path, monkeypatch, name, error):
    root = write(tmp_path / "p", f"a/{name}", "a/2.png", "b/1.jpg", "b/2.jpg")

    def refusing(file, *args, **kwargs):
        if file == root / "a" / name:
            raise OSError(error, os.strerror(error), str(file))
        return open(file, *args, **kwargs)

    for module in (indexing, finding):
        monkeypatch.setattr(module, "open", refusing, raising=False)
    for skip_corrupt in (False, True):
        with pytest.raises(UserError, match=f"a/{name} cannot be read: {os.strerror(error)}") as e:
            prepare(root, tmp_path / "data", skip_corrupt=skip_corrupt)
        assert "--skip-corrupt" not in str(e.value) and not (tmp_path / "data/packed/x").exists()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    root = write(tmp_path / "p", "a/1.png", "a/deep/2.png", "b/1.png", "b/2.png")
    listing = os.scandir

    def refusing(folder):
        if str(folder) == str(root / "a" / "deep"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return listing(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"p/a/deep cannot be searched: Permission denied"):
        prepare(root, tmp_path / "data")


def test_images_of_another_source_are_replaced_with_a_note(tmp_path):
    said = []
    for name in ("one", "two", "two"):
        root = write(tmp_path / name, *numbered("a", 2), *numbered("b", 2))
        prepare(root, tmp_path / "data", say=said.append)
    replaced = [line for line in said if "replaces" in line]
    assert replaced == [f"note: replaces the images of {tmp_path / 'one'}"]


def test_images_of_both_splits_are_counted(tmp_path):
    names = ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"]
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True)
        drawn(3, 3, seed).save(tmp_path / name)
    said = []
    prepare(tmp_path, tmp_path / "data", say=said.append)
    assert not any("same file" in line for line in said)
    shutil.copy(tmp_path / names[0], tmp_path / names[2])
    prepare(tmp_path, tmp_path / "data", say=said.append)
    assert said[-1] == (
        "note: train has the same file as 1 of the 2 validation images, so the scores will look "
        "too good"
    )


def test_an_image_of_two_classes_is_named(tmp_path):
    root, said = tmp_path / "p", []
    for seed, name in enumerate("aabbcc"):
        (root / name).mkdir(parents=True, exist_ok=True)
        drawn(3, 3, seed).save(root / name / f"{seed % 2}.png")
    shutil.copy(root / "a" / "1.png", root / "a" / "again.png")
    prepare(root, tmp_path / "data", say=said.append)
    assert not any("another class" in line for line in said)
    for name in ("b", "c"):
        shutil.copy(root / "a" / "1.png", root / name / "copy.png")
    prepare(root, tmp_path / "data", say=said.append)
    (note,) = [line for line in said if "another class" in line]
    assert note.startswith("note: 2 images of train are in another class too, such as ")
    assert f"{root / 'a' / '1.png'} and {root / 'b' / 'copy.png'}: at most one" in note
    said.clear()
    prepare(root, tmp_path / "data", validation_share=1, say=said.append)
    assert [line[:24] for line in said if "another class" in line] == ["note: 2 images of valida"]


def test_a_set_that_is_only_for_scoring_may_have_one_class(tmp_path):
    root = write(tmp_path / "p", "a/1.png", "a/2.png")
    with pytest.raises(UserError, match="two classes or more are needed"):
        prepare(root, tmp_path / "data")
    stores = prepare(root, tmp_path / "data", validation_share=1)
    assert stores["validation"].wnids == ["a"] and len(stores["validation"]) == 2


def test_the_command_that_indexes_again_has_the_options_of_the_first_time(tmp_path):
    root = write(tmp_path / "p", "learn/a/1.png", "learn/b/1.png", "check/a/1.png")
    options = {"splits": "learn,check", "skip_corrupt": True}
    store = prepare(root, tmp_path / "data", **options)["train"]
    words = f"image_folder/toy --source {root} --splits learn,check --skip-corrupt --cache-dir "
    words += f"{tmp_path / 'data'}`"
    assert store.command == f"`python cli.py data prepare {words}"
    shutil.rmtree(root)
    with pytest.raises(UserError, match=r"--source DIR --splits learn,check --skip-corrupt .*` ag"):
        datasets.open_dataset("image_folder/toy", "train", data_dir=tmp_path / "data")


def test_own_images_stay_verified_after_some_are_skipped(tmp_path):
    root = write(tmp_path / "p", *numbered("a", 3), *numbered("b", 3))
    (root / "a" / "3.png").write_bytes(b"no image")
    store = prepare(root, tmp_path / "data", skip_corrupt=True)["train"]
    assert store.verified and store.path.parent.name == "image_folder_toy"


def test_links_to_classes_and_images_are_followed_but_not_in_circles(tmp_path):
    root = write(tmp_path / "pictures", *numbered("a", 2))
    write(tmp_path / "elsewhere", *numbered("b", 2))
    (root / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (root / "a" / "up").symlink_to(root / "a")
    (root / "a" / "above").symlink_to(root)  # all classes would be this one
    (root / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "b" / "0.png")
    expected = {*numbered("a", 2), *numbered("b", 2), "a/linked.png"}
    assert set(split_of_each(root)) == expected
    stores = prepare(root, tmp_path / "data")
    assert sum(map(len, stores.values())) == 5 and stores["train"].wnids == ["a", "b"]


NAMES = [b"two words.png", b"line\nbreak.png", b"quote\"'.png", "\u00fcml\u00e4ut.png".encode()]
NO_UTF8 = pytest.param(b"caf\xe9.png", marks=pytest.mark.skipif(ON_MACOS, reason="none there"))


@pytest.mark.parametrize("name", [*NAMES, b"x" * 240 + b".png", NO_UTF8])
def test_names_of_any_bytes_are_read_again(tmp_path, name):
    folder = name.removesuffix(b".png")
    for split in (b"train", b"val"):
        for wnid in (folder, b"zebra"):
            file = os.path.join(os.fsencode(tmp_path), b"pictures", split, wnid, name)
            os.makedirs(os.path.dirname(file))
            drawn(3, 3).save(os.fsdecode(file), "PNG")
    prepare(tmp_path / "pictures", tmp_path / "data")
    store = datasets.open_dataset("image_folder/toy", "train", data_dir=tmp_path / "data")
    at = [os.fsencode(wnid) for wnid in store.wnids].index(folder)
    assert os.fsencode(store.file_of(at)).endswith(b"train/" + folder + b"/" + name)
    assert store.read([at])[0].startswith(b"\x89PNG")


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"  # as Linux and as macOS write it


def test_a_class_is_the_same_in_either_unicode_form_of_its_name(tmp_path):
    root = write(tmp_path / "p", f"train/{DECOMPOSED}/1.png", "train/z/1.png")
    write(root, f"val/{COMPOSED}/1.png")
    stores = prepare(root, tmp_path / "data")
    for store in stores.values():
        assert store.wnids == [COMPOSED, "z"] and store.labels[0] == 0
        assert store.read([0])[0].startswith(b"\x89PNG")


@pytest.mark.skipif(ON_MACOS, reason="both are one folder there")
def test_two_folders_of_one_class_in_two_unicode_forms_are_refused(tmp_path):
    root = write(tmp_path / "p", f"{COMPOSED}/1.png", f"{DECOMPOSED}/1.png", "z/1.png")
    with pytest.raises(
        UserError, match=r"two folders of the class .* \('cafe\\u0301' and 'caf\\xe9"
    ):
        prepare(root, tmp_path / "data")


PREPARE = """
import sys
from keras_imnet64.data import datasets
assert not sys.flags.utf8_mode
datasets.prepare("image_folder/toy", source=sys.argv[1], data_dir=sys.argv[2])
for data_dir in sys.argv[2:]:
    store = datasets.open_dataset("image_folder/toy", "train", data_dir=data_dir)
    assert store.read([0])[0].startswith(b"\\x89PNG"), store.root
"""


def test_a_set_is_the_same_under_every_locale(tmp_path):
    root = write(tmp_path / "\u00fc", f"{COMPOSED}/1.png", f"{COMPOSED}/2.png", *numbered("z", 2))
    write(root, *numbered("\u65e5\u672c", 2), "z/\u00e4.png")
    assert sys.getfilesystemencoding() == "utf-8"  # here, as in most places
    prepare(root, tmp_path / "utf8")
    child = subprocess.run(
        [sys.executable, "-c", PREPARE, root, tmp_path / "ascii", tmp_path / "utf8"],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    utf8, ascii_ = (tmp_path / name / "packed/image_folder_toy" for name in ("utf8", "ascii"))
    for file in ("train/meta.json", "validation/meta.json", "train/files.npy"):
        assert (utf8 / file).read_bytes() == (ascii_ / file).read_bytes()
    store = datasets.open_dataset("image_folder/toy", "train", data_dir=tmp_path / "ascii")
    assert store.wnids == [COMPOSED, "z", "\u65e5\u672c"]
    assert store.read([0])[0].startswith(b"\x89PNG")


def test_a_damaged_image_with_an_odd_name_is_reported_in_one_line(tmp_path):
    root = write(tmp_path / "pictures", "train/a/1.png", "train/b/1.png", "val/a/1.png")
    (root / "train" / "a" / "line\nbreak.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"line\\nbreak\.jpg is not an image") as refusal:
        prepare(root, tmp_path / "data")
    assert "\n" not in str(refusal.value)
    skipped = []
    prepare(root, tmp_path / "data", skip_corrupt=True, skipped=skipped)
    assert skipped == [("train/a/line\nbreak.jpg", "is not an image in a known format")]


# ------------------------------------------------------------------------- one folder that is split


def test_only_the_image_that_is_kept_for_want_of_others_may_move():
    """As the guide says: at most one of a class that doubles, and none of a large class."""
    moved = dict.fromkeys((5, 20, 100), 0)
    for count in moved:
        for draw in range(100):
            names = [f"c{draw}/{number}.jpg" for number in range(2 * count)]
            few, many = (folders.held_out(each, 0.1, "") for each in (names[:count], names))
            assert len(few - many) <= (len(few) == 1)
            moved[count] += len(few - many)
    assert moved[5] > moved[20] > moved[100] == 0


def test_an_image_stays_in_its_split_when_others_are_added(tmp_path):
    root = write(tmp_path, *numbered("a", 40), *numbered("b", 40))
    before = split_of_each(root)
    assert split_of_each(root) == before
    for number in range(40, 80):
        write(root, f"a/{number}.png")
        after = split_of_each(root)
        assert {name: after[name] for name in before} == before
        before = after
    assert 15 <= sum(s == "validation" for n, s in before.items() if n[0] == "a") <= 33


@pytest.mark.parametrize("share", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_every_class_is_in_both_splits(tmp_path, share, count):
    root = write(tmp_path, *numbered("a", count), *numbered("b", count))
    found = split_of_each(root, share)
    assert {(name[0], split) for name, split in found.items()} == {
        (name, split) for name in "ab" for split in SPLITS
    }
    assert len(found) == 2 * count


@pytest.mark.parametrize("share", [0, 1.1, -0.1, float("nan")])
def test_a_share_must_leave_images_to_score_on(tmp_path, share):
    root = write_folders(tmp_path / "pictures")
    with pytest.raises(UserError, match="--validation-share must be above 0 and at most 1"):
        prepare(root, tmp_path / "data", validation_share=share)


def test_a_set_that_is_only_for_scoring(tmp_path):
    root = write(tmp_path / "p", "a/1.png", "a/2.png", "b/1.png")  # b has too few for a split
    said, data_dir = [], tmp_path / "data"
    stores = prepare(root, data_dir, validation_share=1, say=said.append)
    assert stores["validation"].labels.tolist() == [0, 0, 1] and len(stores["train"]) == 0
    assert said[1] == (
        "note: every image is for validation: models can be scored on this set, not trained"
    )
    assert not any("train" in sentence for sentence in said[2:])
    info = datasets.info("image_folder/toy", data_dir=data_dir)
    assert info["splits"] == {"train": 0, "validation": 3}
    assert info["classes"] == 2 and info["source"] == f"index:{root}"
    opened = datasets.open_dataset("image_folder/toy", "validation", data_dir=data_dir)
    assert opened.digest == stores["validation"].digest
    with pytest.raises(UserError, match="toy has no images of train, for all of them are"):
        datasets.open_dataset("image_folder/toy", "train", data_dir=data_dir)


def test_a_set_without_whole_images_is_not_one_that_is_only_for_scoring(tmp_path):
    root = write(tmp_path / "p", "a/1.png", "b/1.png")
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="has no undamaged images left"):
        prepare(root, tmp_path / "data", validation_share=1, skip_corrupt=True)


def test_where_the_folder_lies_does_not_matter(tmp_path):
    root = write(tmp_path / "here", *numbered("a", 30))
    shutil.copytree(root, tmp_path / "there")
    assert split_of_each(root) == split_of_each(tmp_path / "there")


# ------------------------------------------------------------------------------------- ImageNet-21K


@pytest.fixture
def small_thresholds(monkeypatch):
    """Makes ImageNet-21K's selection keep classes of 4 images or more, with 2 for validation."""
    monkeypatch.setattr(folders, "IMAGENET_21K_MORE_THAN", 3)
    monkeypatch.setattr(folders, "IMAGENET_21K_VALIDATION", 2)


def test_large_classes_are_kept_and_their_first_images_are_for_validation(
    tmp_path, small_thresholds
):
    root = write(tmp_path, *numbered("n2", 3), *numbered("n3", 5), *numbered("n1", 4))
    (root / "n0").mkdir()
    listing = folders.list_imagenet_21k(root)
    assert listing.wnids == ["n1", "n3"]
    assert listed(listing, "validation") == ["n1/0.png", "n1/1.png", "n3/0.png", "n3/1.png"]
    assert listed(listing) == ["n1/2.png", "n1/3.png", "n3/2.png", "n3/3.png", "n3/4.png"]
    assert [p.label for p in listing.splits["train"]] == [0, 0, 1, 1, 1]


def test_listed_classes_are_selected_whatever_their_size_in_sorted_order(
    tmp_path, small_thresholds
):
    root = write(tmp_path / "p", *numbered("n2", 3), *numbered("n3", 5), *numbered("n1", 4))
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "list").write_bytes("n2\r\nn1\n\n".encode(encoding))
        assert folders.list_imagenet_21k(root, tmp_path / "list").wnids == ["n1", "n2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"n1\nn2\nn1\n", "list lists n1 twice"),
        (b"", "list is empty"),
        (b"\n \n", "list is empty"),
        (b"n1\nn9\n", "list names the class n9, which is no folder in"),
        (b"n1\n../p/n2\n", r"list names the class \.\./p/n2, which is no folder"),
        (b"/etc\n", "list names the class /etc, which is no folder"),
        (b"nul\0byte\n", "list cannot be read: it has zero bytes"),
        (b"n\xe9\n", "list cannot be read: it is not UTF-8 text"),
        (b"n0\n", "n0 holds 0 images; more than 2 are needed"),
        (b"n2\n", "n2 holds 2 images; more than 2 are needed"),
        (b"\xff\xfe\0", "the class list .*list cannot be read"),
    ],
)
def test_class_lists_that_are_refused(tmp_path, small_thresholds, content, message):
    root = write(tmp_path / "p", *numbered("n2", 2), *numbered("n1", 4))
    (root / "n0").mkdir()
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "data", "imagenet21k", class_list=tmp_path / "list")
    assert not (tmp_path / "data").exists()


def test_a_class_list_that_is_no_file(tmp_path, small_thresholds):
    root = write(tmp_path / "p", *numbered("n1", 4))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match=r"the class list .* cannot be read"):
            prepare(root, tmp_path / "data", "imagenet21k", class_list=path)


def test_folders_of_splits_are_refused(tmp_path):
    root = write(tmp_path, "imagenet21k_train/n1/1.png", "imagenet21k_val/n1/1.png")
    with pytest.raises(UserError, match=r"imagenet21k_val, which are named like splits; .*image_f"):
        folders.list_imagenet_21k(root)


def test_other_files_of_kept_classes_are_named(tmp_path, small_thresholds):
    root = write(tmp_path, *numbered("n1", 5), *numbered("n2", 5), "n1/no suffix", "n3/1.png")
    for wnid in ("n1", "n3"):
        (root / wnid / "broken.jpg").symlink_to("/nowhere")
    listing = folders.list_imagenet_21k(root)
    assert listing.faulty == [("n1/broken.jpg", "is a broken link")]
    assert listing.counts() == {"train": 7, "validation": 4}


def test_no_class_large_enough(tmp_path):
    root = write(tmp_path, *numbered("n1", 4))
    with pytest.raises(UserError, match=r"no class of .* has more than 500 images; .*--class-li"):
        folders.list_imagenet_21k(root)


def test_other_counts_need_allow_unverified_and_get_their_own_place(
    tmp_path, small_thresholds, monkeypatch
):
    root = write(tmp_path / "p", *numbered("n1", 4), *numbered("n2", 4))
    with pytest.raises(UserError, match=r"has 2 classes with 4 \+ 4 images .*11,221 with"):
        prepare(root, tmp_path / "data", "imagenet21k")
    store = prepare(root, tmp_path / "data", "imagenet21k", allow_unverified=True)["train"]
    assert not store.verified and store.path.parent.name == "imagenet21k-unverified"
    monkeypatch.setitem(folders.IMAGENET_21K_COUNTS, False, (2, 4, 4))
    store = prepare(root, tmp_path / "data", "imagenet21k")["train"]
    assert store.verified and store.path.parent.name == "imagenet21k"
    (root / "n1" / "3.png").write_bytes(b"damaged")
    store = prepare(root, tmp_path / "data", "imagenet21k", skip_corrupt=True)["train"]
    assert not store.verified and len(store) == 3
