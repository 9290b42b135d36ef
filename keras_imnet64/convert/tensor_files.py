"""Reads files of named tensors that PyTorch programs write: safetensors, and torch's pickles.

No code in a file is run, and the values of a tensor are read only when they are used.
`weight_formats` detects the format of a file, `prefixes` finds a network among the tensors.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from keras_imnet64.convert.torch_files import SAVE_STATE_DICT, load_torch_file
from keras_imnet64.convert.weight_formats import detect_format
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.paths import expand, os_error_text
from keras_imnet64.core.types import Json, StrPath, Tensor

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DICT_TYPES = (dict, OrderedDict)
MAX_DICT_DEPTH = 4  # of dicts around the tensors; a pickle can contain itself
# Parts that torch.compile, FSDP and activation checkpointing insert into names.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; `numpy.asarray` reads it.

    Attributes:
        shape, dtype: those in the file; the dtype has NumPy's name, if NumPy has such a dtype.
        read: returns the array.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    def __array__(
        self, dtype: np.typing.DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.asarray(self.read(), dtype)


# By the path to a dict of tensors in the file, then by the name of the tensor. A path consists of
# keys joined by dots, such as "state_dict"; "" is the outermost dict.
TensorDicts: TypeAlias = dict[str, dict[str, StoredTensor]]


def read_tensors(path: StrPath) -> TensorDicts:
    """Returns the tensors of a weight file of any suffix, at most MAX_DICT_DEPTH dicts deep.

    Raises:
        UserError: there is no such file; its format is not known, it is damaged, holds no tensors
            or holds objects that are refused; or torch is needed and not installed.
    """
    path = expand(path)
    read = {"safetensors": _read_safetensors, "torch": _read_torch_file}[detect_format(path)]
    return {key: _without_wrappers(tensors) for key, tensors in read(path).items()}


def join_names(outer: str, inner: str) -> str:
    """Joins the path of a dict, or "", and a name within that dict by a dot."""
    return f"{outer}.{inner}" if outer else inner


def without_wrappers(name: str) -> str:
    """Returns a tensor's name without the parts that match WRAPPERS."""
    return WRAPPERS.sub("", name)


def _without_wrappers(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    renamed = {without_wrappers(name): tensor for name, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors  # two names would become equal


def _read_safetensors(path: Path) -> TensorDicts:
    import ml_dtypes  # noqa: F401 (teaches NumPy bfloat16)
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, "numpy")  # its methods have no types
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        tensors = {
            name: StoredTensor(
                tuple(part.get_shape()),
                DTYPES.get(part.get_dtype(), part.get_dtype()),
                partial(file.get_tensor, name),
            )
            for name, part in slices.items()
        }
    except (SafetensorError, OSError, ValueError) as error:
        damage = os_error_text(error, path) if isinstance(error, OSError) else error
        raise UserError(f"{path} is not a whole safetensors file: {reason(damage)}") from error
    if not tensors:
        raise UserError(f"{path} is a safetensors file without tensors; name a file of weights")
    return {"": tensors}


# ------------------------------------------------------------------------------------------- torch


def _read_torch_file(path: Path) -> TensorDicts:
    content = load_torch_file(path)
    found = _find_tensors(content) if isinstance(content, dict) else {}
    if not found:
        raise UserError(f"{path} holds {_describe_content(content)}")
    return found


def _find_tensors(content: Mapping[Json, Json]) -> TensorDicts:
    """Finds every dict with tensors, at most MAX_DICT_DEPTH dicts deep, each once."""
    import torch

    found: TensorDicts = {}
    visited: set[int] = set()
    waiting = [("", content, 0)]
    for path, holder, depth in waiting:
        if id(holder) in visited or depth > MAX_DICT_DEPTH:
            continue
        visited.add(id(holder))
        named = {name: value for name, value in holder.items() if isinstance(name, str)}
        tensors = {n: _stored_tensor(v) for n, v in named.items() if isinstance(v, torch.Tensor)}
        if tensors:
            found.setdefault(path, tensors)
        inner = [(name, value) for name, value in named.items() if type(value) in DICT_TYPES]
        waiting += [(join_names(path, name), value, depth + 1) for name, value in inner]
    return found


def _stored_tensor(tensor: Tensor) -> StoredTensor:
    """Wraps a tensor of torch; where NumPy cannot represent it, `dtype` states the reason."""
    import torch

    def read() -> np.ndarray:
        return tensor.detach().float().numpy()

    if tensor.is_nested:  # a nested tensor has no shape
        return StoredTensor((), "nested tensors", read)
    dtype = tensor.dtype if tensor.layout is torch.strided else tensor.layout
    name = "meta, without numbers" if tensor.is_meta else str(dtype).removeprefix("torch.")
    return StoredTensor(tuple(tensor.shape), name, read)


def _describe_content(content: Json) -> str:
    """Describes a file's content that has no named tensors, and what the user can do."""
    if not isinstance(content, dict):
        kind = type(content).__name__
        return f"a {kind} where named tensors are needed; {SAVE_STATE_DICT}"
    if any("optim" in str(key) or key == "param_groups" for key in content):
        return "the state of an optimizer and no network; name the file of the network's weights"
    return f"no named tensors of torch within {MAX_DICT_DEPTH} dicts; {SAVE_STATE_DICT}"
