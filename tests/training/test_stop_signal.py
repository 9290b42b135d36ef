"""What a second signal does to a run that is stopping."""

import signal
from types import SimpleNamespace

import pytest

from keras_imnet64.core import processes
from keras_imnet64.training.callbacks.stop_signal import StopSignal


@pytest.fixture
def stopping():
    """A run that has got its first SIGTERM."""
    stop = StopSignal(SimpleNamespace(stop_training=False))
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested and stop.model.stop_training
        yield


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(stopping, number):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_a_process_that_follows_its_parent_gets_signals_twice(stopping, monkeypatch):
    """From Slurm, which sends them to all processes of a job, and from the parent."""
    monkeypatch.setattr(processes, "_follows_parent", True)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
