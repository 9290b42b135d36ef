"""KerasCV and KerasHub: nothing needs them but a recipe, or a model, that names their layers."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import pytest
from conftest import write_images

from keras_imnet64 import model_info
from keras_imnet64.core.errors import UserError
from keras_imnet64.models.load import check_loads_anywhere, load_model
from keras_imnet64.models.ship import float32_copy, ship
from keras_imnet64.records import ModelInfo

ROOT = Path(__file__).parent.parent
FAKE_HUB = """
import keras

@keras.saving.register_keras_serializable(package="keras_hub")
class Scale(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
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
    check_loads_anywhere(model, "your model")
    ship(float32_copy(model), tmp_path / "hub.keras", ModelInfo())
    ship(network(), tmp_path / "plain.keras", ModelInfo())
    assert model_info(tmp_path / "hub.keras") == {"needs": ["keras_hub"]}
    assert model_info(tmp_path / "plain.keras") == {}
    assert isinstance(load_model(tmp_path / "hub.keras").layers[0], hub.Scale)


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
