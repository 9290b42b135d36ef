"""Networks are built, written, loaded and run under torch too, where it is installed."""

from pathlib import Path

import pytest
from conftest import child_under


def test_every_kind_of_network_computes_under_torch():
    pytest.importorskip("torch")
    networks = Path(__file__).parent / "models" / "test_networks.py"
    which = "a_file_gives_the_same_logits or initial_weights_are_the_same"
    status, output = child_under("torch", networks, "-k", which)
    assert status == 0, output
    assert "18 passed" in output
