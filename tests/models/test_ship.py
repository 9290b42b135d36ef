"""Our model files are plain Keras: they load on every backend, without this package."""

import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import WNIDS

from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.info import model_info
from keras_imnet64.models.init import initialize
from keras_imnet64.models.load import load_model
from keras_imnet64.models.paths import SEED_STATE, by_path
from keras_imnet64.models.ship import LOWEST_KERAS, fill, float32_copy, ship
from keras_imnet64.models.warm_start import warm_start
from keras_imnet64.records import ModelInfo
from keras_imnet64.training.fit import fit

CHILD = Path(__file__).with_name("load_plainly.py")


def load_plainly(backend, inputs, paths, environment=None):
    """Returns what a process without this package computes under `backend`."""
    child = subprocess.run(
        [sys.executable, CHILD, inputs, *paths],
        env=os.environ | {"KERAS_BACKEND": backend} | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-5000:]
    return json.loads(child.stdout.splitlines()[-1])


TENSORFLOW = pytest.param("tensorflow", marks=pytest.mark.slow)  # `test_export` has it


@pytest.mark.parametrize("backend", [TENSORFLOW, "jax"])
def test_a_process_without_this_package_computes_the_same_logits(
    backend, small_recipe, data_dir, tmp_path
):
    """The file of a bfloat16 run, fed uint8 and floats."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), "uint8")
    np.savez(tmp_path / "inputs.npz", pixels=pixels)
    train = {"dtype": "mixed_bfloat16", "epochs": 1}
    recipe = small_recipe(model={"normalization": "mean_image"}, train=train)
    path = str(fit(recipe, tmp_path / "run", data_dir=data_dir).model)
    logits = load_model(path).predict(pixels, verbose=0)
    found = load_plainly(backend, tmp_path / "inputs.npz", [path])["logits"]
    for output in found[path]:
        np.testing.assert_allclose(output, logits, rtol=0, atol=1e-5 * abs(logits).max())


def test_a_file_is_made_of_keras_own_layers_in_float32(tmp_path):
    model = wrn(dtype="mixed_bfloat16")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    plain = float32_copy(model)
    fill(plain, model)
    ship(plain, tmp_path / "model.keras", ModelInfo(wnids=("n1",)))
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert "keras_imnet64" not in config
    assert "bfloat16" not in config
    assert '"synchronized": true' not in config
    assert "Lambda" not in config
    modules = {layer["module"] for layer in json.loads(config)["config"]["layers"]}
    assert modules == {"keras.layers"}
    assert model_info(tmp_path / "model.keras") == {"wnids": ["n1"]}


def test_the_plain_model_computes_what_the_training_model_does():
    """Each variable has numbers that it does not begin with: moving statistics too."""
    model = wrn(dropout=0.5)
    rng = np.random.default_rng(0)
    for variable in by_path(model).values():
        if variable.name != SEED_STATE:
            variable.assign(rng.uniform(0.1, 0.2, variable.shape))
    plain = float32_copy(model)
    fill(plain, model)
    pixels = rng.integers(0, 256, (4, 16, 16, 3), "uint8")
    np.testing.assert_array_equal(
        plain.predict(pixels, verbose=0), model.predict(pixels, verbose=0)
    )


def test_averages_replace_weights():
    model = wrn()
    initialize(model, 0)
    plain = float32_copy(model)
    bias = model.get_layer("logits").bias
    fill(plain, model, {"logits/bias": np.full(bias.shape, 3.0, "float32")})
    np.testing.assert_array_equal(plain.get_layer("logits").get_weights()[1], 3.0)
    np.testing.assert_array_equal(
        plain.get_layer("stem_conv").get_weights()[0], model.get_layer("stem_conv").get_weights()[0]
    )


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    ship(wrn(), path, ModelInfo())
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ship(wrn(), path, ModelInfo())
    assert path.read_bytes() == before


OF_EACH_FAMILY = {  # options that bring in every kind of layer of the family
    "wide_resnet": {"depth": 10, "width": 0.5, "dropout": 0.1},
    "resnet18": {"stem": "small_pool", "anti_aliasing": True, "drop_path_rate": 0.1},
    "davit_tiny": {"window": 7, "drop_path_rate": 0.1},
    "alexnet": {},
    "vgg16_bn": {},
    "tiny_cnn1": {},
    "tiny_cnn2": {},
}


@pytest.mark.slow
def test_the_lowest_stated_version_of_keras_loads_our_files(tmp_path):
    """Needs a package index: installs that version in a folder of its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    np.savez(tmp_path / "inputs.npz", pixels=pixels)
    expected = {}
    for name, options in OF_EACH_FAMILY.items():
        model = build_model(name, image_size=32, num_classes=10, **options)
        initialize(model, 0)
        plain = float32_copy(model)
        fill(plain, model)
        ship(plain, tmp_path / f"{name}.keras", ModelInfo())
        expected[str(tmp_path / f"{name}.keras")] = plain.predict(pixels, verbose=0)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site]
    subprocess.run([*install, f"keras=={LOWEST_KERAS}"], check=True)
    found = load_plainly(
        "tensorflow", tmp_path / "inputs.npz", list(expected), {"PYTHONPATH": str(site)}
    )
    assert found["keras"] == LOWEST_KERAS
    for path, logits in expected.items():
        for output in found["logits"][path]:
            np.testing.assert_allclose(output, logits, rtol=0, atol=1e-5 * abs(logits).max())


