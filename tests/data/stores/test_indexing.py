"""Stores that index images where they lie: their pixels, and which files are refused.

A store of any kind of image gives the pixels that Pillow gives. test_image_folders.py and
test_imagenet2012.py test which files are listed.
"""

import errno
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from class_folders import drawn, indexed, write_folders
from conftest import png_that_claims
from PIL import Image

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.images.reading import read_image
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import select
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.stores import indexing, packing
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.data.stores.opening import open_store
from keras_imnet64.data.stream import evaluation_batches

TOY = "image_folder/toy"


def prepare(source, data_dir, name=TOY, **options):
    return datasets.prepare(name, source=source, data_dir=data_dir, **options)


def shown(store, view, batch_size=2):
    """uint8 [N, S, S, 3]: all images of a store as evaluation reads them."""
    batches = list(evaluation_batches(select(store), batch_size, view))
    return np.concatenate([images.numpy() for images, *_ in batches])[: len(store)]


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def left_in(data_dir):
    """The files that a failed preparation has left."""
    packed = data_dir / "packed"
    return sorted(packed.iterdir()) if packed.is_dir() else []


# -------------------------------------------------------------------------------- kinds of images

RGB = drawn(41, 37)
CLEAR = RGB.copy()
CLEAR.putalpha(Image.linear_gradient("L").resize((37, 41)))
FRAMES = {"save_all": True, "append_images": [drawn(41, 37, 1)]}
DEEP = Image.fromarray(np.linspace(0, 65535, 41 * 37).reshape(41, 37).astype("uint16"))
SPOTTED = RGB.quantize(16)
TEXTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 37, 3), "uint8"))


def without_last_scan(content):
    """A progressive JPEG whose coefficients lack their lowest bits, as some encoders leave them."""
    return content[: content.rindex(b"\xff\xda")] + b"\xff\xd9"


def with_zeros(content, begin, end):
    content = bytearray(content)
    content[begin:end] = bytes(len(content[begin:end]))
    return bytes(content)


