"""The table of data sets: names, messages, and what `info` states before anything is prepared."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from class_folders import indexed, write_folders
from three_classes import (
    TRAIN,
    TRAIN_LABELS,
    VALIDATION,
    VALIDATION_LABELS,
    WNIDS,
    expect_three_classes,
    write_tiny,
)
from toy_store import random_images, write
from write_forms import write_parquet

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.paths import default_data_dir
from keras_imnet64.data import datasets


@pytest.fixture
def packed(tmp_path):
    return write(tmp_path / "train", *random_images()).path


def test_the_table_has_the_documented_data_sets():
    assert list(datasets.DATASETS) == [
        "imagenet_resized/64x64",
        "imagenet_resized/32x32",
        "imagenet_resized/16x16",
        "imagenet_resized/8x8",
        "shapes",
        "tiny_imagenet",
        "imagenet2012",
        "imagenet21k",
        "image_folder",
    ]


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_data_set_is_described_before_it_is_prepared(name, tmp_path):
    row = datasets.find_dataset(name)
    assert set(row.splits) == {"train", "validation"} and row.description.endswith(".")
    report = json.loads(json.dumps(datasets.info(name, data_dir=tmp_path)))
    assert report["name"] == name and report["classes"] == row.num_classes
    assert report["splits"] == row.splits and report["image_size"] == row.image_size
    assert report["state"] == "not prepared" and report["verified"] is None
    assert report["digest"] == {} and report["store_bytes"] == report["tfds_bytes"] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [n for n, d in datasets.DATASETS.items() if not d.embedded])
def test_opening_an_unprepared_data_set_names_the_command(name, tmp_path):
    with pytest.raises(UserError, match=f"`python cli.py data prepare {name} --source "):
        datasets.open_dataset(name, "train", data_dir=tmp_path)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r'"imagenet_resized/46x46": did you mean "imagenet_resi'):
        datasets.find_dataset("imagenet_resized/46x46")
    with pytest.raises(UserError, match=r'does not end in -unverified; received "pets-unverified"'):
        datasets.find_dataset("image_folder/pets-unverified")  # where unverified pets would lie
    with pytest.raises(UserError, match=r'no split "val": .*validation'):
        datasets.open_dataset("shapes", "val")


def test_options_that_contradict_the_set_are_refused(tmp_path):
    with pytest.raises(UserError, match="takes no --source"):
        datasets.prepare("shapes", source=tmp_path, data_dir=tmp_path)
    with pytest.raises(UserError, match="needs --source"):
        datasets.prepare("imagenet_resized/8x8", allow_unverified=True, data_dir=tmp_path)
    with pytest.raises(UserError, match="made from another data set: leave out --skip-corrupt"):
        datasets.prepare("downsampled/toy_8x8", skip_corrupt=True, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("image_folder/toy", {"validation_share": 0.5}),
        ("image_folder/toy", {"splits": "none"}),
        ("image_folder/toy", {"skip_corrupt": True}),
        ("imagenet21k", {"class_list": "classes.txt"}),
        ("tiny_imagenet", {"skip_corrupt": True}),
    ],
    ids=str,
)
def test_options_about_images_need_a_source_even_where_the_set_is_prepared(name, options, tmp_path):
    indexed(tmp_path)
    (option,) = options
    with pytest.raises(UserError, match=f"^--{option.replace('_', '-')} needs --source, the image"):
        datasets.prepare(name, data_dir=tmp_path / "data", **options)
    assert len(datasets.prepare("image_folder/toy", data_dir=tmp_path / "data")) == 2


def test_imagenet_is_looked_for_whatever_is_skipped(tmp_path):
    with pytest.raises(UserError, match="imagenet2012 is read from"):
        datasets.prepare("imagenet2012", skip_corrupt=True, data_dir=tmp_path)


def test_a_set_that_is_only_for_scoring_says_what_it_is_for(tmp_path):
    root = write_folders(tmp_path / "pictures")
    name, data_dir = "image_folder/toy", tmp_path / "data"
    datasets.prepare(name, source=root, data_dir=data_dir, validation_share=1)
    with pytest.raises(UserError) as refusal:
        datasets.open_dataset(name, "train", data_dir=data_dir)
    assert str(refusal.value) == (
        "image_folder/toy has no images of train, for all of them are for validation: score "
        "models on it with `python cli.py evaluate MODEL --dataset image_folder/toy`, and train on "
        "another data set"
    )


@pytest.fixture
def verified_tiny(tmp_path, monkeypatch):
    """The location of a verified Tiny ImageNet, of three classes while it was prepared."""
    with monkeypatch.context() as patch:
        expect_three_classes(patch)
        source = write_tiny(tmp_path / "source")
        stores = datasets.prepare("tiny_imagenet", source=source, data_dir=tmp_path / "data")
    assert stores["train"].verified
    return stores["train"].path.parent


def described(run, *words):
    """Returns what a command has printed as JSON, and the notes of it about precedence."""
    status, out, err = run("data", *words, "--json")
    assert status == 0, err
    return json.loads(out), [line for line in err.splitlines() if "precedence" in line]


@pytest.mark.parametrize("cache", [(), ("--cache-dir",)])
def test_prepare_describes_what_it_has_made_beside_a_verified_set(
    cache, verified_tiny, tmp_path, run
):
    words = ["tiny_imagenet", "--data-dir", tmp_path / "data"]
    words += [*cache, tmp_path / "data"] if cache else []
    command = ("prepare", *words, "--source", tmp_path / "source", "--allow-unverified")
    made, notes = described(run, *command)
    assert (made["verified"], made["state"]) == (False, "packed")
    assert made["location"] == f"{verified_tiny}-unverified"
    assert made["splits"] == {"train": 6, "validation": 3}
    folders = "other folders (--data-dir and --cache-dir)" if cache else "another --data-dir"
    assert notes == [
        f"note: the verified tiny_imagenet in {verified_tiny} takes precedence in all other "
        "commands: to use unverified images, move it away, or prepare them in " + folders
    ]
    used, notes = described(run, "info", *words)
    assert (used["verified"], used["location"], notes) == (True, str(verified_tiny), [])
    verified_tiny.rename(tmp_path / "away")
    assert described(run, *command) == (made, [])
    assert described(run, "info", *words)[0] == {k: v for k, v in made.items() if k != "skipped"}


def test_a_published_set_without_its_damaged_images_is_described(
    verified_tiny, tmp_path, run, monkeypatch
):
    expect_three_classes(monkeypatch)
    contents = [b"no image", *TRAIN[1:]]
    write_parquet(tmp_path / "damaged", "train", contents, TRAIN_LABELS, WNIDS)
    write_parquet(tmp_path / "damaged", "valid", VALIDATION, VALIDATION_LABELS, WNIDS)
    words = ("tiny_imagenet", "--data-dir", tmp_path / "data", "--source", tmp_path / "damaged")
    made, notes = described(run, "prepare", *words, "--skip-corrupt")
    assert made["verified"] is False and made["splits"] == {"train": 5, "validation": 3}
    assert len(notes) == len(made["skipped"]) == 1


def test_data_dir_follows_tfds(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere")
    assert default_data_dir() == Path("/elsewhere")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert default_data_dir() == Path.home() / "tensorflow_datasets"


def test_room_for_imagenet64_is_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 9}))
    with pytest.raises(UserError, match=r"imagenet_resized/64x64 .* needs [\d,]+ bytes .* 9 are"):
        datasets.prepare("imagenet_resized/64x64", source=tmp_path, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()


PREPARE = """
import sys, time
from pathlib import Path
from toy_store import random_images, write
from keras_imnet64.data import datasets

