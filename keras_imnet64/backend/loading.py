"""Loads TensorFlow, without its messages and without what it and Keras import for others.

Says which backend Keras uses, or will use, for which Keras need not be imported.
"""

import contextlib
import os
import sys

from keras_imnet64.backend.keras_settings import keras_settings
from keras_imnet64.core.activity import Activity, is_active
from keras_imnet64.core.late_imports import put_off
from keras_imnet64.core.library_logs import import_quietly

MATPLOTLIB = ("matplotlib", "matplotlib.pyplot", "matplotlib.patches")  # as Keras imports it
JAX = ("jax", "jax.jit", "jax.monitoring", "jax.monitoring.record_scalar")


def chosen_backend() -> str:
    """Returns the backend that Keras uses, or will use; does not import Keras."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].config.backend())
    named = os.environ.get("KERAS_BACKEND")
    return named or str(keras_settings().content.get("backend", "tensorflow"))


def import_tensorflow() -> None:
    """Imports TensorFlow, which tf.data needs under every backend, without its messages.

    What it and Keras import for something that few programs do is put off; JAX is not where it is
    the backend, since Keras needs it there.
    """
    if "tensorflow" in sys.modules:
        return
    with contextlib.ExitStack() as stack:
        if not is_active():
            stack.enter_context(Activity("loading tensorflow", at_once=True))
        stack.enter_context(put_off(MATPLOTLIB))
        if chosen_backend() != "jax":
            stack.enter_context(put_off(JAX))
        import_quietly("tensorflow")
