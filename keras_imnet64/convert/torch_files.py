"""Loads files that `torch.save` wrote, without running any code in them.

Training programs keep more than tensors in a file: arguments, settings, paths. `torch.load` with
`weights_only=True` refuses their classes. The classes that timm, torchvision's references and
Lightning write are replaced by placeholders, which accept any arguments and keep none; the classes
themselves are never imported. A file with any other class is refused, and the message names it.
"""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import Json
from keras_imnet64.core.zips import MAX_TEXT_BYTES, open_zip, read_member

SAVE_STATE_DICT = (
    "where you trust it, load it in Python and save the state_dict() of the network with "
    "torch.save or as .safetensors"
)


class Placeholder:
    """Replaces an object that is not needed, whatever the arguments of its constructor."""

    def __new__(cls, *arguments: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def empty_dict(*arguments: object) -> OrderedDict[str, object]:
    """Replaces `defaultdict`, whose first argument is a function."""
    return OrderedDict()


REPLACED_CLASSES = (
    "argparse.Namespace",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.PathNode",
    "omegaconf.nodes.StringNode",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",  # of Python 3.13
    "pathlib._local.WindowsPath",
    "typing.Any",
)
# torch adds items only to dicts of classes that it knows, so other dicts become OrderedDicts.
DICT_CLASSES = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
REPLACEMENTS: list[tuple[object, str]] = [
    *((Placeholder, name) for name in REPLACED_CLASSES),
    *((OrderedDict, name) for name in DICT_CLASSES),
    (empty_dict, "collections.defaultdict"),
]


def load_torch_file(path: Path) -> Json:
    """Returns the content of a file of torch.save, with its tensors in main memory.

    Raises:
        UserError: torch is not installed; the file is damaged, or holds an object of a class that
            has no replacement.
    """
    if find_spec("torch") is None:
        raise UserError(
            f"{path} is read by torch, which is not installed: `pip install torch` installs it; or "
            "save the weights as .safetensors, which needs no torch"
        )
    import torch

    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(REPLACEMENTS),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> UserError:
    """Returns the error for a file that torch refuses; torch's own message advises to run it."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found and _is_single_object(path, found[1]):
            return UserError(
                f"{path} is a whole pickled object of the class {found[1]}, such as torch.save"
                f"(model) writes, and nothing in it was run; {SAVE_STATE_DICT}"
            )
        what = f" (it has {found[1]})" if found else ""
        return UserError(
            f"{path} is not a pickle of tensors alone{what}, and nothing in it was run; "
            f"{SAVE_STATE_DICT}"
        )
    has_message = isinstance(error, OSError | RuntimeError | zipfile.BadZipFile)
    damage = reason(os_error_text(error, path)).split(". ")[0] if has_message else "it is damaged"
    return UserError(f"{path} is not a whole file of torch: {damage}")


def _is_single_object(path: Path, class_name: str) -> bool:
    """Whether a pickle is one object of this class, and not a dict that contains one."""
    module, _, name = class_name.rpartition(".")
    beginning = f"\x80\x02c{module}\n{name}\n".encode("latin-1", "replace")
    try:
        with open_zip(path) as archive:
            member = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            return read_member(archive, member, MAX_TEXT_BYTES).startswith(beginning)
    except zipfile.BadZipFile:  # damaged, or of torch before 1.6
        return False
