"""The suite runs under TensorFlow; tests marked `backend` run again under JAX (test_backends.py)."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
