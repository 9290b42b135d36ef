"""Keeping what other libraries write off the screen, unless it is asked for.

TensorFlow's own setting decides for all of them: TF_CPP_MIN_LOG_LEVEL=0 shows everything, which is
what `-v` sets; without it only errors are shown.
"""

import logging
import os
import sys
import tempfile
import warnings

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
LIBRARIES = ("absl", "jax", "tensorflow", "h5py", "PIL", "urllib3")


def show_library_logs():
    """Bring the libraries' messages back, in this process and in those that it starts."""
    os.environ[LEVEL] = "0"


def is_quiet():
    return os.environ.get(LEVEL, "3") != "0"


def silence_libraries():
    """Keep warnings and log messages below an error from standard error."""
    os.environ.setdefault(LEVEL, "3")
    if is_quiet():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.ERROR)


def import_tensorflow():
    """Load TensorFlow, which tf.data needs under every backend, without its chatter.

    It writes to standard error before its own log level counts; that is shown if loading fails.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault(LEVEL, "3")
    if not is_quiet():
        import tensorflow

        return
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except Exception:  # not for Ctrl-C
            chatter.seek(0)
            os.write(before, chatter.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