UNCONVERTED = {
    "RGB.JPEG": encoded(RGB, "JPEG"),
    "odd and subsampled.jpg": encoded(drawn(3, 5), "JPEG", subsampling=2),
    "progressive.jpg": encoded(RGB, "JPEG", progressive=True),
    "stored as RGB.jpg": encoded(RGB, "JPEG", keep_rgb=True),
    "grey.jpg": encoded(RGB.convert("L"), "JPEG"),
    "one pixel.jpg": encoded(RGB.crop((0, 0, 1, 1)), "JPEG"),
    "png named.JPEG": encoded(RGB, "PNG"),
    "grey.png": encoded(RGB.convert("L"), "PNG"),
    "jpeg named.png": encoded(RGB, "JPEG"),
    "with junk after its end.jpg": encoded(RGB, "JPEG") + bytes(99),
    "with a byte of junk before its end.jpg": encoded(RGB, "JPEG")[:-2] + b"\x7f\xff\xd9",
    "with fill before its end.jpg": encoded(RGB, "JPEG")[:-2] + b"\xff\xff\xff\xd9",
    "restarts.jpg": encoded(RGB, "JPEG", restart_marker_blocks=1),
    "phone.jpg": encoded(RGB, "MPO", **FRAMES),
}
CONVERTED = {
    # TensorFlow decodes it, with a warning each time.
    "with junk before its end.jpg": encoded(RGB, "JPEG")[:-2] + bytes(9) + b"\xff\xd9",
    "cmyk.jpg": encoded(RGB.convert("CMYK"), "JPEG"),
    "16 bits.png": encoded(DEEP, "PNG"),
    "1 bit.png": encoded(RGB.convert("1"), "PNG"),
    "transparent.png": encoded(CLEAR, "PNG"),
    "palette.png": encoded(SPOTTED, "PNG"),
    "clear palette.png": encoded(SPOTTED, "PNG", transparency=3),
    "a colour is clear.png": encoded(RGB, "PNG", transparency=RGB.getpixel((3, 3))),
    "animated.gif": encoded(RGB, "GIF", **FRAMES),
    "animated.webp": encoded(RGB, "WEBP", **FRAMES),
    "animated.png": encoded(RGB, "PNG", **FRAMES),
    "lossless.webp": encoded(RGB, "WEBP", lossless=True),
    "scan.tiff": encoded(RGB, "TIFF"),
    "turned.webp": encoded(
        RGB, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "without its end.png": encoded(RGB, "PNG")[:-12],
    "without its last two bytes.png": encoded(RGB, "PNG")[:-2],
    "wrong checksum of its end.png": encoded(RGB, "PNG")[:-2] + b"??",
    "without its last bits.jpg": without_last_scan(encoded(RGB, "JPEG", progressive=True)),
}


def turned_jpeg(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(drawn(41, 37, orientation), "JPEG", exif=exif)


KINDS = UNCONVERTED | CONVERTED | {f"turned {n}.jpg": turned_jpeg(n) for n in range(10)}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The store of an image of every kind, then of one of another class; and their folder."""
    root = tmp_path_factory.mktemp("kinds") / "pictures"
    for split in ("train", "val"):
        for wnid in ("all", "other"):
            (root / split / wnid).mkdir(parents=True)
        (root / split / "other" / "a.jpg").write_bytes(UNCONVERTED["RGB.JPEG"])
    for name, content in KINDS.items():
        (root / "train" / "all" / name).write_bytes(content)
    (root / "val" / "all" / "a.jpg").write_bytes(UNCONVERTED["RGB.JPEG"])
    return prepare(root, root.parent / "data")["train"], root / "train" / "all"


@pytest.mark.parametrize("view", [View(16, "bilinear"), View(16, "bicubic", 20)], ids=str)
def test_a_store_gives_what_pillow_shows_of_each_kind_of_image(kinds, view):
    store, folder = kinds
    names = sorted(KINDS, key=os.fsencode)
    for name, pixels in zip(names, shown(store, view)[:-1], strict=True):
        np.testing.assert_array_equal(pixels, read_image(folder / name, view), name)


def test_only_what_tensorflow_decodes_otherwise_is_converted(kinds):
    store, _ = kinds
    names = sorted(KINDS, key=os.fsencode)
    files = [Path(store.file_of(position)).name for position in range(len(store) - 1)]
    converted = {name for name, file in zip(names, files, strict=True) if file == "converted.bin"}
    assert converted == set(CONVERTED)


def test_the_file_of_a_converted_image_is_known(kinds):
    store, folder = kinds
    sources = [store.source_of(position) for position in range(len(store) - 1)]
    assert sources == [str(folder / name) for name in sorted(KINDS, key=os.fsencode)]


def test_sizes_are_those_of_images_as_they_are_seen(kinds):
    store, _ = kinds
    names = sorted(KINDS, key=os.fsencode)
    at = [names.index(name) for name in ("turned 1.jpg", "turned 5.jpg", "turned.webp")]
    assert store.sizes(at).tolist() == [[41, 37], [37, 41], [37, 41]]


def test_the_digest_is_of_the_images_bytes_and_labels(tmp_path):
    first, second = (indexed(tmp_path / name) for name in ("a", "b"))
    assert {s: first[s].digest for s in first} == {s: second[s].digest for s in second}
    file = Path(second["train"].file_of(4))
    file.write_bytes(file.read_bytes() + b"\0")  # which no decoder looks at
    again = prepare(tmp_path / "b" / "pictures", tmp_path / "b" / "data")
    assert again["train"].digest != first["train"].digest
    assert again["validation"].digest == first["validation"].digest


# --------------------------------------------------------------------------------- damaged images

DAMAGED = {
    "empty.jpg": (b"", "is empty"),
    "words.jpg": (b"these are words, not pixels\n" * 9, "is not an image in a known format"),
    "cut.jpg": (encoded(RGB, "JPEG")[:-60], "is not a whole image: Premature end of JPEG file"),
    "cut and its end put back.jpg": (
        encoded(RGB, "JPEG")[:-60] + b"\xff\xd9",
        "is not a whole image: Corrupt JPEG data: premature end",
    ),
    "without its end.jpg": (
        encoded(RGB, "JPEG")[:-2],
        "is not a whole image: Premature end of JPEG file",
    ),
    "cut between scans.jpg": (
        without_last_scan(encoded(RGB, "JPEG", progressive=True))[:-2],
        "is not a whole image: Premature end of JPEG file",
    ),
    "zero tail.jpg": (
        with_zeros(encoded(TEXTURE, "JPEG"), -600, None),
        "is not a whole image: Premature end of JPEG file",
    ),
    "zeros.jpg": (
        with_zeros(encoded(TEXTURE, "JPEG"), 1000, 1500),
        "is not a whole image: Corrupt JPEG data",
    ),
    "progressive with zeros.jpg": (
        with_zeros(encoded(TEXTURE, "JPEG", progressive=True), -500, -100),
        "is not a whole image: Corrupt JPEG data",
    ),
    "zeros cmyk.jpg": (
        with_zeros(encoded(TEXTURE.convert("CMYK"), "JPEG"), 1000, 1500),
        "is not a whole image: Corrupt JPEG data",
    ),
    "restart lost.jpg": (
        encoded(RGB, "JPEG", restart_marker_blocks=1).replace(b"\xff\xd1", b"\xff\xd2"),
        "is not a whole image: Corrupt JPEG data",
    ),
    "cut.png": (encoded(RGB, "PNG")[:-60], "is not a whole image: "),
    "wrong checksum.png": (
        encoded(RGB, "PNG")[:-14] + b"??" + encoded(RGB, "PNG")[-12:],
        "is not a whole image: the checksum of its pixels is wrong",
    ),
    "bomb.png": (png_that_claims(60_000, 60_000), "claims 3,600,000,000 pixels"),
    "floats.tiff": (encoded(Image.new("F", (2, 2)), "TIFF"), "holds floating-point numbers"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_is_named_and_nothing_is_left(name, tmp_path):
    root, (content, fault) = write_folders(tmp_path / "pictures"), DAMAGED[name]
    (root / "bee" / name).write_bytes(content)
    with pytest.raises(UserError) as refusal:
        prepare(root, tmp_path / "data")
    assert str(refusal.value).startswith(f"{root / 'bee' / name} {fault}")
    assert str(refusal.value).endswith("; pass --skip-corrupt to leave out such images")
    assert left_in(tmp_path / "data") == []


def test_exactly_the_damaged_images_are_skipped(tmp_path):
    whole = indexed(tmp_path / "whole")
    root, skipped = write_folders(tmp_path / "pictures"), []
    for name, (content, _) in DAMAGED.items():
        (root / "bee" / name).write_bytes(content)
    found = prepare(root, tmp_path / "data", skip_corrupt=True, skipped=skipped)
    assert sorted(name for name, _ in skipped) == sorted(f"bee/{name}" for name in DAMAGED)
    for name, fault in skipped:
        assert fault.startswith(DAMAGED[name.removeprefix("bee/")][1])
    assert {s: found[s].digest for s in found} == {s: whole[s].digest for s in whole}


def test_a_class_that_loses_all_its_images_is_refused(tmp_path):
    root = write_folders(tmp_path / "pictures")
    for file in (root / "bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError) as refusal:
        prepare(root, tmp_path / "data", skip_corrupt=True)
    assert str(refusal.value).startswith(
        f"{root} has no whole image of bee in train, even with --skip-corrupt (bee/"
    )
    assert ".jpg is empty, bee/" in str(refusal.value)
    assert left_in(tmp_path / "data") == []


def test_a_split_that_loses_all_its_images_is_named_with_its_files(tmp_path):
    validation = indexed(tmp_path / "whole")["validation"]
    held_out = [Path(validation.file_of(position)) for position in range(len(validation))]
    names = [f"{file.parent.name}/{file.name}" for file in held_out]
    root = write_folders(tmp_path / "pictures")
    for name in names:
        (root / name).write_bytes(b"")
    with pytest.raises(UserError) as refusal:
        prepare(root, tmp_path / "data", skip_corrupt=True)
    assert str(refusal.value) == (
        f"{root} has no undamaged images left in validation: {names[0]} is empty, {names[1]} is "
        f"empty, {names[2]} is empty; fix the damaged images, or add others"
    )
    assert left_in(tmp_path / "data") == []


# ------------------------------------------------------------------------- labels that contradict


def write_splits(root, **seeds):
    """Writes <split>/<class>/<number>.png for each seed of the list <split>_<class>."""
    for name, numbers in seeds.items():
        folder = root / name.replace("_", "/")
        folder.mkdir(parents=True)
        for number, seed in enumerate(numbers):
            drawn(5, 5, seed).save(folder / f"{number}.png")
    return root


def noted(root):
    said = []
    prepare(root, root.parent / "data", say=said.append)
    return [line for line in said if "same file" in line or "another class" in line]


def test_validation_images_of_several_classes_are_named_too(tmp_path):
    root = write_splits(
        tmp_path / "p", train_a=[0, 1], train_b=[2, 3], val_a=[4, 5, 6], val_b=[7, 5, 6]
    )
    assert noted(root) == [
        "note: 2 images of validation are in another class too, such as "
        f"{root / 'val/a/1.png'} and {root / 'val/b/1.png'}: at most one of the labels is right"
    ]


def test_training_images_in_another_class_of_validation_spoil_the_scores(tmp_path):
    root = write_splits(tmp_path / "p", train_a=[0, 1], train_b=[2, 3], val_a=[4, 0], val_b=[5, 1])
    assert noted(root) == [
        "note: train has the same file as 1 of the 4 validation images, so the scores will look "
        "too good",
        "note: train has the same file as 1 of the 4 validation images in another class, such as "
        f"{root / 'train/a/1.png'} and {root / 'val/b/1.png'}: at most one of the labels is "
        "right, so the scores will look too bad",
    ]


def test_a_file_that_training_has_in_both_classes_is_in_the_same_class(tmp_path):
    root = write_splits(tmp_path / "p", train_a=[0, 1], train_b=[1, 3], val_a=[4], val_b=[1])
    of_train, shared = sorted(noted(root))
    assert of_train.startswith("note: 1 images of train are in another class too")
    assert shared.endswith("as 1 of the 2 validation images, so the scores will look too good")


# ---------------------------------------------------------------------- files that have changed


def delete(file):
    file.unlink()


def shorten(file):
    file.write_bytes(file.read_bytes()[:-9])


def replace_by_a_larger_image(file):
    drawn(300, 300).save(file)


def replace_by_a_folder(file):
    file.unlink()
    file.mkdir()


def replace_by_a_pipe(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (delete, r"0\.jpg can no longer be read \(No such file"),
        (shorten, r"0\.jpg is shorter than when it was indexed"),
        (replace_by_a_folder, r"0\.jpg can no longer be read \(Is a directory"),
        (replace_by_a_pipe, r"0\.jpg can no longer be read"),
        (replace_by_a_larger_image, r"0\.jpg is damaged, or has changed since it was indexed"),
    ],
)
def test_a_file_that_has_changed_is_named_in_one_sentence(change, sentence, tmp_path):
    store = indexed(tmp_path)["train"]
    change(Path(store.file_of(3)).with_name("0.jpg"))
    with pytest.raises(RunFailed, match=sentence) as failure, as_run_failed(store):
        shown(store, View(16, "bilinear"))
    assert "data prepare image_folder/toy --source" in str(failure.value)
    assert "\n" not in str(failure.value)


def printed_command(store):
    """The words of the command that a message about the store names, after the program's name."""
    program, script, *words = shlex.split(store.command.strip("`"))
    assert (program, script) == ("python", "cli.py")
    return words


@pytest.mark.parametrize("folders", [("data",), ("data", "cache")], ids=" ".join)
def test_the_printed_command_writes_to_the_folder_of_the_store(folders, tmp_path, run, monkeypatch):
    root, places = write_folders(tmp_path / "pictures"), [tmp_path / name for name in folders]
    options = dict(zip(("data_dir", "cache_dir"), places, strict=False))
    store = datasets.prepare(TOY, source=root, **options)["train"]
    (root / "ant" / "new.jpg").write_bytes(UNCONVERTED["RGB.JPEG"])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert run(*printed_command(store))[0] == 0
    assert not (tmp_path / "elsewhere").exists()
    again = datasets.open_dataset(TOY, "train", **options)
    assert again.path == store.path and again.digest != store.digest
    monkeypatch.setenv("TFDS_DATA_DIR", str(places[-1]))
    assert "--cache-dir" not in store.command


def test_the_printed_command_accepts_the_unverified_images_of_the_store(tmp_path, run):
    (tmp_path / "list.txt").write_text("ant\nbee\n")
    options = {"class_list": tmp_path / "list.txt", "allow_unverified": True}
    root = write_folders(tmp_path / "pictures", per_class=60)
    store = prepare(root, tmp_path / "data", "imagenet21k", **options)["train"]
    Path(store.file_of(0)).unlink()
    status, _, err = run(*printed_command(store))
    assert status == 0, err
    again = datasets.open_dataset("imagenet21k", "train", data_dir=tmp_path / "data")
    assert again.path == store.path and len(again) == len(store) - 1


@pytest.mark.parametrize("first", ["RGB.JPEG", "cmyk.jpg"])  # the latter lies in the store
def test_a_store_whose_images_were_moved_is_refused(first, tmp_path):
    root = write_folders(tmp_path / "pictures")
    for name in ("ant/0.jpg", "ant/1.jpg"):
        (root / name).write_bytes(KINDS[first])
    prepare(root, tmp_path / "data")
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"indexes images below {root}, but .* is missing"):
        datasets.open_dataset(TOY, "train", data_dir=tmp_path / "data")


# ----------------------------------------------------------------------------------- damaged stores


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    root = write_folders(folder / "pictures")
    (root / "ant" / "9.jpg").write_bytes(CONVERTED["cmyk.jpg"])
    (root / "ant" / "8.jpg").write_bytes(CONVERTED["cmyk.jpg"])
    return prepare(root, folder / "data")["train"].path


def with_field(field, value, of_converted=False):
    def change(path):
        records = np.load(path / "pictures.npy")
        chosen = np.flatnonzero((records["file"] < 0) == of_converted)
        records[field][chosen[-1]] = value
        np.save(path / "pictures.npy", records)

    return change


def with_meta(**changes):
    def change(path):
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps(meta | changes))

    return change