def test_links_in_the_folder_are_not_followed(tmp_path):
    """Somebody else who can write into the folder must not choose which file is overwritten."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".model.writing.saved.keras", ".model.keras.writing"):
        (tmp_path / name).symlink_to(victim)
    ship(wrn(), tmp_path / "model.keras", ModelInfo())
    assert victim.read_text() == "precious"
    assert load_model(tmp_path / "model.keras")


def test_two_writers_do_not_mix_their_files(tmp_path):
    """Each writes into a folder of its own, and the later rename wins."""
    model = wrn()
    with ThreadPoolExecutor(2) as pool:
        infos = [ModelInfo(dataset=str(number)) for number in range(6)]
        list(pool.map(lambda info: ship(model, tmp_path / "a.keras", info), infos))
    assert model_info(tmp_path / "a.keras")["dataset"] in set("012345")
    assert [path.name for path in tmp_path.iterdir()] == ["a.keras"]


def test_a_warm_start_names_layers_with_other_settings(tmp_path, slim, undrawn):
    """All shapes agree, but the networks differ, which would silently cost accuracy."""

    def davit(normalization="imagenet", **options):
        return build_model(
            "davit_tiny", image_size=16, num_classes=10, normalization=normalization, **options
        )

    stock, same = davit(stem="imagenet", window=7), davit(stem="imagenet", window=7)
    ship(stock, tmp_path / "stock.keras", ModelInfo(wnids=tuple(WNIDS)))
    assert warm_start(same, tmp_path / "stock.keras", WNIDS) == ([], [])
    other = davit({"mean": 0.5, "std": 0.5}, stem="small")
    skipped, differences = warm_start(other, tmp_path / "stock.keras", WNIDS)
    assert skipped == []
    assert differences == [
        "normalization has another mean",
        "normalization has another variance",
        "stem_conv has strides (4, 4) in the file, (2, 2) here",
    ]


def test_a_warm_start_names_a_pool_of_only_one_network(tmp_path, slim, undrawn):
    networks = {
        stem: build_model("resnet18", image_size=16, num_classes=10, stem=stem)
        for stem in ("small", "small_pool")
    }
    ship(networks["small_pool"], tmp_path / "pool.keras", ModelInfo(wnids=tuple(WNIDS)))
    _, differences = warm_start(networks["small"], tmp_path / "pool.keras", WNIDS)
    assert differences == ["stem_pool is only in the file"]


def test_a_warm_start_from_a_file_whose_layers_share_a_path_is_refused(tmp_path):
    pixels = keras.Input((16, 16, 3))
    parts = [
        keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(3, 1, name="c")], name="s")
        for _ in range(2)
    ]
    outer = keras.Sequential([keras.Input((16, 16, 3)), parts[1]], name="outer")
    both = keras.Model(pixels, keras.layers.add([parts[0](pixels), outer(pixels)]))
    both.save(tmp_path / "both.keras")
    with pytest.raises(UserError, match=r"train\.initial_weights: .* two variables share the path"):
        warm_start(wrn(), tmp_path / "both.keras", WNIDS)


def test_model_info_of_other_files(tmp_path):
    wrn().save(tmp_path / "other.keras")
    assert model_info(tmp_path / "other.keras") == {}
    (tmp_path / "no.keras").write_text("no")
    with pytest.raises(UserError, match=r"not a \.keras file"):
        model_info(tmp_path / "no.keras")


def wrn(**options):
    return build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5, **options)
