"""The tests marked `backend` once more, in one child process under JAX."""

import os
import subprocess
import sys
from pathlib import Path


def test_backend_tests_pass_under_jax():
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "backend and not slow",
            "-p",
            "no:cacheprovider",
        ],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-20_000:]
    assert " passed" in child.stdout
