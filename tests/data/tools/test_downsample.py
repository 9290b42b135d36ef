"""Downsampling: values worked by hand, the official layout, and resuming after interruptions."""

import errno
import fcntl
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import PIL
import pytest
from class_folders import CLASSES, indexed, write_folders
from PIL import Image

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.order import generator
from keras_imnet64.data.sources import archives
from keras_imnet64.data.tools import downsample

TRAIN_ZIP, VAL_ZIP = "toy8_train_npz.zip", "toy8_val_npz.zip"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Returns the indexed stores of twelve JPEGs in three classes; a chunk has two images."""
    monkeypatch.setattr(downsample, "CHUNK", 2)
    monkeypatch.setattr(archives, "CHUNK", 2)
    return indexed(tmp_path)


def forget_hashes(path):
    """Makes a store one of format 1, without hashes of its images."""
    (path / "hashes.npy").unlink()
    meta = json.loads((path / "meta.json").read_text())
    del meta["bytes"]["hashes.npy"]
    (path / "meta.json").write_text(json.dumps(meta | {"format_version": 1}))


def small(tmp_path, out="out", name="image_folder/toy", size=8, **options):
    options = {"data_dir": tmp_path / "data", "out_dir": tmp_path / out} | options
    return downsample.downsample(name, size=size, **options)


def read(path):
    """Returns {member: {name: array}} of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {
            name: dict(np.load(io.BytesIO(archive.read(name)), allow_pickle=False))
            for name in archive.namelist()
        }


def shown(store, position, size=8, resize_filter="box"):
    """Returns an image of the store, resized by Pillow from its file."""
    with Image.open(store.file_of(position)) as image:
        filter = Image.Resampling[resize_filter.upper()]
        return np.asarray(image.convert("RGB").resize((size, size), filter))


# ------------------------------------------------------------------------------------------ values


def test_box_averages_worked_by_hand(tmp_path):
    """16 x 32 pixels to 8 x 8: each pixel is the mean of 2 x 4, whatever the image's shape."""
    rows, columns = np.mgrid[:16, :32]
    # The mean of rows 2i, 2i + 1 is 2i + 0.5; of columns 4j .. 4j + 3 it is 4j + 1.5.
    # 4 * row + 2 * column -> 8i + 2 + 8j + 3; green is its complement, blue is 100 everywhere.
    red = 4 * rows + 2 * columns
    pixels = np.stack([red, 255 - red, np.full_like(red, 100)], axis=-1).astype(np.uint8)
    for number in range(2):
        for name in ("one", "two"):
            (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    datasets.prepare("image_folder/toy", source=tmp_path / "pictures", data_dir=tmp_path / "data")
    small(tmp_path)
    i, j = np.mgrid[:8, :8]
    by_hand = np.stack([8 * i + 8 * j + 5, 250 - 8 * i - 8 * j, np.full_like(i, 100)])  # CHW
    data = read(tmp_path / "out" / VAL_ZIP)["val_data.npz"]["data"]
    np.testing.assert_array_equal(data[0], by_hand.ravel())


def test_images_are_shown_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[8:] = 255  # white below, which is on the left once it is turned
    for name in ("one/0.jpg", "one/1.jpg", "two/0.jpg", "two/1.jpg"):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, exif=exif, quality=100)
    datasets.prepare("image_folder/toy", source=tmp_path / "pictures", data_dir=tmp_path / "data")
    small(tmp_path)
    store = datasets.open_dataset(
        "downsampled/toy_8x8", "train", data_dir=tmp_path / "data", in_memory="never"
    )
    assert store.images[0, :, :4].min() > 250 and store.images[0, :, 4:].max() < 5


@pytest.mark.parametrize("resize_filter", ["lanczos", "nearest"])
def test_other_filters_are_pillows_and_are_part_of_the_name(toy, tmp_path, resize_filter):
    result = small(tmp_path, resize_filter=resize_filter)
    assert result["dataset"] == f"downsampled/toy_8x8_{resize_filter}"
    assert datasets.find_dataset(result["dataset"]).resize_filter == resize_filter
    store = datasets.open_dataset(result["dataset"], "train", data_dir=tmp_path / "data")
    for position in range(len(store)):
        expected = shown(toy["train"], position, resize_filter=resize_filter)
        np.testing.assert_array_equal(store.images[position], expected)


