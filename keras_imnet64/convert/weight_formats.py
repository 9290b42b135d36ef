"""Detects the format of a weight file by its content, and refuses files that hold no weights.

Suffixes do not matter: `torch.save` writes both `.pth.tar` and `.ckpt` files, and a `.pth` file may
be a server's error page. `tensor_files` reads the two formats of weights.
"""

import codecs
import os
import re
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from keras_imnet64.core.errors import UserError, first_few, reason, shortened
from keras_imnet64.core.file_kinds import FileKind, find_kind
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.types import StrPath
from keras_imnet64.core.zips import open_zip

WeightFormat: TypeAlias = Literal["safetensors", "torch"]
Description: TypeAlias = tuple[str, str]  # (what a file is, what its owner can do)

HEAD_BYTES = 4096  # enough to recognise and quote a text
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
MAX_LISTED_ENTRIES = 1000  # of a folder
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
FETCH = "fetch the file itself"
UNPACK = "unpack it and name the file of weights in it"
OF_PYTORCH = "weights of torchvision or timm are files of safetensors or torch.save"
FROM_SHARDS = (
    "load them in Python and save the state_dict() of the network as one .safetensors file"
)
FROM_PICKLE = "where you trust it, load it in Python and save its tensors with torch.save"

LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # before torch 1.6 wrote zips
DESCRIPTIONS: dict[FileKind | None, Description] = {
    FileKind.BZIP2: ("packed with bzip2", "unpack it with bunzip2 first"),
    FileKind.FLAX: ("a MessagePack file of Flax", OF_PYTORCH),
    FileKind.GGUF: ("a GGUF file", OF_PYTORCH),
    FileKind.GIT_LFS_POINTER: (
        "a pointer of Git LFS to a file, not the file",
        "`git lfs pull` fetches it",
    ),
    FileKind.GZIP: ("packed with gzip", "unpack it with gunzip first"),
    FileKind.HDF5: ("an HDF5 file, as Keras writes weights", OF_PYTORCH),
    FileKind.RAR: ("a RAR archive", UNPACK),
    FileKind.SEVEN_ZIP: ("a 7z archive", UNPACK),
    FileKind.TAR: ("a tar archive", UNPACK),
    FileKind.TENSORFLOW_LITE: ("a TensorFlow Lite model", OF_PYTORCH),
    FileKind.XZ: ("packed with xz", "unpack it with unxz first"),
    FileKind.ZSTD: ("packed with zstd", "unpack it with unzstd first"),
}
MARKUP = re.compile(rb"\s*<(!doctype|html|\?xml|error)", re.IGNORECASE)
# ONNX has no magic bytes: ir_version (a small number), then the producer, a model version or the
# graph.
ONNX = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
TENSORFLOW_TABLE = bytes.fromhex("57fb808b247547db")  # the last bytes of an index of variables
TENSORFLOW_NAME = re.compile(r"\.data-\d{5}-of-\d{5}$|\.pb$")
SHARD = re.compile(r"-(\d+)-of-0*([2-9]|[1-9]\d+)\.")


def detect_format(path: StrPath) -> WeightFormat:
    """Returns the format of a weight file.

    Raises:
        UserError: the path cannot be read, or is not such a file; the message says what it is and
            what to do.
    """
    path = Path(path)
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise _refusal(path, *_describe_folder(path))
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"{path} is not a file; a file of weights is needed")
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(max(0, state.st_size - len(TENSORFLOW_TABLE)))
            tail = file.read(len(TENSORFLOW_TABLE))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if head and (shard := SHARD.search(path.name)):
        what = f"one part of weights that are split over {shard[2]} files"
        raise _refusal(path, what, FROM_SHARDS)
    if _is_safetensors(head):
        return "safetensors"
    if find_kind(head) is FileKind.ZIP:
        return _format_of_zip(path)
    if head.startswith(LEGACY_TORCH_MAGIC):
        return "torch"
    raise _refusal(path, *_describe_file(path, head, tail))


def _refusal(path: Path, what: str, remedy: str) -> UserError:
    return UserError(f"{path} is {what}; {remedy}")


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError) and os.path.exists(f"{path}.index"):
        return _refusal(path, "the name of a TensorFlow checkpoint", OF_PYTORCH)
    return UserError(f"{path} cannot be read: {os_error_text(error, path)}")


