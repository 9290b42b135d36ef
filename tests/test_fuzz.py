"""Whatever is read from disk or typed: it works, or is refused in one line, and runs no code."""

import copy
import io
import json
import os
import pickle
import shutil
import tomllib
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_imnet64.data import store as stores
from keras_imnet64.data.sources import archives, tiny_imagenet
from keras_imnet64.errors import UserError
from keras_imnet64.models.ship import load_model, model_info, ship
from keras_imnet64.recipe import check_recipe, list_recipes, load_recipe, recipes_dir
from keras_imnet64.runs import open_run
from keras_imnet64.training.build import check_training
from keras_imnet64.training.optim import OPTIMIZERS, SCHEDULES
from keras_imnet64.training.state import load_checkpoint, save_checkpoint

NUMBERS = st.integers(-(2**70), 2**70) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def fuzz(max_examples):
    """The same examples every time, so that a failure is the change's and not the day's."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def works_or_is_refused(action, *arguments):
    """What the action returns, or None where a UserError of one line refuses."""
    try:
        return action(*arguments)
    except UserError as error:
        message = str(error)
        assert message and message.isprintable() and len(message) < 1600, message
        return None


@st.composite
def damage(draw, content):
    """Bytes cut short, with some changed, or with a piece doubled or left out."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "double", "leave out", "insert"]))
        if kind == "flip" and content:
            content[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at:]
        elif kind == "double":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        elif kind == "leave out":
            del content[at : at + draw(st.integers(1, 64))]
        else:
            content[at:at] = draw(st.binary(max_size=8))
    return bytes(content)


def places(content, path=()):
    """The path of everything in nested dicts and lists."""
    yield path
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from places(value, (*path, key))


def put(content, path, value):
    """A copy of nested dicts and lists with another value at this path."""
    if not path:
        return value
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


@st.composite
def edited(draw, content, values=JSON):
    """Nested dicts and lists with another value somewhere, or a key more, or one less."""
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(content))))
        change = draw(st.sampled_from(["put", "put", "add", "remove"]))
        if change == "put" or not path:
            content = put(content, path, draw(values))
        elif change == "add":
            content = put(content, path, {draw(st.text(max_size=8)): draw(values)})
        else:
            content = copy.deepcopy(content)
            holder = content
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]
        if not isinstance(content, dict | list):
            break
    return content


class RunsCode:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# ------------------------------------------------------------------------------------------ stores

COUNT, SIZE = 7, 4


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), "uint8")
    path = tmp_path_factory.mktemp("packed") / "train"
    stores.write_store(
        path,
        [(images, np.arange(COUNT) % 3)],
        dataset="toy",
        split="train",
        count=COUNT,
        image_size=SIZE,
        wnids=["a", "b", "c"],
        class_names=["ant", "bee", "cat"],
        source="made by hand",
        verified=False,
    )
    return path


@pytest.fixture(scope="module")
def spare(tmp_path_factory):
    return tmp_path_factory.mktemp("spare")


def read_store(path):
    for in_memory in stores.IN_MEMORY:
        store = stores.open_store(path, in_memory)
        images, labels = store.gather([len(store) - 1, 0])
        assert images.dtype == np.uint8 and labels.min() >= 0 and labels.max() < len(store.wnids)
        for positions in (None, [0]):
            assert np.isfinite(stores.moments(store, positions).channel_std).all()


def copy_of(packed, spare, **files):
    """A copy of the store with other contents in some files."""
    path = spare / "train"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(packed, path)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def with_sizes(path):
    """Let meta.json state the sizes that the files have, as one who means harm would."""
    meta = json.loads((path / "meta.json").read_text())
    meta["bytes"] = {name: (path / name).stat().st_size for name in meta["bytes"]}
    (path / "meta.json").write_text(json.dumps(meta))
    return path


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "moments.npz", "meta.json"])
def test_a_store_with_a_damaged_file(name, packed, spare):
    @fuzz(60)
    @given(damage((packed / name).read_bytes()))
    def try_one(content):
        path = copy_of(packed, spare, **{name: content})
        works_or_is_refused(read_store, path)
        if name != "meta.json":
            works_or_is_refused(read_store, with_sizes(path))

    try_one()