def cut(name):
    def change(path):
        os.truncate(path / name, (path / name).stat().st_size - 1)

    return change


def holding(name, array):
    def change(path):
        if isinstance(array, bytes):
            (path / name).write_bytes(array)
        else:
            np.save(path / name, array)

    return change


def test_a_store_of_the_first_format_opens(packed, tmp_path):
    """It has no hashes of its images."""
    path = tmp_path / "train"
    shutil.copytree(packed, path)
    (path / "hashes.npy").unlink()
    meta = json.loads((path / "meta.json").read_text())
    del meta["bytes"]["hashes.npy"]
    (path / "meta.json").write_text(json.dumps(meta | {"format_version": 1}))
    store = open_store(path)
    assert store.hashes is None
    assert list(store.read(range(11))) == list(open_store(packed).read(range(11)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut("pictures.npy"), r"pictures\.npy cannot be read"),
        (cut("converted.bin"), r"pictures\.npy is wrong about image"),
        (with_field("offset", 2**40, of_converted=True), r"pictures\.npy is wrong about"),
        (with_field("offset", 2**63 - 1, of_converted=True), r"pictures\.npy is wrong about"),
        (with_field("offset", -1), r"pictures\.npy is wrong about"),
        (with_field("length", 0), r"pictures\.npy is wrong about"),
        (with_field("length", 2**62), r"pictures\.npy is wrong about"),
        (with_field("height", 0), r"pictures\.npy is wrong about"),
        (with_field("file", 99), r"pictures\.npy is wrong about"),
        (with_field("file", -99), r"pictures\.npy is wrong about"),
        (with_field("orientation", 99), r"pictures\.npy is wrong about"),
        (holding("pictures.npy", np.zeros(3)), r"pictures\.npy holds float64 \[3\] where"),
        (holding("files.npy", b"no array"), r"files\.npy cannot be read"),
        (holding("files.npy", np.zeros(3)), r"files\.npy does not hold names of files"),
        (holding("hashes.npy", np.zeros((11, 5), "uint8")), r"hashes\.npy holds uint8 \[11, 5\]"),
        (holding("labels.npy", np.full(11, 3, "int32")), r"labels\.npy holds other labels"),
        (holding("moments.npy", np.full((11, 6), np.nan)), r"moments\.npy does not hold means"),
        (holding("moments.npy", np.full((11, 6), 300.0)), r"moments\.npy does not hold means"),
        (holding("moments.npy", np.zeros((11, 5))), r"moments\.npy holds float64 \[11, 5\]"),
        (with_meta(kind="raw", format_version=1), r"meta\.json cannot be used"),
        (with_meta(kind="else"), r"meta\.json has kind and format version \('else', 2\)"),
        (with_meta(format_version=1), r"meta\.json cannot be used"),  # it has hashes
        (with_meta(format_version=99), r"meta\.json has kind and format version .*99"),
        (with_meta(root=None), r'meta\.json cannot be used: its "root" is wrong'),
        (with_meta(root="\ud800"), r'meta\.json cannot be used: its "root" is wrong'),
        (lambda path: (path / "files.npy").unlink(), r"files\.npy is missing"),
    ],
)
def test_a_damaged_store_is_named(packed, change, message, tmp_path):
    path = tmp_path / "train"
    shutil.copytree(packed, path)
    assert len(open_store(path)) == 11
    change(path)
    meta = json.loads((path / "meta.json").read_text())
    meta["bytes"] |= {f.name: f.stat().st_size for f in path.iterdir() if f.name in meta["bytes"]}
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=message) as refusal:
        open_store(path)
    assert f"{path}" in str(refusal.value) and "prepare the data again" in str(refusal.value)


