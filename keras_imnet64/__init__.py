"""Train, prove and ship image classifiers for small-resolution ImageNet, on TensorFlow or JAX."""

__version__ = "0.1.0"
