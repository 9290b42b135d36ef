"""What a process of several says about the others; `test_machines` has real processes."""

import os

import pytest

from keras_imnet64.backend import jax_private
from keras_imnet64.backend.cluster import JoinedCluster
from keras_imnet64.backend.launchers import Place


def test_a_lost_process_is_told_without_the_repetitions_of_jax():
    cluster = JoinedCluster(Place(2, 0, "a:1"))
    cause = "INTERNAL: " + 4 * "Error dispatching computation: " + "Read error: reset by peer"
    message = cluster.loss(RuntimeError(cause)).message
    assert "(INTERNAL: Error dispatching computation: Read error: reset by peer): the" in message


@pytest.mark.parametrize("given", ["10.0.0.7:29500", None])
def test_process_0_is_reached_without_the_proxy_of_the_internet(given, monkeypatch):
    """Also where a launcher has told JAX its address, and no option has."""
    import jax

    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: called.append(args))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setenv(jax_private.DIRECT_HOSTS, "")  # so that it is set back at the end
    monkeypatch.delenv(jax_private.DIRECT_HOSTS)
    jax_private.connect(Place(2, 1, given), "10.0.0.7:29500", 5)
    assert called == [("10.0.0.7:29500", 2, 1)]
    assert os.environ[jax_private.DIRECT_HOSTS] == "localhost,10.0.0.7"