def test_a_store_with_an_edited_meta(packed, spare):
    meta = json.loads((packed / "meta.json").read_text())

    @fuzz(250)
    @given(edited(meta))
    def try_one(content):
        path = copy_of(packed, spare, **{"meta.json": json.dumps(content).encode()})
        works_or_is_refused(read_store, path)

    try_one()


@pytest.mark.parametrize("content", [b"", b"[" * 10**5, b"9" * 5000, b"\xff\xfe", b"null", b"{}"])
def test_a_store_whose_meta_is_something_else(content, packed, spare):
    with pytest.raises(UserError, match=r"meta\.json"):
        stores.open_store(copy_of(packed, spare, **{"meta.json": content}))


def npy(array, **options):
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def npz(save=np.savez, **arrays):
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def zipped(members, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def announced(shape, descr="<i8", version=(1, 0)):
    """An npy file that is its header."""
    content = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    if version == (1, 0):
        np.lib.format.write_array_header_1_0(content, header)
    else:
        np.lib.format.write_array_header_2_0(content, header)
    return content.getvalue()


SUMS = dict(count=np.int64(COUNT), sums=np.ones((4, 4, 3), "i8"), squares=np.ones((4, 4, 3), "i8"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.npy", npy(np.array([0, 1, 2, 0, 1, 2, -1], "i4")), "other labels"),
        ("labels.npy", npy(np.array([0, 1, 2, 0, 1, 2, 2**31 - 1], "i4")), "other labels"),
        ("labels.npy", announced((10**15,), "<i4"), "cannot be read"),
        ("labels.npy", npz(a=np.zeros(3)), "cannot be read"),
        ("images.npy", npy(np.zeros((COUNT, 4, 4, 3), "u1", order="F")), "images.npy holds uint8"),
        ("images.npy", announced((-1, 4, 4, 3), "|u1"), "cannot be read"),
        ("moments.npz", npz(**SUMS | {"count": np.int64(3)}), "the sums of 7 pictures"),
        ("moments.npz", npz(**SUMS | {"count": np.arange(2)}), "a count and int64 sums"),
        ("moments.npz", npz(**SUMS | {"sums": np.ones((4, 4, 3))}), "a count and int64 sums"),
        ("moments.npz", npz(**SUMS | {"sums": -np.ones((4, 4, 3), "i8")}), "the sums of 7"),
        ("moments.npz", npz(count=np.int64(COUNT)), "sums.npy is missing"),
        ("moments.npz", zipped({"count.npy": announced((10**12,))}), "announced larger"),
        ("moments.npz", zipped({"count.npy": announced((1,), version=(2, 0))}), "version 1.0"),
    ],
)
def test_a_store_that_contradicts_itself(file, content, message, packed, spare):
    path = with_sizes(copy_of(packed, spare, **{file: content}))
    with pytest.raises(UserError) as refusal:
        stores.moments(stores.open_store(path))
    assert message in str(refusal.value) and "prepare the data again" in str(refusal.value)


def test_no_array_of_a_store_runs_code(packed, spare, tmp_path):
    harm = np.array([RunsCode(tmp_path / "marker")] * COUNT)
    for file, content in {
        "images.npy": npy(harm, allow_pickle=True),
        "labels.npy": pickle.dumps(harm[0]),
        "moments.npz": npz(**SUMS | {"sums": harm}),
    }.items():
        path = with_sizes(copy_of(packed, spare, **{file: content}))
        with pytest.raises(UserError):
            stores.moments(stores.open_store(path))
    assert not (tmp_path / "marker").exists()


# ---------------------------------------------------------------------------------------- archives

TRAIN, VALIDATION = "Imagenet8_train_npz.zip", "Imagenet8_val_npz.zip"
GOOD = dict(data=np.zeros((2, 192), "u1"), labels=np.array([1, 2]))


@pytest.fixture
def official(tmp_path):
    """A folder of archives in the official layout, and the check that reads them."""
    member = npz(**GOOD)
    (tmp_path / TRAIN).write_bytes(zipped({"train_data_batch_1.npz": member}, zipfile.ZIP_STORED))
    (tmp_path / VALIDATION).write_bytes(zipped({"val_data.npz": member}, zipfile.ZIP_STORED))
    return tmp_path


def check(folder):
    return archives.check_layout(folder, archives.archives_of(8), 8, 1000)


def test_damaged_archives(official):
    good = (official / VALIDATION).read_bytes()

    @fuzz(250)
    @given(damage(good))
    def try_one(content):
        (official / VALIDATION).write_bytes(content)
        works_or_is_refused(check, official)

    assert check(official)[1] == {"train": 2, "validation": 2}
    try_one()


def test_damaged_arrays_in_whole_archives(official):
    @fuzz(150)
    @given(damage(npz(**GOOD)), damage(npy(GOOD["data"])), damage(npy(GOOD["labels"])))
    def try_one(member, data, labels):
        for content in (member, zipped({"data.npy": data, "labels.npy": labels})):
            (official / VALIDATION).write_bytes(zipped({"val_data.npz": content}))
            works_or_is_refused(check, official)

    try_one()


def altered(content, **fields):
    """A zip with other values in its central directory's first entry."""
    content = bytearray(content)
    at = content.rindex(b"PK\1\2")
    for name, value in fields.items():
        offset, size = {"flags": (8, 2), "method": (10, 2), "size": (24, 4)}[name]
        content[at + offset : at + offset + size] = value.to_bytes(size, "little")
    return bytes(content)


def doubled_names():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("val_data.npz", npz(**GOOD))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("val_data.npz", npz(**GOOD))
    return content.getvalue()


def labelled(labels):
    return zipped({"val_data.npz": npz(**GOOD | {"labels": np.array(labels)})})


WHOLE = zipped({"val_data.npz": npz(**GOOD)})
BOMB = zipped({"val_data.npz": bytes(80 * 2**20)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (doubled_names(), "two members of the name"),
        (zipped({"../val_data.npz": b""}), "points outside it"),
        (zipped({"C:\\..\\val_data.npz": b""}), "points outside it"),
        (zipped({"/val_data.npz": b""}), "points outside it"),
        (altered(WHOLE, flags=1), "is encrypted"),
        (altered(WHOLE, method=14), "method other than deflate"),
        (altered(WHOLE, method=99), "method other than deflate"),
        (BOMB, "would grow from"),
        (altered(WHOLE, size=2**32 - 2), "would grow from"),
        (zipped({"val_data.npz": zipped({"data.npy": bytes(80 * 2**20)})}), "would grow from"),
        (zipped({"val_data.npz": WHOLE}), "data.npy is missing"),
        (
            zipped({"val_data.npz": zipped({"data.npy": announced((10**7, 192), "|u1")})}),
            "announced larger",
        ),
        (labelled([[1], [2]]), "list of labels"),
        (labelled(1), "list of labels"),
        (labelled([1, 5000]), "1..5000"),
        (labelled([-(2**63), 2]), "1..1000"),
    ],
)
def test_archives_that_mean_harm(official, content, message):
    (official / VALIDATION).write_bytes(content)
    with pytest.raises(UserError) as refusal:
        check(official)
    assert message in str(refusal.value) and VALIDATION in str(refusal.value)


def test_no_array_of_an_archive_runs_code(official, tmp_path):
    harm = np.array([RunsCode(tmp_path / "marker")] * 2)
    arrays = [npz(**GOOD | {"labels": harm}), npz(**GOOD | {"data": harm})]
    for member in (*arrays, pickle.dumps(harm)):
        (official / VALIDATION).write_bytes(zipped({"val_data.npz": member}))
        with pytest.raises(UserError):
            check(official)
    assert not (tmp_path / "marker").exists()


def jpeg(size=(64, 64)):
    content = io.BytesIO()
    Image.new("RGB", size).save(content, "JPEG")
    return content.getvalue()


def tiny_layout():
    return {
        "wnids.txt": b"n01443537\n",
        "words.txt": b"n01443537\tgoldfish\n",
        "val/val_annotations.txt": b"val_0.JPEG\tn01443537\t0\t0\t63\t63\n",
        "val/images/val_0.JPEG": jpeg(),
        "train/n01443537/images/n01443537_0.JPEG": jpeg(),
    }


def read_tiny(path):
    with tiny_imagenet.open_tree(path) as tree:
        listing = tiny_imagenet.read_listing(tree)
        for split in ("train", "validation"):
            for images, _ in tiny_imagenet.read(tree, listing.files[split], listing.labels[split]):
                assert images.shape[1:] == (64, 64, 3)


def test_damaged_tiny_zips(tmp_path):
    good = zipped(tiny_layout())

    @fuzz(200)
    @given(damage(good))
    def try_one(content):
        (tmp_path / "tiny.zip").write_bytes(content)
        works_or_is_refused(read_tiny, tmp_path / "tiny.zip")

    try_one()


def test_tiny_zips_with_damaged_members(tmp_path):
    layout = tiny_layout()

    @fuzz(200)
    @given(st.sampled_from(list(layout)), st.data())
    def try_one(name, data):
        changed = {name: data.draw(damage(layout[name]))}
        (tmp_path / "tiny.zip").write_bytes(zipped(layout | changed))
        works_or_is_refused(read_tiny, tmp_path / "tiny.zip")

    try_one()


@pytest.mark.parametrize("size", [(30_000, 30_000), (65_000, 2)])
def test_a_picture_is_judged_before_it_is_decoded(size, tmp_path, monkeypatch):
    """A file of a few hundred bytes that says so in its header."""
    small = bytearray(jpeg((16, 16)))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
    name = "train/n01443537/images/n01443537_0.JPEG"
    path = tmp_path / "tiny.zip"
    path.write_bytes(zipped(tiny_layout() | {name: bytes(small)}))
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(UserError, match=r"n01443537_0\.JPEG is "):
        read_tiny(path)


# ------------------------------------------------------------------------------------- model files

SMALL = st.none() | st.booleans() | st.integers(-300, 300) | st.floats() | st.text(max_size=12)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """{name: bytes} of a small shipped model."""
    import keras

    path = tmp_path_factory.mktemp("model") / "model.keras"
    layers = [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    info = {"wnids": ["a", "b"], "class_names": ["ant", "bee"], "image_size": 4, "recipe": {}}
    ship(keras.Sequential(layers), path, info)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read_model(path):
    works_or_is_refused(load_model, path)
    info = works_or_is_refused(model_info, path)
    assert info is None or isinstance(info, dict)


def test_damaged_model_files(members, tmp_path):
    @fuzz(120)
    @given(damage(zipped(members, zipfile.ZIP_STORED)))
    def try_one(content):
        (tmp_path / "model.keras").write_bytes(content)
        read_model(tmp_path / "model.keras")

    try_one()


def test_a_model_file_cut_short_anywhere(members, tmp_path):
    whole = zipped(members)
    for length in range(0, len(whole), 97):
        (tmp_path / "model.keras").write_bytes(whole[:length])
        for read in (load_model, model_info):
            with pytest.raises(UserError, match=r"model\.keras"):
                read(tmp_path / "model.keras")


@pytest.mark.parametrize("name", ["config.json", "imnet64.json"])
def test_model_files_with_edited_json(name, members, tmp_path):
    content = json.loads(members[name])

    @fuzz(120)
    @given(edited(content, SMALL if name == "config.json" else JSON))
    def try_one(changed):
        changed = {name: json.dumps(changed).encode()}
        (tmp_path / "model.keras").write_bytes(zipped(members | changed))
        read_model(tmp_path / "model.keras")

    try_one()


def test_model_files_with_damaged_weights(members, tmp_path):
    @fuzz(80)
    @given(damage(members["model.weights.h5"]))
    def try_one(weights):
        (tmp_path / "model.keras").write_bytes(zipped(members | {"model.weights.h5": weights}))
        read_model(tmp_path / "model.keras")

    try_one()


def layer(name, module="keras.layers", /, **config):
    return {"class_name": name, "module": module, "config": config, "registered_name": None}


def sequential(*layers):
    first = layer("InputLayer", batch_shape=[None, 4], dtype="float32", name="input")
    return json.dumps(layer("Sequential", "keras", name="s", layers=[first, *layers])).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.json": None}, "it has no config.json"),
        ({"config.json": b"\xff{"}, "cannot be loaded as a Keras model"),
        ({"config.json": b"{}"}, "cannot be loaded as a Keras model"),
        ({"config.json": b"[" * 100_000}, "nested too deeply"),
        ({"config.json": b'{"a":' * 500 + b"1" + b"}" * 500}, "nested too deeply"),
        ({"config.json": b" " * 2**24 + b"{}"}, "more than 16,777,216"),
        ({"config.json": sequential(layer("Swin", "foo.layers"))}, "needs the package foo"),
        ({"config.json": sequential(layer("Lambda"))}, "has a Lambda layer"),
        ({"config.json": sequential(layer("TFSMLayer"))}, "has a TFSMLayer layer"),
        ({"config.json": sequential(layer("TorchModuleWrapper"))}, "TorchModuleWrapper layer"),
        ({"config.json": sequential(layer("system", "os"))}, "needs the package os"),
        ({"config.json": sequential(layer("Dense", units=3, name="d\x1b[2J"))}, r"d\x1b[2J"),
        ({"config.json": json.dumps(layer("Dense", units=3)).encode()}, "is not a model"),
        ({"model.weights.h5": None}, "cannot be loaded as a Keras model"),
        ({"model.weights.h5": b""}, "cannot be loaded as a Keras model"),
        ({"model.weights.h5": bytes(80 * 2**20)}, "would grow from"),
    ],
)
def test_model_files_that_are_refused(change, message, members, tmp_path):
    content = {name: content for name, content in (members | change).items() if content is not None}
    path = tmp_path / "model.keras"
    path.write_bytes(zipped(content))
    with pytest.raises(UserError) as refusal:
        load_model(path)
    assert message in str(refusal.value) and str(refusal.value).startswith(str(path))
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 300 + len(str(path))