# ---------------------------------------------------------------------- full disks, other processes


def test_a_full_disk_ends_in_one_sentence_and_leaves_the_set_that_was_there(tmp_path, monkeypatch):
    before = indexed(tmp_path)["train"].digest

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "sync_file", full)
        with pytest.raises(RunFailed, match=r"failed and left nothing behind .*No space left"):
            prepare(tmp_path / "pictures", tmp_path / "data")
        with pytest.raises(RunFailed, match="No space left"):
            prepare(tmp_path / "pictures", tmp_path / "data", name="image_folder/other")
    assert [path.name for path in left_in(tmp_path / "data")] == ["image_folder_toy"]
    assert datasets.open_dataset(TOY, "train", data_dir=tmp_path / "data").digest == before


def test_a_disk_without_room_is_refused_before_any_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage._replace(free=9))
    with pytest.raises(UserError, match=r"indexing image_folder/toy train needs .* where 9 are"):
        indexed(tmp_path)
    assert left_in(tmp_path / "data") == []


def test_a_disk_is_refused_before_converted_images_fill_it(tmp_path, monkeypatch):
    """The index fits; how much room converted images take shows only when they are made."""
    root, usage = write_folders(tmp_path / "pictures"), shutil.disk_usage(tmp_path)
    for number in range(9):
        TEXTURE.convert("CMYK").save(root / "bee" / f"cmyk {number}.jpg")
    free = packing.SLACK_BYTES + 16_000

    def shrinking(folder):
        written = sum(file.stat().st_size for file in Path(folder).rglob("converted.bin"))
        return usage._replace(free=free - written)

    monkeypatch.setattr(packing.shutil, "disk_usage", shrinking)
    sentence = r"with [\d,]+ images done and more to keep in the store, needs .* are free"
    with pytest.raises(UserError, match=sentence):
        prepare(root, tmp_path / "data")
    assert left_in(tmp_path / "data") == []


