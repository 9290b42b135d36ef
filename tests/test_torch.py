"""Networks are built, written, loaded and run under torch too, where it is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_every_kind_of_network_computes_under_torch():
    pytest.importorskip("torch")
    networks = Path(__file__).parent / "models" / "test_networks.py"
    which = "a_file_gives_the_same_logits or initial_weights_are_the_same"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        networks,
        "-k",
        which,
    ]
    child = subprocess.run(
        command,
        env=os.environ | {"KERAS_BACKEND": "torch"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-20_000:]
    assert "16 passed" in child.stdout