def test_what_is_no_model_file(members, tmp_path):
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "legacy.keras").write_bytes(members["model.weights.h5"])
    (tmp_path / "model.h5").write_bytes(members["model.weights.h5"])
    os.mkfifo(tmp_path / "pipe.keras")
    for name in ("folder.keras", "legacy.keras", "model.h5", "pipe.keras", "nowhere.keras"):
        with pytest.raises(UserError, match=name):
            load_model(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is not a .keras file"):
            model_info(tmp_path / name)


@pytest.mark.parametrize(
    "info", [[], None, {"wnids": "ab"}, {"wnids": [1]}, {"class_names": None}, {"dataset": ["x"]}]
)
def test_a_model_file_that_says_nonsense_about_itself(info, members, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(zipped(members | {"imnet64.json": json.dumps(info).encode()}))
    with pytest.raises(UserError, match=r"model\.keras is not a \.keras file"):
        model_info(path)


def test_no_layer_of_a_model_file_runs_code(members, tmp_path):
    import keras

    marker = tmp_path / "marker"
    code = keras.layers.Lambda(lambda x, make=os.mkdir, path=str(marker): make(path) or x)
    harm = [
        sequential(keras.saving.serialize_keras_object(code)),
        sequential(layer("mkdir", "os", path=str(marker))),
        sequential(layer("function", "os") | {"config": "mkdir", "registered_name": "mkdir"}),
        sequential(layer("Activation", activation=f"__import__('os').mkdir('{marker}')")),
    ]
    for config in harm:
        path = tmp_path / "model.keras"
        path.write_bytes(zipped(members | {"config.json": config}))
        with pytest.raises(UserError):
            load_model(path)
    assert not marker.exists()


# ----------------------------------------------------------------------------------------- recipes

TOML = st.recursive(
    st.booleans() | NUMBERS | st.text(max_size=12) | st.dates() | st.datetimes() | st.times(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
WORDS = st.sampled_from(["sgd", "adamw", "muon", "step", "cosine", "one_cycle", "plateau", "", "a"])
VALUES = TOML | WORDS | st.floats(-2, 2) | st.lists(NUMBERS | st.text(max_size=3), max_size=3)


def shipped(name):
    return (recipes_dir() / f"{name}.toml").read_bytes()


def as_trained(recipe):
    """Whether what the recipe says can be trained, and is what its run folder will say."""
    if recipe:
        works_or_is_refused(check_training, recipe)
        again = tomllib.loads(recipe.to_toml())
        assert check_recipe(again) == recipe


def test_recipes_of_any_bytes(tmp_path):
    path = tmp_path / "mine.toml"

    @fuzz(150)
    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | damage(shipped("demo")))
    def try_one(content):
        path.write_bytes(content)
        as_trained(works_or_is_refused(load_recipe, path))

    try_one()


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_with_any_value_anywhere(name):
    content = tomllib.loads(shipped(name).decode()) | {"name": name}

    @fuzz(100)
    @given(edited(content, VALUES))
    def try_one(changed):
        if isinstance(changed, dict):
            as_trained(works_or_is_refused(check_recipe, changed))

    try_one()


OPTIONS = [
    *[("optimizer", name, option) for name, row in OPTIMIZERS.items() for option in row.options],
    *[("schedule", name, option) for name, row in SCHEDULES.items() for option in row.options],
    *[("optimizer", "sgd", key) for key in ("learning_rate", "weight_decay", "clip_norm")],
    ("schedule", "cosine", "warmup_epochs"),
]


def test_options_of_any_value():
    content = tomllib.loads(shipped("demo").decode()) | {"name": "demo"}

    @fuzz(400)
    @given(st.sampled_from(OPTIONS), VALUES)
    def try_one(option, value):
        table, name, key = option
        others = {"learning_rate": 0.1} if table == "optimizer" else {}
        changed = content | {table: others | {"name": name, key: value}}
        as_trained(works_or_is_refused(check_recipe, changed))

    try_one()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\x01\x01\x00\xff", "cannot be read as TOML"),
        (b"a." * 100_000 + b"a = 1", "a key has more than 16 parts"),
        (b'"\\""."a b".' * 1000 + b"a = 1", "a key has more than 16 parts"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"[" * 50 + b"]" * 50, "at most 16 tables"),
        (b"a = " + b"9" * 5000, "cannot be read as TOML"),
        (b"train.seed = 0x" + b"f" * 5000, "train.seed must be a number of at most 63 bits"),
        (b"train.seed = 9_223_372_036_854_775_808", "at most 63 bits"),
        (b"optimizer.momentum = [nan]", "optimizer.momentum must be a finite number"),
        (b"optimizer.momentum = 1979-05-27", "optimizer.momentum must be a number, text, list"),
        (b"#" + b" " * 2**20, "more than 1,048,576"),
    ],
)
def test_recipes_that_are_refused(content, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        load_recipe(path)
    assert message in str(refusal.value) and "mine" in str(refusal.value)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 1600


def test_what_is_no_file_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for path in (tmp_path / "pipe.toml", tmp_path / "folder.toml", "/dev/zero", "~nobody/a.toml"):
        with pytest.raises(UserError, match=r"is not a (regular )?file|is not known"):
            load_recipe(path)
    for path in ("a\0/b.toml", "/" + "x" * 300 + ".toml", "", "."):
        works_or_is_refused(load_recipe, path)


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "demo.toml").write_bytes(b"\xef\xbb\xbf" + shipped("demo"))
    assert load_recipe(tmp_path / "demo.toml") == load_recipe("demo")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-rf", " a", "a/b", "a\\b", "a\nb", "a\0", "\udcff", "x" * 101],
)
def test_names_that_are_no_folders(name):
    content = tomllib.loads(shipped("demo").decode()) | {"name": name}
    with pytest.raises(UserError, match="name must be"):
        check_recipe(content)


