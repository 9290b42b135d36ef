"""Reads files of named tensors as PyTorch programs write them: safetensors, and torch's pickles.

Nothing in a file is run, and a tensor's numbers are read when they are asked for. `weight_formats` says
what a file is, `prefixes` finds a network among the tensors, and `namings` knows which tensor is
which variable of ours.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import numpy as np

from keras_imnet64.convert.weight_formats import detect_format
from keras_imnet64.convert.torch_files import AS_STATE, load_pickle
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.paths import expand, os_error_text

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DICTS = (dict, OrderedDict)
MOST_WRAPPED = 4  # dicts around the tensors; a pickle can hold itself
# What torch.compile, FSDP and activation checkpointing put before names, anywhere within them.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


@dataclass(frozen=True)
class Held:
    """A tensor in a file; `numpy.asarray` reads it.

    Attributes:
        shape, dtype: as the file states them; the dtype in NumPy's word for it, if there is one.
        read: takes nothing, returns the array.
    """

    shape: tuple
    dtype: str
    read: object

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(), dtype)


def read_tensors(path):
    """The tensors of a weight file, whatever its suffix and whatever is wrapped around them.

    Returns:
        dict: {where: {name: Held}}. `where` is the path to a dict of tensors, its keys joined by
            dots, such as "state_dict"; "" where nothing is wrapped around the tensors.

    Raises:
        UserError: there is no such file; it is of no known kind, is damaged, holds no tensors or
            objects that are not read, or torch is needed and not installed.
    """
    path = expand(path)
    states = READERS[detect_format(path)](path)
    return {where: _without_wrappers(tensors) for where, tensors in states.items()}


def joined(where, name):
    """The path to `name` in the dict that lies at `where`."""
    return f"{where}.{name}" if where else name


def without_wrappers(name):
    """A name as it is without torch.compile and FSDP."""
    return WRAPPERS.sub("", name)


def _without_wrappers(tensors):
    renamed = {without_wrappers(name): tensor for name, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors  # no two may become one


def _read_safetensors(path):
    import ml_dtypes  # noqa: F401 (teaches NumPy bfloat16)
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, "numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        tensors = {
            name: Held(
                tuple(part.get_shape()),
                DTYPES.get(part.get_dtype(), part.get_dtype()),
                partial(file.get_tensor, name),
            )
            for name, part in slices.items()
        }
    except (SafetensorError, OSError, ValueError) as error:
        why = os_error_text(error, path) if isinstance(error, OSError) else error
        raise UserError(f"{path} is not a whole safetensors file: {reason(why)}") from error
    if not tensors:
        raise UserError(f"{path} is a safetensors file without tensors; those of a network are")
    return {"": tensors}


# ------------------------------------------------------------------------------------------- torch


def _read_pickle(path):
    content = load_pickle(path)
    states = _states(content) if isinstance(content, dict) else {}
    if not states:
        raise UserError(f"{path} holds {_instead(content)}")
    return states


READERS = {"safetensors": _read_safetensors, "torch": _read_pickle}


def _states(content):
    """{where: {name: Held}} of every dict with tensors, at most MOST_WRAPPED dicts deep."""
    import torch

    states, seen, waiting = {}, set(), [("", content, 0)]
    for where, holder, depth in waiting:
        if id(holder) in seen or depth > MOST_WRAPPED:
            continue
        seen.add(id(holder))
        named = {name: value for name, value in holder.items() if isinstance(name, str)}
        tensors = {n: _held(v) for n, v in named.items() if isinstance(v, torch.Tensor)}
        if tensors:
            states.setdefault(where, tensors)
        waiting += [(joined(where, n), v, depth + 1) for n, v in named.items() if type(v) in DICTS]
    return states


def _held(tensor):
    """A tensor of torch; what no array can hold has a dtype that says so."""
    import torch

    if tensor.is_nested:
        return Held((), "a nest of tensors", None)
    dtype = tensor.dtype if tensor.layout is torch.strided else tensor.layout
    name = "meta, without numbers" if tensor.is_meta else str(dtype).removeprefix("torch.")
    return Held(tuple(tensor.shape), name, lambda: tensor.detach().float().numpy())


def _instead(content):
    """What a file holds that has no tensors by name."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__} where tensors by name are needed; {AS_STATE}"
    if any("optim" in str(key) or key == "param_groups" for key in content):
        return "the state of an optimizer and no network; name the file of the network's weights"
    return f"no tensors of torch by name, within {MOST_WRAPPED} dicts; {AS_STATE}"
