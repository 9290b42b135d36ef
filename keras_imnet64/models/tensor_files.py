"""Files of named tensors as PyTorch programs write them: safetensors, and pickles by torch itself.

Nothing in a file is run, and a tensor's numbers are read when they are asked for. Which tensor is
which variable of ours is the business of `foreign`.
"""

import pickle
import re
import stat
import warnings
import zipfile
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np

from keras_imnet64.errors import UserError, reason
from keras_imnet64.files import denied, expand
from keras_imnet64.zips import open_zip

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Under which of these a training program puts the tensors, beside its optimizer and its epoch.
WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")
MOST_WRAPPED = 4  # times; a pickle can hold itself
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
AVERAGED = "n_averaged"  # how many steps AveragedModel has seen: no part of the network


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
    """{name: Held} of a weight file; what training programs wrap around it is taken off.

    Raises:
        UserError: no such file, of no known kind, damaged, holds more than tensors, or torch is
            needed and not installed.
    """
    path = expand(path)
    if path.suffix == ".keras":
        raise UserError(
            f"{path} is a model file of Keras already; predict, evaluate, export and "
            "train.initial_weights take it as it is"
        )
    if path.suffix not in READERS:
        raise UserError(f"weights are files of {', '.join(READERS)}; received {path}")
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {denied(error, path)}") from error
    if not is_file:
        raise UserError(f"{path} is not a file; a file of weights is needed")
    return _without_prefix(READERS[path.suffix](path))


def _read_safetensors(path):
    import ml_dtypes  # noqa: F401 (teaches NumPy bfloat16)
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, "numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: Held(
                tuple(part.get_shape()),
                DTYPES.get(part.get_dtype(), part.get_dtype()),
                partial(file.get_tensor, name),
            )
            for name, part in slices.items()
        }
    except (SafetensorError, OSError, ValueError) as error:
        why = denied(error, path) if isinstance(error, OSError) else error
        raise UserError(f"{path} is not a whole safetensors file: {reason(why)}") from error


def _read_pickle(path):
    if find_spec("torch") is None:
        raise UserError(
            f"{path} is read by torch, which is not installed: `pip install torch` provides it; or "
            "save the weights as .safetensors, which needs no torch"
        )
    import torch

    try:
        if zipfile.is_zipfile(path):
            open_zip(path).close()  # refuses what would swell beyond measure
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise _refusal(path, error) from error
    return {name: _held(name, tensor, path) for name, tensor in _unwrapped(content, path).items()}


def _refusal(path, error):
    """The UserError for a file that torch did not read, without torch's advice to run it anyway."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or "TorchScript" in text:
        found = re.search(r"GLOBAL (\S+)", text)
        what = f" (it has {found[1]})" if found else ""
        return UserError(
            f"{path} is not a pickle of tensors alone{what}, and nothing in it was run; where you "
            "trust it, load it in Python and save its state_dict() with torch.save or as "
            ".safetensors"
        )
    speaks = isinstance(error, OSError | RuntimeError | zipfile.BadZipFile)
    why = reason(denied(error, path)).split(". ")[0] if speaks else "it is damaged or no such file"
    return UserError(f"{path} is not a whole file of torch: {why}")


READERS = {
    ".safetensors": _read_safetensors,
    ".pth": _read_pickle,
    ".pt": _read_pickle,
    ".bin": _read_pickle,
}


def _unwrapped(content, path):
    """The tensors by name; UserError where several sets of them lie side by side, or none."""
    for _ in range(MOST_WRAPPED):
        if not isinstance(content, dict):
            break
        found = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
        if len(found) > 1:
            raise UserError(
                f"{path} holds {' and '.join(found)}, two states of a network; save the one that "
                "you mean alone"
            )
        if not found:
            return content
        content = content[found[0]]
    raise UserError(
        f"{path} holds a {type(content).__name__} where tensors by name are needed, or wraps them "
        f"more than {MOST_WRAPPED} times"
    )


def _held(name, tensor, path):
    import torch

    if not isinstance(tensor, torch.Tensor) or not isinstance(name, str):
        raise UserError(
            f"{path} holds {name}, a {type(tensor).__name__}; only tensors by name, a state_dict, "
            "are taken"
        )
    if tensor.is_meta or tensor.is_nested:
        raise UserError(f"{path} holds {name} without its numbers, or a nest of tensors")
    strided = tensor.layout is torch.strided
    dtype = str(tensor.dtype if strided else tensor.layout).removeprefix("torch.")
    return Held(tuple(tensor.shape), dtype, lambda: tensor.detach().float().numpy())


def _without_prefix(tensors):
    tensors = {name: tensor for name, tensor in tensors.items() if name != AVERAGED}
    for prefix in PREFIXES * 2:  # either may be within the other
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
