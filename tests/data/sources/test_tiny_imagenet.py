"""Tiny ImageNet's layout, from a zip and from a folder, on three classes drawn here."""

import io
import os
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import tiny_imagenet

ROOT = "tiny-imagenet-200/"
WNIDS = ["n02124075", "n01443537", "n04067472"]  # not sorted, like the real file
SORTED = ["n01443537", "n02124075", "n04067472"]
COLOURS = {"n01443537": (200, 30, 30), "n02124075": (30, 200, 30), "n04067472": (30, 30, 200)}
TRAIN_0 = f"{ROOT}train/n01443537/images/n01443537_0.JPEG"


def jpeg(colour, size=(64, 64), mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, "JPEG", quality=95)
    return content.getvalue()


def layout():
    """Returns {name: bytes}: two training images and one validation image per class."""
    files = {
        "wnids.txt": "\n".join(WNIDS) + "\n",
        "words.txt": "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\n"
        "n04067472\treel\nn00001740\tentity\n",
        "val/val_annotations.txt": "".join(
            f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63\n" for i, wnid in enumerate(WNIDS)
        ),
    }
    files = {ROOT + name: text.encode() for name, text in files.items()}
    for i, wnid in enumerate(WNIDS):
        files[f"{ROOT}val/images/val_{i}.JPEG"] = jpeg(COLOURS[wnid])
        for k in (0, 1):
            files[f"{ROOT}train/{wnid}/images/{wnid}_{k}.JPEG"] = jpeg(COLOURS[wnid])
        files[f"{ROOT}train/{wnid}/{wnid}_boxes.txt"] = b"boxes are not read"
    return files


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    """Makes the expected counts those of the small layout."""
    for name, value in {"NUM_CLASSES": 3, "NUM_TRAIN": 6, "NUM_VALIDATION": 3}.items():
        monkeypatch.setattr(tiny_imagenet, name, value)


def prepare(source, data_dir, **options):
    return datasets.prepare("tiny_imagenet", source=source, data_dir=data_dir, **options)


def test_labels_are_positions_in_the_sorted_wnids(tmp_path):
    stores = prepare(write_zip(tmp_path / "tiny.zip", layout()), tmp_path / "data")
    train, validation = stores["train"], stores["validation"]
    assert train.verified
    assert train.wnids == SORTED and train.class_names == ["goldfish", "Egyptian cat", "reel"]
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]  # in sorted order of their paths
    assert validation.labels.tolist() == [1, 0, 2]  # in the order of val_annotations.txt
    for store in stores.values():
        for image, label in zip(store.images, store.labels, strict=True):
            np.testing.assert_allclose(image[30, 30], COLOURS[SORTED[label]], atol=3)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_text_saved_by_an_editor_on_windows(encoding, tmp_path):
    files = layout()
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        text = files[ROOT + name].decode().replace("\n", "\r\n")
        files[ROOT + name] = text.encode(encoding)
    write_zip(tmp_path / "tiny.zip", files)
    with tiny_imagenet.open_tree(tmp_path / "tiny.zip") as tree:
        listing = tiny_imagenet.read_listing(tree)
    assert (listing.wnids, listing.class_names[0]) == (SORTED, "goldfish")
    assert listing.labels["validation"].tolist() == [SORTED.index(wnid) for wnid in WNIDS]


def test_zip_folder_and_their_parent_folder_give_the_same_store(tmp_path):
    archive = write_zip(tmp_path / "tiny.zip", layout())
    folder = write_folder(tmp_path / "above", layout())
    holder = tmp_path / "holder"
    holder.mkdir()
    write_zip(holder / "tiny-imagenet-200.zip", layout())
    sources = [archive, folder, folder / "tiny-imagenet-200", holder]
    results = [prepare(s, tmp_path / f"data{i}") for i, s in enumerate(sources)]
    assert len({r["train"].digest for r in results}) == 1
    assert len({r["validation"].digest for r in results}) == 1


