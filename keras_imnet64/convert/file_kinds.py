"""Tells what kind of file or folder a path is, by its content, and refuses all that are no weights.

A suffix is not asked: a `.pth.tar` and a `.ckpt` are what `torch.save` writes, and a `.pth` may be
an error page that a server sent. `tensor_files` opens the two kinds that hold weights.
"""

import codecs
import os
import re
import stat
import zipfile
from pathlib import Path

from keras_imnet64.core.errors import UserError, first_few, reason, shortened
from keras_imnet64.core.paths import os_error_text
from keras_imnet64.core.zips import open_zip

SAFETENSORS, TORCH = "safetensors", "torch"
HEAD_BYTES = 4096  # a tar archive says what it is at byte 257, everything else before that
LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
MOST_LISTED = 1000  # entries of a folder or an archive that are looked at
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
FETCH = "fetch the file itself"
UNPACK = "unpack it and name the file of weights in it"
OF_PYTORCH = "weights of torchvision or timm are files of safetensors or torch.save"
FROM_SHARDS = (
    "load them in Python and save the state_dict() of the network as one .safetensors file"
)
FROM_PICKLE = "where you trust it, load it in Python and save its tensors with torch.save"

# Beginning of a file of torch.save that is no zip archive, as all were before torch 1.6.
BEFORE_TORCH_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# What a file begins with, and the byte where that stands: what it is, and what to do.
BEGINNINGS = (
    (
        b"version https://git-lfs",
        0,
        "a pointer of Git LFS to a file, not the file",
        "`git lfs pull` fetches it",
    ),
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file, as Keras writes weights", OF_PYTORCH),
    (b"\x1f\x8b", 0, "packed with gzip", "unpack it with gunzip first"),
    (b"BZh", 0, "packed with bzip2", "unpack it with bunzip2 first"),
    (b"\xfd7zXZ\x00", 0, "packed with xz", "unpack it with unxz first"),
    (b"\x28\xb5\x2f\xfd", 0, "packed with zstd", "unpack it with unzstd first"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", UNPACK),
    (b"Rar!", 0, "a RAR archive", UNPACK),
    (b"ustar", 257, "a tar archive", UNPACK),
    (b"GGUF", 0, "a GGUF file", OF_PYTORCH),
    (b"TFL3", 4, "a TensorFlow Lite model", OF_PYTORCH),
    (b"\x81\xa6params", 0, "a MessagePack file of Flax", OF_PYTORCH),
)
MARKUP = re.compile(rb"\s*<(!doctype|html|\?xml|error)", re.IGNORECASE)
# ir_version (a small number), then the producer, a model version or the graph; ONNX has no magic.
ONNX = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
TENSORFLOW_TABLE = bytes.fromhex("57fb808b247547db")  # the last bytes of an index of variables
TENSORFLOW_NAME = re.compile(r"\.data-\d{5}-of-\d{5}$|\.pb$")
SHARD = re.compile(r"-(\d+)-of-0*([2-9]|[1-9]\d+)\.")


def kind_of(path):
    """SAFETENSORS or TORCH for a file of that kind.

    Raises:
        UserError: the path cannot be read, or is something else, which the message names with what
            to do about it.
    """
    path = Path(path)
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise _refusal(path, *_folder(path))
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
        return SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head.startswith(BEFORE_TORCH_1_6):
        return TORCH
    raise _refusal(path, *_other(path, head, tail))


def _refusal(path, what, remedy):
    return UserError(f"{path} is {what}; {remedy}")


def _unreadable(path, error):
    if isinstance(error, FileNotFoundError) and os.path.exists(f"{path}.index"):
        return _refusal(path, "the name of a TensorFlow checkpoint", OF_PYTORCH)
    return UserError(f"{path} cannot be read: {os_error_text(error, path)}")


# ----------------------------------------------------------------------------------------- files


def _other(path, head, tail):
    """(what it is, what to do) for a file that is neither of the two kinds."""
    if not head:
        return "empty", FETCH
    for beginning, at, what, remedy in BEGINNINGS:
        if head[at:].startswith(beginning):
            return what, remedy
    if tail == TENSORFLOW_TABLE or TENSORFLOW_NAME.search(path.name):
        return "a file of a TensorFlow checkpoint or graph", OF_PYTORCH
    if head[0] == 0x80:  # how every pickle since protocol 2 begins
        return "a pickle that torch.save did not write, and nothing in it was run", FROM_PICKLE
    if ONNX.match(head):
        return "an ONNX model", f"{OF_PYTORCH}: take those that it was exported from"
    return _text(head) or (
        "no file of weights that is known",
        f"files of {', '.join(SUFFIXES)} are read, whatever their names",
    )


def _is_safetensors(head):
    """Whether a file begins as safetensors do: the length of a JSON object, then the object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def _text(head):
    """(what it is, what to do) for a text; None for bytes that are none."""
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


def _kind_of_zip(path):
    """TORCH for what torch.save writes, a zip archive; UserError for all others."""
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a whole file of torch: {reason(error)}; {FETCH}") from error
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last and "constants.pkl" not in last:
        return TORCH
    raise _refusal(path, *_archive(names, last))


def _archive(names, last):
    """(what it is, what to do) for a zip archive of these members that is no state of torch."""
    if "constants.pkl" in last:
        return "a TorchScript program (torch.jit.save)", (
            "load it with torch.jit.load where you trust it and save its state_dict() with "
            "torch.save"
        )
    if "archive_format" in last:
        return "a program of torch.export", (
            "load it with torch.export.load where you trust it and save its state_dict with "
            "torch.save"
        )
    if {"config.json", "model.weights.h5"} <= last:
        return "a model file of Keras already", (
            "predict, evaluate, export and train.initial_weights take it as it is"
        )
    if last and all(name.endswith(".npy") for name in last):
        return "an archive of NumPy arrays (.npz)", (
            "save them as .safetensors with safetensors.numpy.save_file"
        )
    return f"a zip archive{_with(names)}", UNPACK


# --------------------------------------------------------------------------------------- folders


def _folder(path):
    """(what it is, what to do) for a folder."""
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry, _ in zip(entries, range(MOST_LISTED), strict=False))
    found = set(names)
    if ".metadata" in found and any(name.endswith(".distcp") for name in names):
        return "a distributed checkpoint of PyTorch (FSDP)", (
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} "
            "weights.pth` makes one file of it"
        )
    if "zero_to_fp32.py" in found or any(name.startswith("global_step") for name in names):
        return "a checkpoint of DeepSpeed", (
            "its own zero_to_fp32.py, run in the folder, makes one file of it"
        )
    if any(name.endswith(".index") for name in names) or "saved_model.pb" in found:
        return "a checkpoint or SavedModel of TensorFlow", OF_PYTORCH
    if {"data.pkl", "version"} <= found:
        return "an unpacked file of torch.save", FETCH
    weights = [name for name in names if name.endswith(SUFFIXES)]
    return f"a folder{_with(weights)}, not a file", "name the file of weights in it"


def _with(names):
    """ " with a, b and 3 more" for names of files; nothing where there are none."""
    return f" with {first_few([shortened(name, 60) for name in names])}" if names else ""
