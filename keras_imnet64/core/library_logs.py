"""Hides the log messages of other libraries, unless the user asks for them.

TensorFlow's own variable decides for all libraries: TF_CPP_MIN_LOG_LEVEL=0, which `-v` sets, shows
everything; otherwise only errors are shown.
"""

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

from keras_imnet64.core.activity import showing_on

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
LIBRARIES = ("absl", "jax", "tensorflow", "h5py", "PIL", "urllib3")


def show_library_logs() -> None:
    """Shows the messages of other libraries, in this process and in those that it starts."""
    os.environ[LEVEL] = "0"


def is_quiet() -> bool:
    return os.environ.get(LEVEL, "3") != "0"


def silence_libraries() -> None:
    """Hides warnings, and log messages below the level of an error."""
    os.environ.setdefault(LEVEL, "3")
    if is_quiet():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.ERROR)


def keep_standard_output() -> None:
    """Keeps what other libraries print, as Gloo does, out of this process's standard output.

    Python's own `sys.stdout` stays what it was. With `-v` their lines go to standard error.
    """
    try:
        is_file = sys.stdout.fileno() == 1
    except (OSError, ValueError):
        is_file = False
    if not is_file:  # as in tests and notebooks
        return
    sys.stdout.flush()
    own = os.dup(1)
    target = os.open(os.devnull, os.O_WRONLY) if is_quiet() else os.dup(2)
    os.dup2(target, 1)
    os.close(target)
    sys.stdout = open(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # noqa: SIM115


@contextlib.contextmanager
def hide_standard_error() -> Iterator[Callable[[], None]]:
    """Hides what other libraries write to standard error within the block, unless with `-v`.

    Yields:
        A function that ends this early, for a message of ours.
    """
    if not is_quiet():
        yield lambda: None
        return
    sys.stderr.flush()
    before = os.dup(2)
    target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, 2)
    os.close(target)

    def show() -> None:
        os.dup2(before, 2)

    try:
        with showing_on(before):
            yield show
    finally:
        show()
        os.close(before)


def import_quietly(name: str) -> None:
    """Imports a library that writes to standard error before its log level applies.

    These messages are hidden unless the import fails, or with `-v`.
    """
    os.environ.setdefault(LEVEL, "3")
    if not is_quiet():
        importlib.import_module(name)
        return
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with tempfile.TemporaryFile() as messages, showing_on(before):
            os.dup2(messages.fileno(), 2)
            try:
                importlib.import_module(name)
            except Exception:  # not for Ctrl-C
                messages.seek(0)
                os.write(before, messages.read())
                raise
            finally:
                os.dup2(before, 2)
    finally:
        os.close(before)