# ------------------------------------------------------------------------------------------ layout


def test_the_archives_have_the_official_layout(toy, tmp_path):
    result = small(tmp_path)
    out = tmp_path / "out"
    assert result["archives"] == [str(out / TRAIN_ZIP), str(out / VAL_ZIP)]
    assert sorted(path.name for path in out.iterdir()) == ["classes.txt", TRAIN_ZIP, VAL_ZIP]
    assert (out / "classes.txt").read_text() == "ant\nbee\ncat\n"
    count = len(toy["train"])
    batches = read(out / TRAIN_ZIP)
    assert list(batches) == [f"train_data_batch_{n + 1}.npz" for n in range(min(10, count))]
    data = np.concatenate([batch["data"] for batch in batches.values()])
    labels = np.concatenate([batch["labels"] for batch in batches.values()])
    order = generator(0, 0, "downsample").permutation(count)
    for row, label, position in zip(data, labels, order, strict=True):
        expected = shown(toy["train"], position).transpose(2, 0, 1).ravel()  # all red first
        np.testing.assert_array_equal(row, expected)
        assert label == toy["train"].labels[position] + 1
    for batch in batches.values():
        np.testing.assert_allclose(batch["mean"], data.mean(axis=0), rtol=1e-12)
    (validation,) = read(out / VAL_ZIP).values()
    assert set(validation) == {"data", "labels"} and len(validation["labels"]) == 12 - count


def test_the_store_can_be_named_in_recipes(toy, tmp_path):
    result = small(tmp_path)
    assert result["dataset"] == "downsampled/toy_8x8"
    assert result["images"] == {split: len(store) for split, store in toy.items()}
    store = datasets.open_dataset(result["dataset"], "train", data_dir=tmp_path / "data")
    assert store.source == "downsampled from image_folder/toy with box"
    assert store.image_size == 8 and store.wnids == list(CLASSES)
    np.testing.assert_array_equal(store.labels, toy["train"].labels)
    report = datasets.info(result["dataset"], data_dir=tmp_path / "data")
    assert report["state"] == "packed" and report["location"] == result["location"]
    files = [*(tmp_path / "out").glob("*.zip"), *(tmp_path / "data/packed").rglob("downs*/*/*")]
    assert result["bytes"] == sum(file.stat().st_size for file in files)


def test_imagenet_gets_its_published_names_and_label_order(tmp_path):
    """Sorted class ids have labels 0, 1, 2 in the source, but others in ImageNet64."""
    wnids = sorted(archives.imagenet_wnids())[:3]
    root = write_folders(tmp_path / "tree" / "train")
    write_folders(tmp_path / "tree" / "val", per_class=1)
    for split in (root, tmp_path / "tree" / "val"):
        for name, wnid in zip(CLASSES, wnids, strict=True):
            (split / name).rename(split / wnid)
    data_dir = tmp_path / "data"
    source = datasets.prepare(
        "imagenet2012", source=tmp_path / "tree", allow_unverified=True, data_dir=data_dir
    )
    result = small(tmp_path, name="imagenet2012")
    names = [path.name for path in map(type(tmp_path), result["archives"])]
    assert names == ["Imagenet8_train_npz.zip", "Imagenet8_val_npz.zip"]
    assert result["dataset"] == "imagenet_resized/8x8"
    assert result["location"].endswith("imagenet_resized_8x8-unverified")
    store = datasets.open_dataset("imagenet_resized/8x8", "train", data_dir=data_dir)
    assert not store.verified and store.wnids == archives.imagenet_wnids()
    theirs = [store.wnids[label] for label in store.labels]
    assert theirs == [wnids[label] for label in source["train"].labels]
    again = datasets.prepare(
        "imagenet_resized/8x8",
        source=tmp_path / "out",
        allow_unverified=True,
        data_dir=tmp_path / "again",
    )
    for split in again:
        assert _contents(again[split]) == _contents(
            datasets.open_dataset("imagenet_resized/8x8", split, data_dir=data_dir)
        )


