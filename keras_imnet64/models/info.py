"""Reads what a model file states about itself, without Keras: the member `imnet64.json` of its zip.

`ship` writes the member; Keras ignores it.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import parse_json
from keras_imnet64.core.invocation import program_name
from keras_imnet64.core.paths import expand
from keras_imnet64.core.types import JsonObject, StrPath
from keras_imnet64.core.validation import parse_record
from keras_imnet64.core.zips import MAX_TEXT_BYTES, open_zip, read_member
from keras_imnet64.records import ModelInfo

INFO_MEMBER = "imnet64.json"
WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")  # of PyTorch
HDF5 = (".h5", ".hdf5")


def model_info(path: StrPath) -> JsonObject:
    """Returns what a `.keras` file of ours states about itself; {} for other `.keras` files.

    A key whose value is null states nothing and is left out.

    Raises:
        UserError: the file is not a `.keras` file, or what it states has a wrong type.
    """
    return _read(expand(path))[0]


def read_model_info(path: StrPath) -> ModelInfo:
    """Returns what `model_info` returns as a record, which ignores keys that it does not know."""
    return _read(path)[1]


def _read(path: StrPath) -> tuple[JsonObject, ModelInfo]:
    try:
        with open_zip(path) as archive:
            if INFO_MEMBER not in archive.namelist():
                return {}, ModelInfo()
            text = read_member(archive, INFO_MEMBER, MAX_TEXT_BYTES)
        record = parse_record(ModelInfo, text)
        return {key: value for key, value in parse_json(text).items() if value is not None}, record
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a .keras file is needed") from None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{path} is not a .keras file{advice_on(path, reason(error))}") from error


def head_problem(wnids: Sequence[str] | None) -> str:
    """Returns why a head is not taken from a file whose class ids are not those of the network."""
    return f"the file {'has other classes' if wnids else 'does not name its classes'}"


def advice_on(path: StrPath, fault: str) -> str:
    """Returns how to make a `.keras` file of a file of another kind, else the fault."""
    suffix = Path(path).suffix.lower()
    if suffix in WEIGHTS:
        return f"; `{program_name()} convert` makes one of weights of torchvision or timm"
    if suffix in HDF5:
        return '; in Python, keras.models.load_model("IN.h5").save("OUT.keras") makes one of it'
    return f": {fault}"