def sorted_into_classes(images="images/", annotations=True, train="images/"):
    """Returns the layout that scripts of tutorials make: validation images in class folders."""
    files = {}
    for name, content in layout().items():
        for i, wnid in enumerate(WNIDS):
            name = name.replace(f"val/images/val_{i}.", f"val/{wnid}/{images}val_{i}.")
        if annotations or not name.endswith("annotations.txt"):
            files[name.replace("/images/n0", f"/{train}n0")] = content
    return files


@pytest.mark.parametrize("annotations", [True, False])
@pytest.mark.parametrize("images", ["images/", ""])
@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_validation_in_class_folders_gives_the_same_store(tmp_path, write, images, annotations):
    expected = prepare(write_zip(tmp_path / "tiny.zip", layout()), tmp_path / "data")
    files = sorted_into_classes(images, annotations, train=images)
    stores = prepare(write(tmp_path / "sorted", files), tmp_path / "other")
    assert stores.keys() == expected.keys() == {"train", "validation"}
    for split, store in stores.items():
        assert store.verified and store.digest == expected[split].digest
        assert store.labels.tolist() == expected[split].labels.tolist()


def test_validation_in_class_folders_is_in_the_order_of_its_numbers(tmp_path):
    files = {n: c for n, c in sorted_into_classes("", False).items() if "/val/" not in n}
    numbers = {0: 1, 1: 0, 9: 2, 10: 2, 11: 0, 100: 1}
    for number, label in numbers.items():
        files[f"{ROOT}val/{SORTED[label]}/val_{number}.JPEG"] = jpeg(COLOURS[SORTED[label]])
    source = write_zip(tmp_path / "tiny.zip", files)
    store = prepare(source, tmp_path / "data", allow_unverified=True)["validation"]
    assert store.labels.tolist() == list(numbers.values())


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_files_of_no_class_are_named_and_system_files_are_not(tmp_path, write):
    files = layout()
    system_files = ("val/.DS_Store", "train/Thumbs.db", "train/n02124075/images/._n02124075_0.JPEG")
    for name in ("train/1.JPEG", "val/images/val_3.JPEG", "val/x.JPEG", *system_files):
        files[ROOT + name] = jpeg(0)
    source, skipped = write(tmp_path / "tiny", files), []
    with pytest.raises(
        UserError, match=r"3 of 12 files .*: train/1\.JPEG belongs to no class, val/imag"
    ):
        prepare(source, tmp_path / "data")
    store = prepare(source, tmp_path / "data", skip_corrupt=True, skipped=skipped)["train"]
    assert store.verified and len(store) == 6
    assert [name for name, _ in skipped] == ["train/1.JPEG", "val/images/val_3.JPEG", "val/x.JPEG"]


@pytest.mark.parametrize("name", ["n02124075_2", "n02124075_2.jpg_large", "n02124075_2.png"])
def test_training_images_of_any_suffix_are_taken(tmp_path, name):
    files = layout() | {f"{ROOT}train/n02124075/images/{name}": jpeg(0)}
    source = write_zip(tmp_path / "tiny.zip", files)
    with pytest.raises(UserError, match="train has 3 images of n02124075, not 2"):
        prepare(source, tmp_path / "data")
    assert len(prepare(source, tmp_path / "data", allow_unverified=True)["train"]) == 7


def test_links_of_a_folder_are_followed_and_broken_ones_are_named(tmp_path):
    root = write_folder(tmp_path, layout()) / ROOT
    (root / "train/n02124075").rename(tmp_path / "elsewhere")
    (root / "train/n02124075").symlink_to(tmp_path / "elsewhere")
    assert prepare(root, tmp_path / "data")["train"].verified
    file = tmp_path / "elsewhere/images/n02124075_1.JPEG"
    file.unlink()
    file.symlink_to("/nowhere")
    with pytest.raises(UserError, match=r"n02124075_1\.JPEG is damaged \(.*No such file"):
        prepare(root, tmp_path / "data")