def test_downsampled_images_that_will_not_be_used_are_said_so_before_the_work(
    toy, tmp_path, monkeypatch
):
    """Unverified images, beside verified ones of the same name."""
    for store in toy.values():
        meta = json.loads((store.path / "meta.json").read_text())
        (store.path / "meta.json").write_text(json.dumps(meta | {"verified": False}))
    said = []
    small(tmp_path, out="first", say=said.append)
    assert said == []
    unverified = tmp_path / "data" / "packed" / "downsampled_toy_8x8-unverified"
    verified = unverified.with_name("downsampled_toy_8x8")
    unverified.rename(verified)
    break_after(monkeypatch, 0)
    with pytest.raises(RunFailed, match="the power is gone"):
        small(tmp_path, say=said.append)
    assert said == [
        f"note: the verified downsampled/toy_8x8 in {verified} takes precedence in all other "
        "commands: to use unverified images, move it away"
    ]


def _contents(store):
    """Returns the images with their labels, in sorted order."""
    return sorted(zip(map(bytes, store.images), store.labels.tolist(), strict=True))


# ---------------------------------------------------------------------------------------- resuming


def break_after(monkeypatch, num_images):
    """Makes decoding fail after `num_images`; returns the list of decoded images."""
    decoded, show = [], downsample._ResizedSplit._resized

    def counted(self, position):
        if len(decoded) >= num_images:
            raise RunFailed("the power is gone")
        decoded.append((self.store.split, position))
        return show(self, position)

    monkeypatch.setattr(downsample._ResizedSplit, "_resized", counted)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return decoded


def fill_the_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupt(tmp_path, monkeypatch, num_images=5, **options):
    with monkeypatch.context() as patch:
        break_after(patch, num_images)
        with pytest.raises(RunFailed, match="the power is gone"):
            small(tmp_path, **options)
    names = {path.name for path in (tmp_path / options.get("out", "out")).iterdir()}
    assert names == {".downsampling-train"}


def test_an_interrupted_call_is_resumed(toy, tmp_path, monkeypatch):
    small(tmp_path, out="whole")
    interrupt(tmp_path, monkeypatch)
    decoded = break_after(monkeypatch, 1000)
    small(tmp_path)
    counts = {split: len(store) for split, store in toy.items()}
    missing = [("train", n) for n in range(4, counts["train"])]  # two chunks of two were there
    assert decoded == missing + [("validation", n) for n in range(counts["validation"])]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_the_state_on_disk_keeps_its_form(toy, tmp_path, monkeypatch):
    """So that a call which an earlier version began is resumed."""
    interrupt(tmp_path, monkeypatch)
    state = json.loads((tmp_path / "out/.downsampling-train/made.json").read_text())
    assert state == {
        "dataset": "image_folder/toy",
        "digest": toy["train"].digest,
        "size": 8,
        "filter": "box",
        "pillow": PIL.__version__,
        "chunk": 2,
        "chunks": 2,
    }


@pytest.mark.parametrize("changes", [{"resize_filter": "bicubic"}, {"size": 16}])
def test_other_parameters_start_again(toy, tmp_path, monkeypatch, changes):
    interrupt(tmp_path, monkeypatch)
    decoded = break_after(monkeypatch, 1000)
    small(tmp_path, **changes)
    assert len(decoded) == 12


def test_other_images_start_again(toy, tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch)
    source = tmp_path / "pictures" / "ant"
    (source / "0.jpg").write_bytes((source / "1.jpg").read_bytes())
    datasets.prepare("image_folder/toy", source=source.parent, data_dir=tmp_path / "data")
    decoded = break_after(monkeypatch, 1000)
    small(tmp_path)
    assert len(decoded) == 12


