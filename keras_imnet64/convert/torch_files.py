"""Opens what `torch.save` wrote, and runs nothing of it.

Training programs keep more than tensors in a file: arguments, settings, paths. `torch.load` with
`weights_only=True` refuses their classes. Those that timm, torchvision's references and Lightning
write are replaced by stand-ins of ours, which take whatever they are given and keep nothing; no
class of theirs is imported. A file with any other class is refused, and the class named.
"""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from importlib.util import find_spec

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.zips import MAX_TEXT_BYTES, open_zip, read_member

AS_STATE = (
    "where you trust it, load it in Python and save the state_dict() of the network with "
    "torch.save or as .safetensors"
)


class Unread:
    """Stands for an object of a file that is not needed, whatever it was made with."""

    def __new__(cls, *arguments):
        return super().__new__(cls)

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        pass


def unread_dict(*arguments):
    """A dict for one with a function that makes its missing values."""
    return OrderedDict()


UNREAD = (
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
# torch fills only dicts of its own choice with items, so dicts of other classes become those.
DICTS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
STAND_INS = [(Unread, name) for name in UNREAD] + [(OrderedDict, name) for name in DICTS]
STAND_INS += [(unread_dict, "collections.defaultdict")]


def load_pickle(path):
    """What a file of torch.save holds, its tensors in main memory.

    Raises:
        UserError: torch is not installed; the file is damaged, or holds an object of a class that
            has no stand-in.
    """
    if find_spec("torch") is None:
        raise UserError(
            f"{path} is read by torch, which is not installed: `pip install torch` provides it; or "
            "save the weights as .safetensors, which needs no torch"
        )
    import torch

    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(STAND_INS),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise _refusal(path, error) from error


def _refusal(path, error):
    """The UserError for a file that torch did not read, without torch's advice to run it anyway."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found and _is_one_object(path, found[1]):
            return UserError(
                f"{path} is a whole pickled object of the class {found[1]}, such as torch.save"
                f"(model) writes, and nothing in it was run; {AS_STATE}"
            )
        what = f" (it has {found[1]})" if found else ""
        return UserError(
            f"{path} is not a pickle of tensors alone{what}, and nothing in it was run; {AS_STATE}"
        )
    speaks = isinstance(error, OSError | RuntimeError | zipfile.BadZipFile)
    why = reason(os_error_text(error, path)).split(". ")[0] if speaks else "it is damaged"
    return UserError(f"{path} is not a whole file of torch: {why}")


def _is_one_object(path, name):
    """Whether a pickle is one object of this class, not a dict in which such an object lies."""
    module, _, last = name.rpartition(".")
    beginning = f"\x80\x02c{module}\n{last}\n".encode("latin-1", "replace")
    try:
        with open_zip(path) as archive:
            member = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            return read_member(archive, member, MAX_TEXT_BYTES).startswith(beginning)
    except zipfile.BadZipFile:  # damaged, or of torch before 1.6
        return False