folder = Path(sys.argv[1])

def make_stores(request):
    with open(folder / "made.txt", "a") as file:
        file.write("made ")
    while not (folder / "waited for").exists():
        time.sleep(0.05)
    for split in ("train", "validation"):
        write(request.verified.folder(split), *random_images())
    return request.verified.open()

datasets.make_stores = make_stores
if sys.argv[2] == "fit":
    print(len(datasets.open_dataset("tiny_imagenet", "train", data_dir=folder)))
else:
    print(len(datasets.prepare("tiny_imagenet", data_dir=folder, source=sys.argv[2])["train"]))
"""


@pytest.mark.parametrize(
    ("other", "times"), [pytest.param("a.zip", 1, marks=pytest.mark.slow), ("b.zip", 2), ("fit", 1)]
)
def test_one_process_prepares_and_the_others_wait(other, times, tmp_path):
    """Another source is prepared afterwards; `fit` takes what is there."""

    def start(what, log):
        paths = [Path(__file__).parents[1], Path(__file__).parents[2]]
        with open(tmp_path / log, "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", PREPARE, tmp_path, what],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def wait_until(is_true, process):
        deadline = time.monotonic() + 60
        while not is_true():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    first = start("a.zip", "first.log")
    wait_until((tmp_path / "made.txt").exists, first)
    second, said = start(other, "second.log"), tmp_path / "second.log"
    waits = rf"waiting for process {first.pid} on \S+, which is preparing tiny_imagenet"
    wait_until(lambda: re.search(waits, said.read_text()), second)
    (tmp_path / "waited for").touch()
    assert [process.communicate(timeout=60)[0] for process in (first, second)] == ["11\n"] * 2
    assert (tmp_path / "made.txt").read_text() == "made " * times
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("place", ["shapes", "shapes-unverified"])
def test_a_data_set_with_one_split_is_half_there(packed, tmp_path, place):
    (tmp_path / "packed" / place).mkdir(parents=True)
    packed.rename(tmp_path / "packed" / place / "train")
    report = datasets.info("shapes", data_dir=tmp_path)
    assert (report["state"], report["verified"], report["digest"]) == ("half there", None, {})
    assert report["location"] == str(tmp_path / "packed" / place)
    files = (tmp_path / "packed" / place / "train").iterdir()
    assert report["store_bytes"] == sum(file.stat().st_size for file in files) > 0


def test_the_table_is_read_without_heavy_imports():
    code = (
        "import sys, keras_imnet64.data.datasets as d; d.info('imagenet_resized/64x64');"
        "print(sorted({'tensorflow', 'tensorflow_datasets', 'keras', 'jax'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
