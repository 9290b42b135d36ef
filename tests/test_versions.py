"""The lowest versions that pyproject.toml allows, and the newest: each works on both backends."""

import json
import os
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
REQUIREMENTS = [
    Requirement(line)
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
]


def lowest(requirements):
    """{name: the lowest version that is allowed} of those that state one."""
    bounds = [(r.name, each) for r in requirements for each in r.specifier]
    return {name: each.version for name, each in bounds if each.operator == ">="}


def test_lowest_versions_are_those_that_are_stated():
    lines = ["keras>=3.15,<=3.15.1", "requests", "numpy>=2", "jax<1,>=0.10"]
    found = lowest(map(Requirement, lines))
    assert found == {"keras": "3.15", "numpy": "2", "jax": "0.10"}
    assert lowest(REQUIREMENTS).keys() >= {"keras", "tensorflow", "jax", "numpy", "pydantic"}


def run(*command, **environment):
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("which", ["lowest", "newest"])
def test_one_step_is_made_saved_and_loaded(which, tmp_path):
    """Needs a package index: installs this package and its requirements into a new environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pins = lowest(REQUIREMENTS) if which == "lowest" else {}
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "-c", constraints, ROOT)
    run(python, "-m", "pip", "check")
    for backend in ("tensorflow", "jax"):
        printed = run(
            *(python, ROOT / "tests" / "one_step.py", tmp_path),
            KERAS_BACKEND=backend,
            PYTHONPATH="",
        )
        found = json.loads(printed.splitlines()[-1])
        for name, version in pins.items():
            assert Version(found[canonicalize_name(name)]) == Version(version), (
                f"{name} under {backend}"
            )
    assert set(found) == {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