def test_one_class_is_refused(tmp_path):
    files = {n: c for n, c in layout().items() if "n0" not in n or WNIDS[0] in n}
    files |= {f"{ROOT}wnids.txt": b"n02124075\n"}
    files |= {f"{ROOT}val/val_annotations.txt": b"val_0.JPEG\tn02124075\n"}
    del files[f"{ROOT}val/images/val_1.JPEG"], files[f"{ROOT}val/images/val_2.JPEG"]
    source = write_zip(tmp_path / "tiny.zip", files)
    with pytest.raises(UserError, match="holds images of one class, n02124075; two classes or"):
        prepare(source, tmp_path / "data", allow_unverified=True)


def test_nothing_is_unpacked(tmp_path):
    prepare(write_zip(tmp_path / "tiny.zip", layout()), tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["packed"]
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.zip", "data"}


def test_a_prepared_set_opens_without_its_source(tmp_path):
    source = write_zip(tmp_path / "tiny.zip", layout())
    digest = prepare(source, tmp_path / "data")["train"].digest
    source.unlink()
    opened = datasets.open_dataset("tiny_imagenet", "train", data_dir=tmp_path / "data")
    assert opened.digest == digest
    assert prepare(None, tmp_path / "data")["train"].digest == digest


def test_greyscale_becomes_rgb(tmp_path):
    files = layout() | {TRAIN_0: jpeg(120, mode="L")}
    stores = prepare(write_zip(tmp_path / "tiny.zip", files), tmp_path / "data")
    assert stores["train"].images[0, 5, 5].tolist() == [120, 120, 120]


def without(name):
    return {key: content for key, content in layout().items() if key != ROOT + name}


def annotated(text):
    return layout() | {f"{ROOT}val/val_annotations.txt": text}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (without("wnids.txt"), "has no wnids.txt"),
        (without("words.txt"), "tiny-imagenet-200/words.txt is missing"),
        (layout() | {f"{ROOT}wnids.txt": b"n\0"}, "wnids.txt cannot be read: it has zero bytes"),
        (without("val/val_annotations.txt"), "val/val_annotations.txt is missing"),
        (without("val/images/val_2.JPEG"), "val/images/val_2.JPEG is missing"),
        (annotated(b"val_0.JPEG\tn09999999\t0\t0\t1\t1\n"), 'the class "n09999999"'),
        (annotated(b"val_0.JPEG\n"), 'gives val_0.JPEG the class ""'),
        (without("train/n01443537/images/n01443537_1.JPEG"), "train has 1 images of n01443537"),
        (layout() | {TRAIN_0: jpeg(0)[:-300]}, f"{TRAIN_0} is not a whole image"),
        (layout() | {TRAIN_0: b"no image"}, f"{TRAIN_0} is not an image"),
        (layout() | {TRAIN_0: jpeg(0, (63, 64))}, f"{TRAIN_0} is 63 x 64 pixels"),
        (layout() | {f"{ROOT}wnids.txt": b"n01443537\n"}, "of a class that wnids.txt does not"),
        (layout() | {f"{ROOT}wnids.txt": b"n01443537\nn01443537\n"}, "must list each class id"),
        (layout() | {"../outside": b""}, 'points outside it: "../outside"'),
        (layout() | {"/etc/outside": b""}, 'points outside it: "/etc/outside"'),
    ],
)
def test_missing_and_damaged_parts_are_named(tmp_path, files, message):
    source = write_zip(tmp_path / "tiny.zip", files)
    with pytest.raises(UserError) as refusal:
        prepare(source, tmp_path / "data")
    assert message in str(refusal.value) and "tiny.zip" in str(refusal.value)
    assert not list((tmp_path / "data").rglob("meta.json"))


def test_a_damaged_zip_member_is_named(tmp_path):
    source = write_zip(tmp_path / "tiny.zip", layout())
    content = source.read_bytes()
    at = content.index(TRAIN_0.encode()) + len(TRAIN_0) + 200
    source.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    with pytest.raises(UserError, match=r"n01443537_0\.JPEG is damaged \(Bad CRC-32"):
        prepare(source, tmp_path / "data")


