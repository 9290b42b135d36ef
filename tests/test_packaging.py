"""The wheel, installed elsewhere, is the whole application."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_imnet64 import __version__
from keras_imnet64.recipe.loading import list_recipes

ROOT = Path(__file__).parent.parent


def run(*command, cwd, site=None):
    """Standard output of a command that must succeed; `site` comes before this environment's."""
    env = os.environ | ({"PYTHONPATH": str(site)} if site else {})
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the built wheel installed into it; needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob(f"keras_imnet64-{__version__}-*.whl")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


def test_recipes_come_with_the_wheel(site, tmp_path):
    code = "import keras_imnet64, sys; from keras_imnet64.cli import main; "
    code += "print(keras_imnet64.__file__); sys.argv[1:] = ['recipes', '--json']; main()"
    where, listing = run(sys.executable, "-c", code, cwd=tmp_path, site=site).splitlines()
    assert Path(where) == site / "keras_imnet64" / "__init__.py"
    assert list(json.loads(listing)) == list_recipes()


def test_the_console_script_prints_a_recipe_and_what_it_costs(site, tmp_path):
    script = site / "bin" / "keras-imnet64"
    printed = run(script, "recipes", "show", "wrn36_5", cwd=tmp_path, site=site)
    assert printed.endswith((ROOT / "recipes" / "wrn36_5.toml").read_text())
    assert "# MACs        7.054 G " in printed  # from the table inside the wheel


def test_the_wheel_holds_the_package_and_nothing_else(site):
    names = {path.name for path in site.iterdir()} - {"bin", "__pycache__"}
    assert names == {"keras_imnet64", f"keras_imnet64-{__version__}.dist-info"}
    shipped = {path.relative_to(site) for path in (site / "keras_imnet64").rglob("*.py")}
    assert shipped == {path.relative_to(ROOT) for path in (ROOT / "keras_imnet64").rglob("*.py")}