# ----------------------------------------------------------------------------------------- files


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a JSON object and the object, as safetensors do."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def _describe_file(path: Path, head: bytes, tail: bytes) -> Description:
    """Describes a file of neither format."""
    if not head:
        return "empty", FETCH
    kind = find_kind(head)
    if kind in DESCRIPTIONS:
        return DESCRIPTIONS[kind]
    if tail == TENSORFLOW_TABLE or TENSORFLOW_NAME.search(path.name):
        return "a file of a TensorFlow checkpoint or graph", OF_PYTORCH
    if head[0] == 0x80:  # the first byte of every pickle since protocol 2
        return "a pickle that torch.save did not write, and nothing in it was run", FROM_PICKLE
    if ONNX.match(head):
        return "an ONNX model", f"{OF_PYTORCH}: take the file that it was exported from"
    return _describe_text(head) or (
        "not a known file of weights",
        f"files of the kinds {', '.join(SUFFIXES)} are read, whatever their names",
    )


def _describe_text(head: bytes) -> Description | None:
    """Describes a text file; returns None for a binary one."""
    if MARKUP.match(head):
        return "a web page or an error message of a server, not the file", FETCH
    if b'"weight_map"' in head:
        return "the index of weights that are split over several files", FROM_SHARDS
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # its end may be cut
    except UnicodeDecodeError:
        return None
    if not all(c.isprintable() or c.isspace() for c in text):
        return None
    return f'a text ("{shortened(" ".join(text.split()), 60)}"), not a file of weights', FETCH


# -------------------------------------------------------------------------------------- archives


def _format_of_zip(path: Path) -> WeightFormat:
    """Returns "torch" for a zip archive that torch.save wrote, and refuses all others."""
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a whole file of torch: {reason(error)}; {FETCH}") from error
    last_parts = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last_parts and "constants.pkl" not in last_parts:
        return "torch"
    raise _refusal(path, *_describe_archive(names, last_parts))


def _describe_archive(names: Sequence[str], last_parts: set[str]) -> Description:
    """Describes a zip archive that torch.save did not write.

    Args:
        names: the names of its members.
        last_parts: those names without their folders.
    """
    if "constants.pkl" in last_parts:
        return "a TorchScript program (torch.jit.save)", (
            "load it with torch.jit.load where you trust it and save its state_dict() with "
            "torch.save"
        )
    if "archive_format" in last_parts:
        return "a program of torch.export", (
            "load it with torch.export.load where you trust it and save its state_dict with "
            "torch.save"
        )
    if {"config.json", "model.weights.h5"} <= last_parts:
        return "a model file of Keras already", (
            "predict, evaluate, export and train.initial_weights read it directly"
        )
    if last_parts and all(name.endswith(".npy") for name in last_parts):
        return "an archive of NumPy arrays (.npz)", (
            "save them as .safetensors with safetensors.numpy.save_file"
        )
    return f"a zip archive{_with_names(names)}", UNPACK


# --------------------------------------------------------------------------------------- folders


def _describe_folder(path: Path) -> Description:
    with os.scandir(path) as entries:
        listed = zip(entries, range(MAX_LISTED_ENTRIES), strict=False)
        names = sorted(entry.name for entry, _ in listed)
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return "a distributed checkpoint of PyTorch (FSDP)", (
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} "
            "weights.pth` makes one file of it"
        )
    if "zero_to_fp32.py" in names or any(name.startswith("global_step") for name in names):
        return "a checkpoint of DeepSpeed", (
            "its own zero_to_fp32.py, run in the folder, makes one file of it"
        )
    if any(name.endswith(".index") for name in names) or "saved_model.pb" in names:
        return "a checkpoint or SavedModel of TensorFlow", OF_PYTORCH
    if {"data.pkl", "version"} <= set(names):
        return "an unpacked file of torch.save", FETCH
    weights = [name for name in names if name.endswith(SUFFIXES)]
    return f"a folder{_with_names(weights)}, not a file", "name the file of weights in it"


def _with_names(names: Sequence[str]) -> str:
    """Returns " with a, b, c and 3 more" for names of files, or "" for none."""
    return f" with {first_few([shortened(name, 60) for name in names])}" if names else ""