def test_a_source_that_is_something_else(tmp_path):
    with pytest.raises(UserError, match=r"--source must be tiny-imagenet-200\.zip.*\(use image_"):
        prepare(tmp_path, tmp_path / "data")
    with pytest.raises(UserError, match="nowhere does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "data")


def test_a_source_is_needed(tmp_path):
    with pytest.raises(UserError, match="data prepare tiny_imagenet --source"):
        prepare(None, tmp_path / "data")


def test_a_file_that_is_no_zip(tmp_path):
    (tmp_path / "tiny.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"tiny\.zip is not a whole zip archive"):
        prepare(tmp_path / "tiny.zip", tmp_path / "data")


def test_other_images_need_allow_unverified_and_get_their_own_place(tmp_path):
    files = {name.replace("n04067472", "n99999999"): c for name, c in layout().items()}
    for name in ("wnids.txt", "val/val_annotations.txt"):
        files[ROOT + name] = files[ROOT + name].replace(b"n04067472", b"n99999999")
    source = write_zip(tmp_path / "tiny.zip", files)
    with pytest.raises(UserError, match=r"class n99999999 is not one of .*--allow-unverified"):
        prepare(source, tmp_path / "data")
    store = prepare(source, tmp_path / "data", allow_unverified=True)["train"]
    assert not store.verified and store.class_names[2] == "n99999999"
    assert store.path.parent.name == "tiny_imagenet-unverified"


def test_a_preparation_interrupted_between_the_splits_is_not_opened(tmp_path):
    """The damaged validation image ends the work after the training images."""
    files = layout() | {f"{ROOT}val/images/val_1.JPEG": b"no image"}
    with pytest.raises(UserError, match=r"val_1\.JPEG is not an image"):
        prepare(write_zip(tmp_path / "tiny.zip", files), tmp_path / "data")
    with pytest.raises(UserError, match="tiny_imagenet is not prepared"):
        datasets.open_dataset("tiny_imagenet", "train", data_dir=tmp_path / "data")


def test_a_preparation_that_fails_keeps_the_earlier_set(tmp_path):
    before = prepare(write_zip(tmp_path / "tiny.zip", layout()), tmp_path / "data")
    files = layout() | {f"{ROOT}val/images/val_2.JPEG": b"not an image", TRAIN_0: jpeg((1, 2, 3))}
    with pytest.raises(UserError, match=r"val_2\.JPEG"):
        prepare(write_zip(tmp_path / "broken.zip", files), tmp_path / "data")
    for split, store in before.items():
        kept = datasets.open_dataset("tiny_imagenet", split, data_dir=tmp_path / "data")
        assert kept.digest == store.digest
    assert [p.name for p in (tmp_path / "data" / "packed").iterdir()] == ["tiny_imagenet"]


# ------------------------------------------------------------------------------- damaged images


def damaged_zip(path, **changes):
    """Writes a zip with a truncated image, one of another size and one with flipped bits."""
    damage = {
        TRAIN_0: jpeg(0)[:-300],
        f"{ROOT}train/n02124075/images/n02124075_1.JPEG": jpeg(0, (63, 64)),
    }
    write_zip(path, layout() | damage | changes)
    content = path.read_bytes()
    name = b"n04067472/images/n04067472_0.JPEG"
    at = content.index(name) + len(name) + 200
    path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    return path


def test_damaged_images_can_be_left_out(tmp_path):
    source, skipped = damaged_zip(tmp_path / "tiny.zip"), []
    with pytest.raises(UserError, match=r"is not a whole image .* --skip-corrupt"):
        prepare(source, tmp_path / "data")
    stores = prepare(source, tmp_path / "data", skip_corrupt=True, skipped=skipped)
    assert [name for name, _ in skipped] == [
        "train/n01443537/images/n01443537_0.JPEG",
        "train/n02124075/images/n02124075_1.JPEG",
        "train/n04067472/images/n04067472_0.JPEG",
    ]
    whole, size, bits = (reason for _, reason in skipped)
    assert whole.startswith("is not a whole image (")
    assert size == "is 63 x 64 pixels, not 64 x 64"
    assert bits.startswith("is damaged (Bad CRC-32")
    assert not stores["train"].verified and stores["train"].path.parent.name.endswith("-unverified")
    assert stores["train"].labels.tolist() == [0, 1, 2] and len(stores["validation"]) == 3
    for image, label in zip(stores["train"].images, stores["train"].labels, strict=True):
        np.testing.assert_allclose(image[30, 30], COLOURS[SORTED[label]], atol=3)


def test_zeros_in_an_image_are_named(tmp_path):
    """Pillow decodes such an image without an error, to grey."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG")
    files = layout() | {TRAIN_0: content.getvalue()[:-1024] + bytes(1024)}
    with pytest.raises(UserError, match=r"_0\.JPEG is not a whole image \(Premature end"):
        prepare(write_zip(tmp_path / "tiny.zip", files), tmp_path / "data")


def test_without_damaged_images_nothing_is_left_out(tmp_path):
    skipped, calls = [], []
    stores = prepare(
        write_zip(tmp_path / "tiny.zip", layout()),
        tmp_path / "data",
        skip_corrupt=True,
        skipped=skipped,
        progress=lambda *call: calls.append(call),
    )
    assert skipped == [] and stores["train"].verified
    assert ("checking train", 6, 6) in calls and ("checking validation", 3, 3) in calls


def test_a_class_without_any_whole_image_is_refused(tmp_path):
    source = damaged_zip(tmp_path / "tiny.zip", **{TRAIN_0.replace("_0", "_1"): b"no image"})
    with pytest.raises(UserError, match="no whole image of n01443537 in train"):
        prepare(source, tmp_path / "data", skip_corrupt=True)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("shapes", "leave out"), ("imagenet_resized/64x64", "download a damaged")]
)
def test_other_sets_have_no_images_to_leave_out(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        datasets.prepare(name, data_dir=tmp_path, skip_corrupt=True)


# ------------------------------------------------------------------------------- another process


@pytest.fixture
def other_process():
    """Yields the id of a process that lives as long as the test."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


def begun_by(pid, packed):
    """Makes the folder that a process has while it packs."""
    folder = packed / f".tiny_imagenet.writing@{socket.gethostname()}@{pid}@x"
    folder.mkdir(parents=True)
    return folder


def test_a_set_that_another_process_packs_is_waited_for(tmp_path, other_process):
    source = write_zip(tmp_path / "tiny.zip", layout())
    folder = begun_by(other_process.pid, tmp_path / "data" / "packed")
    sentence = f"process {other_process.pid} is packing tiny_imagenet into .*: wait until it is"
    with pytest.raises(UserError, match=sentence):
        datasets.open_dataset("tiny_imagenet", "train", data_dir=tmp_path / "data")
    with pytest.raises(UserError, match=sentence):
        prepare(source, tmp_path / "data")
    assert folder.is_dir() and len(list(folder.parent.iterdir())) == 1
    folder.rmdir()
    assert len(prepare(source, tmp_path / "data")["train"]) == 6
    begun_by(other_process.pid, tmp_path / "data" / "packed")  # no matter to who only reads
    datasets.open_dataset("tiny_imagenet", "train", data_dir=tmp_path / "data")


def test_dead_processes_and_later_ones_with_their_id_are_not_waited_for(tmp_path, other_process):
    begun_by(os.getpid(), tmp_path / "data" / "packed")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    begun_by(dead.pid, tmp_path / "data" / "packed")
    long_ago = begun_by(other_process.pid, tmp_path / "data" / "packed")
    os.utime(long_ago, (1e9, 1e9))
    with pytest.raises(UserError, match="tiny_imagenet is not prepared"):
        datasets.open_dataset("tiny_imagenet", "train", data_dir=tmp_path / "data")
    prepare(write_zip(tmp_path / "tiny.zip", layout()), tmp_path / "data")