def test_overrides_of_any_text():
    keys = st.sampled_from(["train", "train.epochs", "augment", "model.normalization", "name", "x"])
    lines = st.text(max_size=30) | st.builds("{}={}".format, keys, st.text(max_size=12))

    @fuzz(400)
    @given(st.lists(lines, min_size=1, max_size=2))
    def try_one(overrides):
        as_trained(works_or_is_refused(load_recipe, "demo", overrides))

    try_one()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train.epochs", "--set takes key=value"),
        ("=1", "--set takes key=value"),
        ("a..b=1", "--set takes key=value"),
        ("[train]=1", "--set takes key=value"),
        ("train.epochs=1\rtrain.seed=2", "--set takes key=value"),
        ("train.epochs=1\ntrain.seed=2", "--set takes key=value"),
        ("train.seed # x = 1", "--set takes key=value"),
        ("a." * 1000 + "b=1", "--set takes key=value"),
        ("a=" + "[" * 10_000, "--set takes key=value"),
        ("train=3", "train must be a table; received 3"),
        ("train.epochs.x=3", "train.epochs must be a whole number"),
        ("augment.padding=3", "augment must be a list"),
        ("augment=[3]", "augment.0 must be a table"),
        ("train.epochs=2_000_000_000", "train.epochs must be less than or equal to 1000000000"),
        ("schedule.name='step'", "epochs must be an increasing list; received []"),
        ("train.epochs='\udcff'", "train.epochs must be text in UTF-8"),
        ("model.name='os.system'", 'model.name "os.system" is not known'),
        ("optimizer.system='mkdir x'", 'has no option "system"'),
    ],
)
def test_overrides_that_are_refused(line, message):
    with pytest.raises(UserError) as refusal:
        check_training(load_recipe("demo", [line]))
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 1600


