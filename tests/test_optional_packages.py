"""KerasCV and KerasHub: nothing needs them but a recipe, or a model, that names their layers."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import write_images

from keras_imnet64 import model_info
from keras_imnet64.core.errors import UserError
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.init import seed_generators
from keras_imnet64.models.keras_private import all_layers
from keras_imnet64.models.load import check_loads_anywhere, load_model
from keras_imnet64.models.paths import by_path
from keras_imnet64.models.ship import fill, float32_copy, ship
from keras_imnet64.records import ModelInfo
from keras_imnet64.report.card import packages_of

ROOT = Path(__file__).parent.parent
FAKE_HUB = """
import keras

@keras.saving.register_keras_serializable(package="keras_hub")
class Scale(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs

@keras.saving.register_keras_serializable(package="keras_hub")
class Backbone(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def get_config(self):
        return {"name": self.name}

@keras.saving.register_keras_serializable(package="keras_hub")
class ResNetBackbone(Backbone):
    def __init__(self, width, **kwargs):
        inputs = keras.Input((4,))
        super().__init__(inputs=inputs, outputs=keras.layers.Dense(width)(inputs), **kwargs)
        self.width = width

    def get_config(self):
        return super().get_config() | {"width": self.width}

@keras.saving.register_keras_serializable(package="keras_hub")
class Block(keras.layers.Layer):
    def build(self, shape):
        self.dense = keras.layers.Dense(4, dtype=self.dtype_policy, name="dense")
        self.dense.build(shape)
        self.dropout = keras.layers.Dropout(0.5, dtype=self.dtype_policy, name="dropout")
        self.built = True

    def call(self, inputs):
        return self.dropout(self.dense(inputs))

    def get_config(self):
        return super().get_config() | {"a_key_that_it_does_not_take": 1}

@keras.saving.register_keras_serializable(package="keras_hub")
class ViTBackbone(Backbone):
    def __init__(self, num_blocks, dtype=None, **kwargs):
        x = inputs = keras.Input((4,))
        for number in range(num_blocks):
            x = Block(name=f"block_{number}", dtype=dtype)(x)
        super().__init__(inputs=inputs, outputs=x, **kwargs)
        self.num_blocks = num_blocks

    def get_config(self):
        return super().get_config() | {"num_blocks": self.num_blocks}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

@keras.saving.register_keras_serializable(package="keras_hub")
class Loss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return y_pred
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A package of the name keras_hub with one layer."""
    (tmp_path / "keras_hub").mkdir()
    (tmp_path / "keras_hub" / "__init__.py").write_text(FAKE_HUB)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "keras_hub"]:
        monkeypatch.delitem(sys.modules, name)
    import keras_hub

    yield keras_hub
    sys.modules.pop("keras_hub", None)


def network(*layers):
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])


def test_a_file_with_layers_of_kerashub_says_that_it_needs_it(hub, tmp_path):
    model = network(hub.Scale())
    assert check_loads_anywhere(model, "your model") == ["keras_hub"]
    ship(float32_copy(model), tmp_path / "hub.keras", ModelInfo())
    ship(network(), tmp_path / "plain.keras", ModelInfo())
    assert model_info(tmp_path / "hub.keras") == {"needs": ["keras_hub"]}
    assert model_info(tmp_path / "plain.keras") == {}
    said = [packages_of(read_model_info(tmp_path / f"{name}.keras")) for name in ("hub", "plain")]
    assert said == ["Keras and keras_hub", "Keras alone"]  # on the card of a run
    assert isinstance(load_model(tmp_path / "hub.keras").layers[0], hub.Scale)


@pytest.mark.parametrize("place", ["inside", "outside", "with a compiled loss"])
@pytest.mark.parametrize("name", ["ResNetBackbone", "Backbone"])
def test_a_backbone_of_keras_own_layers_becomes_an_ordinary_network(
    name, place, hub, tmp_path, monkeypatch
):
    """Only the class of the model is KerasHub's, and the loss that it was compiled with."""
    inputs = keras.Input((4,))
    by_name = {
        "ResNetBackbone": lambda: hub.ResNetBackbone(3),
        "Backbone": lambda: hub.Backbone(inputs, keras.layers.Dense(3)(inputs)),
    }
    backbone = by_name[name]()
    model = backbone if place == "outside" else network(backbone)
    if place == "with a compiled loss":
        model.compile(loss=hub.Loss())
    plain = float32_copy(model)
    fill(plain, model)
    assert check_loads_anywhere(model, "your model") == []
    pixels = np.ones((2, 4), "float32")
    logits = model(pixels)

    path = tmp_path / "plain.keras"
    ship(plain, path, ModelInfo())
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    assert model_info(path) == {}
    np.testing.assert_array_equal(load_model(path)(pixels), logits)


def test_a_backbone_whose_layers_cannot_be_copied_one_by_one_is_kept_whole(hub, tmp_path):
    """As KerasHub's ViT: a layer does not take its own config, and all dropouts have one name."""
    pixels = np.full((2, 4), 3, "float32")
    model = network(hub.ViTBackbone(2, dtype="bfloat16"))
    assert len([path for path in by_path(model) if "seed" in path]) == 2
    seed_generators(model, seed=0)
    assert check_loads_anywhere(model, "your model") == ["keras_hub"]
    plain = float32_copy(model)
    fill(plain, model)
    assert {layer.compute_dtype for layer in all_layers(plain)} == {"float32"}

    path = tmp_path / "vit.keras"
    ship(plain, path, ModelInfo())
    assert model_info(path) == {"needs": ["keras_hub"]}
    found = load_model(path)
    assert isinstance(found.layers[0], hub.ViTBackbone)
    np.testing.assert_array_equal(found(pixels), plain(pixels))
    np.testing.assert_allclose(found(pixels), model(pixels), atol=0.1)


@pytest.mark.parametrize("is_installed", [False, True])
def test_a_file_whose_package_is_missing_or_broken_is_refused(
    is_installed, hub, tmp_path, monkeypatch
):
    ship(network(hub.Scale()), tmp_path / "hub.keras", ModelInfo())
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    fault = "import of keras_hub halted"
    if is_installed:
        monkeypatch.delitem(sys.modules, "keras_hub")
        (tmp_path / "keras_hub" / "__init__.py").write_text("import keras; keras.gone_in_keras_4")
        fault = "module 'keras' has no attribute 'gone_in_keras_4'"
    with pytest.raises(
        UserError, match=f"hub.keras needs keras_hub for its Scale.*{fault}.*`pip in"
    ):
        load_model(tmp_path / "hub.keras")


def test_a_run_needs_neither(tmp_path, small_recipe):
    """A whole `fit` where they cannot be imported; then that of a recipe that wants a layer."""
    write_images(tmp_path / "data")
    (tmp_path / "small.toml").write_text(small_recipe().to_toml())
    wanted = 'augment=[{layer="keras_cv.layers.RandomCutout",height_factor=0.2,width_factor=0.2}]'
    code = f"""
        import sys
        sys.modules["keras_cv"] = sys.modules["keras_hub"] = None
        from keras_imnet64.cli import main

        def run(*arguments):
            sys.argv[1:] = ["fit", "--recipe", "small.toml", "--data-dir", "data", *arguments]
            try:
                main()
            except SystemExit as end:
                return end.code or 0
            return 0

        print("status", run("--out", "run"), flush=True)
        print("loaded", sorted({{"numba", "pyarrow", "sklearn", "pandas"}} & set(sys.modules)))
        print("status", run("--out", "other", "--set", {wanted!r}), flush=True)
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    said = [line for line in child.stdout.splitlines() if line.startswith(("status", "loaded"))]
    assert said == ["status 0", "loaded []", "status 2"], child.stderr  # only where they are used
    assert (tmp_path / "run" / "model.keras").is_file()
    last = child.stderr.splitlines()[-1]
    assert "needs keras_cv, which cannot be imported" in last
    assert "or use Keras' own keras.layers.RandomErasing" in last
