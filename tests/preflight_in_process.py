"""The check before training, in the process of the test, which has loaded TensorFlow already."""

from dataclasses import asdict
from types import SimpleNamespace

from keras_imnet64.jobs import preflight


def check_in_this_process(monkeypatch):
    def run_child(_, *, request, **options):
        reply = asdict(preflight.reply_to(preflight.PreflightRequest(**request)))
        return SimpleNamespace(reply=lambda what: reply)

    monkeypatch.setattr(preflight, "run_child", run_child)
