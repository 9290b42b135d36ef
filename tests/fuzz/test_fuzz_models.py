"""Model and weight files, damaged or hostile: each works or is refused, and runs no code."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from fuzzing import JSON, damage, edited, fuzz, works_or_is_refused, zipped
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from keras_imnet64.convert.namings import FLOAT_DTYPES
from keras_imnet64.convert.prefixes import Landmarks, find_network
from keras_imnet64.convert.tensor_files import StoredTensor, read_tensors
from keras_imnet64.core.errors import UserError, printable
from keras_imnet64.core.zips import MAX_TEXT_BYTES
from keras_imnet64.models.info import model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import write_model_file

SMALL = st.none() | st.booleans() | st.integers(-300, 300) | st.floats() | st.text(max_size=12)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """{name: bytes} of a small shipped model."""
    import keras

    path = tmp_path_factory.mktemp("model") / "model.keras"
    layers = [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    info = {"wnids": ["a", "b"], "class_names": ["ant", "bee"], "image_size": 4, "recipe": {}}
    write_model_file(keras.Sequential(layers), path, info)
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

    @fuzz(60)
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
        ({"config.json": b" " * MAX_TEXT_BYTES + b"{}"}, "more than 50,331,648"),
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
    assert printable(refusal.value) == str(refusal.value) and len(str(refusal.value)) < 300 + len(
        str(path)
    )


def test_other_files_than_models_are_refused(members, tmp_path):
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
    "info", [[], None, {"wnids": "ab"}, {"wnids": [1]}, {"class_names": "ab"}, {"dataset": ["x"]}]
)
def test_a_model_file_with_wrong_info_is_refused(info, members, tmp_path):
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


# ----------------------------------------------------------------------------------------- weights

LANDMARKS = Landmarks("conv1.weight", ["fc.weight"])
WEIGHTS = {f"model.{name}": np.ones((2, 3), "float32") for name in ("conv1.weight", "fc.weight")}
WEIGHTS |= {"n_averaged": np.array(3), "criterion.weight": np.ones(2, "float16")}


def read_weights(path):
    states = works_or_is_refused(read_tensors, path)
    found = states and works_or_is_refused(find_network, states, LANDMARKS, None, path)
    for tensor in found.tensors.values() if found else ():
        assert tensor.dtype not in FLOAT_DTYPES or np.asarray(tensor).shape == tensor.shape


def test_damaged_safetensors(tmp_path):
    @fuzz(200)
    @given(damage(save(WEIGHTS)))
    def try_one(content):
        (tmp_path / "weights").write_bytes(content)
        read_weights(tmp_path / "weights")

    try_one()


def test_safetensors_with_an_edited_header(tmp_path):
    content = save(WEIGHTS)
    length = int.from_bytes(content[:8], "little")

    @fuzz(200)
    @given(edited(json.loads(content[8 : 8 + length]), JSON))
    def try_one(header):
        text = json.dumps(header).encode()
        changed = len(text).to_bytes(8, "little") + text + content[8 + length :]
        (tmp_path / "weights").write_bytes(changed)
        read_weights(tmp_path / "weights")

    try_one()


@pytest.mark.parametrize("as_zip", [True, False])
def test_damaged_files_of_torch(as_zip, tmp_path):
    torch = pytest.importorskip("torch")
    whole = io.BytesIO()
    state = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    torch.save({"state_dict": state, "epoch": 3}, whole, _use_new_zipfile_serialization=as_zip)

    @fuzz(200)
    @given(damage(whole.getvalue()))
    def try_one(content):
        (tmp_path / "weights").write_bytes(content)
        read_weights(tmp_path / "weights")

    try_one()


def test_files_of_torch_with_a_damaged_pickle(tmp_path):
    torch = pytest.importorskip("torch")
    whole = io.BytesIO()
    state = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    torch.save({"state_dict": state, "args": {"a": {1, 2}}}, whole)
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))

    @fuzz(200)
    @given(damage(members[pickled]))
    def try_one(content):
        changed = zipped(members | {pickled: content}, zipfile.ZIP_STORED)
        (tmp_path / "weights").write_bytes(changed)
        read_weights(tmp_path / "weights")

    try_one()


PIECES = st.sampled_from(["conv1.weight", "fc.weight", "fc", "", ".", "ema", "model", "\x1b[2J"])
NAMES = st.lists(PIECES, max_size=4).map(".".join) | st.text(max_size=8)


def test_tensors_of_any_names():
    tensor = StoredTensor((1,), "float32", lambda: np.ones(1))
    states = st.dictionaries(NAMES, st.dictionaries(NAMES, st.just(tensor), max_size=6), max_size=3)

    @fuzz(300)
    @given(states, st.none() | NAMES)
    def try_one(states, prefix):
        found = works_or_is_refused(find_network, states, LANDMARKS, prefix, "weights")
        assert not found or "fc.weight" in found.tensors

    try_one()