def test_an_override_may_end_in_a_comment_or_be_a_table():
    assert load_recipe("demo", ["train.epochs=2 # quick"]).train.epochs == 2
    assert load_recipe("demo", ["train={epochs=2}"]).train.epochs == 2


# ------------------------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    state = {"model/kernel": np.arange(6, dtype="float32").reshape(2, 3), "step": np.int64(7)}
    return save_checkpoint(tmp_path_factory.mktemp("run"), state, {"epoch": 1, "step": 0})


def test_damaged_checkpoints(checkpoint, tmp_path):
    """Not one bit may differ: weights that are nearly right would train on."""
    path, whole = tmp_path / checkpoint.name, checkpoint.read_bytes()

    @fuzz(300)
    @given(damage(whole))
    def try_one(content):
        path.write_bytes(content)
        loaded = works_or_is_refused(load_checkpoint, path)
        if loaded is not None:
            state, progress = loaded
            assert progress == {"epoch": 1, "step": 0} and state["step"] == 7
            assert state["model/kernel"].ravel().tolist() == [0, 1, 2, 3, 4, 5]

    try_one()


@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "recipe.toml", "history.csv"])
def test_damaged_files_of_a_run(name, tmp_path):
    score = {"top1": 1.0}
    contents = {
        "metrics.json": json.dumps({"model.keras": score, "best.keras": score}).encode(),
        "environment.json": json.dumps(
            {"dataset": "toy", "digest": {"train": "a", "validation": "b"}, "processes": []}
        ).encode(),
        "recipe.toml": load_recipe("demo").to_toml().encode(),
        "history.csv": b"epoch,loss\n1,0.5\n",
    }
    read = {
        "metrics.json": lambda run: run.metrics["model.keras"],
        "environment.json": lambda run: run.environment["digest"]["train"],
        "recipe.toml": lambda run: load_recipe(run.recipe_file),
        "history.csv": lambda run: run.history,
    }[name]
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)

    @fuzz(80)
    @given(damage(contents[name]))
    def try_one(content):
        (tmp_path / name).write_bytes(content)
        works_or_is_refused(read, open_run(tmp_path))

    assert read(open_run(tmp_path))
    try_one()
