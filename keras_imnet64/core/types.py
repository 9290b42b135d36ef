"""Names for what no library has a type for, so that `Any` is written here, with its reason."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

StrPath: TypeAlias = str | os.PathLike[str]
Json: TypeAlias = Any  # what the json module reads: any nesting of dicts, lists and plain values
JsonObject: TypeAlias = dict[str, Any]  # the same, an object at the top
Options: TypeAlias = Mapping[str, Any]  # options by name, each of a type that its owner checks
Logs: TypeAlias = Mapping[str, Any]  # what Keras passes to callbacks: numbers or scalar tensors
Tensor: TypeAlias = Any  # of TensorFlow, JAX, torch or Keras, which have no type in common
Variable: TypeAlias = Any  # a keras.Variable; Keras ships no types
PackProgress: TypeAlias = Callable[[str, int, int], None]  # (description, done, total)