def test_a_call_interrupted_after_the_archives_replaces_its_own_archives(
    toy, tmp_path, monkeypatch
):
    small(tmp_path, out="whole")
    with monkeypatch.context() as patch:
        patch.setattr(downsample, "_write_store", fill_the_disk)
        with pytest.raises(RunFailed, match=r"failed .* resumes the work"):
            small(tmp_path)
    decoded = break_after(monkeypatch, 1000)
    small(tmp_path)
    assert decoded == []
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_a_damaged_state_starts_again(toy, tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch)
    (tmp_path / "out" / ".downsampling-train" / downsample.STATE).write_text("[]")
    decoded = break_after(monkeypatch, 1000)
    small(tmp_path)
    assert len(decoded) == 12


# ------------------------------------------------------------------------------- images that change


def replace_by_a_larger_image(file):
    Image.new("RGB", (300, 300), "red").save(file, quality=100)


def replace_by_an_image_of_the_same_length(file):
    length = file.stat().st_size
    Image.new("RGB", (2, 2)).save(file)
    file.write_bytes(file.read_bytes().ljust(length, b"\0"))
    assert file.stat().st_size == length


@pytest.mark.parametrize(
    ("change", "has_hashes"),
    [
        (replace_by_a_larger_image, True),
        (replace_by_an_image_of_the_same_length, True),
        (replace_by_a_larger_image, False),  # a store of format 1
    ],
)
def test_an_image_that_has_changed_is_not_downsampled(change, has_hashes, toy, tmp_path):
    if not has_hashes:
        forget_hashes(toy["train"].path)
    file = Path(toy["train"].file_of(3))
    change(file)
    with pytest.raises(RunFailed) as failure:
        small(tmp_path)
    assert str(failure.value) == (
        f"{file} is damaged, or has changed since it was indexed: restore the original file, or "
        f"fix it and run {toy['train'].command}"
    )
    assert not list((tmp_path / "out").glob("*.zip"))


def test_an_image_that_the_store_has_converted_is_downsampled(tmp_path):
    """The hash of such an image is that of its file, not that of the PNG in the store."""
    root = write_folders(tmp_path / "pictures")
    Image.new("CMYK", (20, 30), (90, 80, 70, 60)).save(root / "ant" / "0.jpg")
    datasets.prepare("image_folder/toy", source=root, data_dir=tmp_path / "data")
    assert small(tmp_path)["images"] == {"train": 9, "validation": 3}


# ---------------------------------------------------------------------------------------- refusals


def test_a_second_process_is_refused(toy, tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / downsample.LOCK, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is downsampling into"):
            small(tmp_path)
    small(tmp_path)


def test_a_file_system_without_locks_is_named(toy, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"out cannot be written \(No locks available\); choose"):
        small(tmp_path)


def test_existing_archives_are_never_overwritten(toy, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / VAL_ZIP).write_text("precious")
    with pytest.raises(UserError, match=f"{VAL_ZIP} exists and is never overwritten"):
        small(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [VAL_ZIP]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 7}, r"--size must be a whole number from 8 to 256; received 7"),
        ({"size": 257}, r"received 257"),
        ({"resize_filter": "bix"}, r'no resize filter "bix": did you mean "box"'),
        ({"name": "shapes"}, r"shapes has images of 64 x 64 pixels already; those of imagenet"),
        ({"name": "image_folder/none"}, r"image_folder/none is not prepared"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        small(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_disk_space_is_checked_before_any_work(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 9}))
    with pytest.raises(UserError, match=r"downsampling needs [\d,]+ bytes in .*out, where 9 are"):
        small(tmp_path)
    assert not (tmp_path / "out").exists()


def test_downsampled_sets_are_not_prepared_from_a_source(tmp_path):
    with pytest.raises(UserError, match=r"run `python cli.py data downsample DATASET --size 8 "):
        datasets.prepare("downsampled/toy_8x8", source=tmp_path, data_dir=tmp_path)
    with pytest.raises(UserError, match=r"not prepared in .*: run `python cli.py data downsample"):
        datasets.open_dataset("downsampled/toy_8x8", "train", data_dir=tmp_path)
    for name in ("toy", "toy_8x9", "toy_0x0", "../x_8x8"):
        with pytest.raises(UserError, match="needs the name of a set and a size"):
            datasets.find_dataset(f"downsampled/{name}")
