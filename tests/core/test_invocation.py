"""What a user types to start this program, in messages and in further processes."""

import sys

import pytest

from keras_imnet64.core.invocation import STARTED_AS, program_name, program_words
from keras_imnet64.core.processes import environment_with_package

AS_MODULE = [sys.executable, "-m", "keras_imnet64"]


@pytest.mark.parametrize(
    ("argv0", "name", "words"),
    [
        ("/home/cli.py", "python cli.py", [sys.executable, "/home/cli.py"]),
        ("/bin/keras-imnet64", "keras-imnet64", ["/bin/keras-imnet64"]),
        ("/lib/keras_imnet64/__main__.py", "python -m keras_imnet64", AS_MODULE),
        ("-c", "python -m keras_imnet64", AS_MODULE),
        ("/lib/ipykernel_launcher.py", "python -m keras_imnet64", AS_MODULE),
    ],
)
def test_messages_name_the_program_as_it_was_started(monkeypatch, argv0, name, words):
    monkeypatch.delenv(STARTED_AS, raising=False)
    monkeypatch.setattr(sys, "argv", [argv0, "fit"])
    assert (program_name(), program_words()) == (name, words)


def test_children_name_the_program_of_their_parent(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/keras-imnet64"])
    variables = environment_with_package({})
    monkeypatch.setattr(sys, "argv", ["/lib/keras_imnet64/jobs/preflight.py"])
    monkeypatch.setenv(STARTED_AS, variables[STARTED_AS])
    assert program_name() == "keras-imnet64"