def test_prepare_says_what_is_kept_as_png(tmp_path, run):
    root = write_folders(tmp_path / "pictures")
    for kind in ("CMYK", "RGB"):
        TEXTURE.convert(kind).save(root / "bee" / f"{kind}.jpg")
    status, _, err = run(
        "data", "prepare", TOY, "--source", root, "--data-dir", tmp_path / "data", "--json"
    )
    store = datasets.open_dataset(TOY, "train", data_dir=tmp_path / "data")
    size = (store.path / "converted.bin").stat().st_size
    said = f"train: 1 of {len(store)} images kept as PNG in the store, {size:,} bytes, for"
    assert status == 0 and said in err


@pytest.mark.parametrize("name", [TOY, "imagenet21k"])
def test_a_set_that_another_process_indexes_is_refused(tmp_path, name, monkeypatch):
    """Also where its images will be unverified, which is known only after they are listed."""
    monkeypatch.setattr(folders, "IMAGENET_21K_MORE_THAN", 3)
    monkeypatch.setattr(folders, "IMAGENET_21K_VALIDATION", 1)
    root, packed = write_folders(tmp_path / "pictures"), tmp_path / "data" / "packed"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        begun = f".{name.replace('/', '_')}.writing@{socket.gethostname()}@{other.pid}@x"
        (packed / begun).mkdir(parents=True)
        for allow in (False, True):
            with pytest.raises(UserError, match=f"process {other.pid} is packing {name}"):
                prepare(root, tmp_path / "data", name, allow_unverified=allow)
        assert [path.name for path in packed.iterdir()] == [begun]
        other.communicate(b"\n")
